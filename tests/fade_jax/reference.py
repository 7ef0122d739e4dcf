"""Float64 references from definitions and by enumeration, independent of fade_jax."""

import itertools
from functools import lru_cache
from math import comb

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


def f_grpo(r, gamma):
    return (1 - np.mean(r)) ** gamma * grpo(r)


def a_grae(r, omega, threshold=1.0):
    z, p = grpo(r), np.mean(r)
    if p in (0, 1):
        return z
    a = (omega * z / np.sqrt(p) + (1 - omega) * z / np.sqrt(1 - p)) / 2
    return np.array([x * min(1, omega / threshold) if x > 0 else x for x in a])


def max_rl(r):
    return (r - np.mean(r)) / np.mean(r) if np.mean(r) > 0 else 0 * r


def tempered_likelihood(r, beta):
    return (r - np.mean(r)) / np.mean(r) ** beta if np.mean(r) > 0 else 0 * r


def log_mean_exp(r, beta):
    return (np.exp(beta * r) / np.mean(np.exp(beta * r)) - 1) / beta


def mean_best(values, k):
    return np.mean([max(subset) for subset in itertools.combinations(values, k)])


def pkpo(r, k, baseline="loo_minus_one"):
    """Enumerates all subsets; times the group size for the mean convention."""
    return np.array(_pkpo(tuple(r), k, baseline))


@lru_cache(10_000)
def _pkpo(r, k, baseline):
    r = np.array(r)
    n, result = len(r), []
    for i in range(n):
        with_i = [s for s in itertools.combinations(range(n), k) if i in s]
        total = sum(max(r[list(s)]) for s in with_i) / comb(n, k)
        others = np.delete(r, i)
        if baseline == "loo":
            total -= k / (n - 1) * mean_best(others, k)
        if baseline == "loo_minus_one" and k > 1:
            total -= k / n * mean_best(others, k - 1)
        result.append(n * total)
    return result


def pass_at_k_training(r, k):
    """Standardizes the best reward of all k-subsets and averages it by member."""
    subsets = list(itertools.combinations(range(len(r)), k))
    best = np.array([max(r[list(s)]) for s in subsets])
    if best.max() == best.min():
        return 0 * r
    standardized = (best - best.mean()) / best.std()
    members = np.array([[i in s for s in subsets] for i in range(len(r))])
    return members @ standardized / members.sum(1)


def leave_one_out_pass_at_g(r):
    return np.array([r.max() - np.delete(r, i).max() for i in range(len(r))])


def quantile(r, level, standardize=True):
    above = r - np.sort(r)[int(np.ceil(round(level * len(r), 9))) - 1]
    if not standardize:
        return above
    return above / (np.std(r, ddof=1) + 1e-6) if r.max() > r.min() else 0 * r


def opo(r):
    lengths = 2 + 3 * r
    return r - np.sum(lengths * r) / np.sum(lengths)


def synthesized_pass_at_2(r):
    """The minimum-variance split of h = 2q over a uniform density."""
    n, result = len(r), []
    for i in range(n):
        others = r.sum() - r[i]
        b = 2 * (n - 1 - others) / (n - 1)
        share = (n - others) / (n + 1) if r[i] == 1 else (others + 1) / (n + 1)
        result.append(b * share if r[i] == 1 else -b * share)
    return np.array(result)


def reinforce_plus_plus(batch):
    if batch.max() == batch.min():
        return 0 * batch
    return (batch - batch.mean()) / (batch.std() + 1e-6)


def gpg(batch):
    varied = sum(r.max() > r.min() for r in batch)
    return len(batch) / max(varied, 1) * np.stack([dr_grpo(r) for r in batch])


def masses_by_enumeration(advantage, p, group_size):
    """Returns m_S and m_F as expectations over all 2^G outcomes of a group."""
    success = failure = 0.0
    for outcome in itertools.product([0.0, 1.0], repeat=group_size):
        r = np.array(outcome)
        probability = np.prod(np.where(r == 1, p, 1 - p))
        a = advantage(r)
        success += probability * np.mean(a * r)
        failure += probability * np.mean(-a * (1 - r))
    return success, failure
