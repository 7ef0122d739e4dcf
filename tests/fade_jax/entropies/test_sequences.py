"""Sequence entropies against exact enumeration, and token entropy by outcome and solve rate."""

import itertools

import numpy as np
import pytest

from fade_jax import entropies


@pytest.fixture(scope="module")
def tree():
    """A policy over sequences of 3 tokens out of 3, where token 2 ends the sequence."""
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.ones(3), size=(3, 3))  # [position, token before]

    def next_token(prefix):
        return table[len(prefix), prefix[-1] if prefix else 0]

    return next_token


def answers(next_token):
    """Every answer with its probability."""
    for sequence in itertools.product(range(3), repeat=3):
        stop = sequence.index(2) + 1 if 2 in sequence else 3
        if any(token != 0 for token in sequence[stop:]):
            continue  # one representative of each finished prefix
        prefix = sequence[:stop]
        yield prefix, np.prod([next_token(prefix[:i])[prefix[i]] for i in range(stop)])


def sample(next_token, rng, count):
    log_probs, token_entropies = np.zeros((2, count, 3))
    where = np.zeros((count, 3), bool)
    for i in range(count):
        prefix = ()
        while len(prefix) < 3 and (not prefix or prefix[-1] != 2):
            p = next_token(prefix)
            token = rng.choice(3, p=p)
            t = len(prefix)
            where[i, t] = True
            log_probs[i, t] = np.log(p[token])
            token_entropies[i, t] = -(p * np.log(p)).sum()
            prefix = (*prefix, token)
    return log_probs, token_entropies, where


def test_sequence_entropy_unbiased(tree):
    probabilities = np.array([p for _, p in answers(tree)])
    np.testing.assert_allclose(probabilities.sum(), 1)
    exact = -(probabilities * np.log(probabilities)).sum()
    log_probs, token_entropies, where = sample(tree, np.random.default_rng(1), 6000)
    sampled = entropies.sampled_sequence_entropy(log_probs, where)
    averaged = entropies.sequence_entropy(token_entropies, where)
    for estimate in (sampled, averaged):
        assert abs(estimate.mean - exact) < 4 * estimate.standard_error
    assert averaged.standard_error < 0.8 * sampled.standard_error
    sums = (token_entropies * where).sum(-1)
    np.testing.assert_allclose(averaged.mean, sums.mean(), rtol=1e-5)
    np.testing.assert_allclose(averaged.standard_error, sums.std(ddof=1) / np.sqrt(6000), rtol=1e-4)


def test_mean_estimate_standard_error():
    values = np.random.default_rng(0).gamma(2.0, size=(5, 8, 3))
    by_prompt = entropies.sequence_entropy(values)
    assert by_prompt.mean.shape == (5,)
    whole = entropies.mean_estimate(by_prompt)
    np.testing.assert_allclose(whole.mean, values.sum(-1).mean(), rtol=1e-5)
    errors = values.sum(-1).std(-1, ddof=1) / np.sqrt(8)
    np.testing.assert_allclose(whole.standard_error, np.sqrt((errors**2).sum()) / 5, rtol=1e-4)


def test_sequence_entropy_masked():
    values = np.random.default_rng(0).gamma(2.0, size=(6, 3))
    where = np.ones((6, 3), bool)
    where[4:] = False
    garbage = np.where(where, values, np.nan)
    masked = entropies.sequence_entropy(garbage, where)
    np.testing.assert_allclose(masked, entropies.sequence_entropy(values[:4]), rtol=1e-6)
    assert np.all(np.isfinite(entropies.sequence_entropy(garbage, np.zeros((6, 3)))))


def test_entropy_by_outcome_and_solve_rate():
    rng = np.random.default_rng(0)
    values, where = rng.random((6, 4, 5)), rng.random((6, 4, 5)) > 0.3
    where[..., 0] = True
    rewards = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1] * 4, [0] * 4])
    outcome = entropies.entropy_by_outcome(values, rewards, where)
    np.testing.assert_allclose(outcome.success, values[where & (rewards == 1)[..., None]].mean())
    np.testing.assert_allclose(
        outcome.failure, values[where & (rewards == 0)[..., None]].mean(), rtol=1e-5
    )
    by_bin = entropies.entropy_by_solve_rate(values, rewards, where, num_bins=3)
    for i, groups in enumerate([[0, 1, 5], [2], [3, 4]]):
        np.testing.assert_allclose(by_bin[i], values[groups][where[groups]].mean(), rtol=1e-5)
    assert np.isnan(entropies.entropy_by_outcome(values, np.zeros((6, 4)), where).success)
    assert np.isnan(entropies.entropy_by_solve_rate(values, np.zeros((6, 4)), where)[9])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: entropies.entropy_by_outcome(np.ones((2, 3, 4)), np.ones((3,))), "rewards"),
        (
            lambda: entropies.entropy_by_solve_rate(
                np.ones((2, 3, 4)), np.ones((2, 3)), num_bins=0
            ),
            "num_bins",
        ),
        (lambda: entropies.sequence_entropy(np.ones((2, 3)), np.ones(3)), "where"),
    ],
)
def test_sequences_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
