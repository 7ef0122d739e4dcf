"""Float64 references, written from the definitions and by enumeration, that import no fade_jax."""

import itertools

import numpy as np


def dr_grpo(r):
    return r - np.mean(r)


def grpo(r, ddof=1, eps=1e-6):
    if r.max() == r.min():
        return np.zeros_like(r)
    return (r - np.mean(r)) / (np.std(r, ddof=ddof) + eps)


def rloo(r):
    return np.array([r[i] - np.mean(np.delete(r, i)) for i in range(len(r))])


def reinforce(r, baseline=0.0):
    return r - baseline


def psr(r):
    return r


def nsr(r):
    return r - 1


def w_reinforce(r, positive_weight=0.1):
    return np.where(r == 1, positive_weight, -1.0)


def asym_grpo(r, delta):
    a = r - np.mean(r)
    return np.array([x if x >= 0 else x / delta for x in a])


def power(r, alpha, scale=1.0):
    return scale * (1 - np.mean(r)) ** (alpha - 1) * (r - np.mean(r))


def fade(r, alpha, delta):
    a = power(r, alpha)
    return np.array([x if x >= 0 else x / delta for x in a])


def masses_by_enumeration(advantage, p, group_size):
    """m_S and m_F as the expectation over all 2^G outcomes of a group."""
    success = failure = 0.0
    for outcome in itertools.product([0.0, 1.0], repeat=group_size):
        r = np.array(outcome)
        probability = np.prod(np.where(r == 1, p, 1 - p))
        a = advantage(r)
        success += probability * np.mean(a * r)
        failure += probability * np.mean(-a * (1 - r))
    return success, failure
