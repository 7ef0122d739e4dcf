"""Attention to a prompt and to a sequence itself, in float64 loops, and its gradients."""

import jax.numpy as jnp
import numpy as np


def inputs(prompts, group, count, heads, shared, width, start=0, seed=0):
    """Query, key and value, then key, value and lengths of prompts of `start` tokens or None."""
    rng = np.random.default_rng(seed)
    tokens = prompts, group, count, heads

    def draw(*shape):
        # What bfloat16 holds, as float64.
        return np.float64(np.asarray(rng.normal(size=shape), jnp.bfloat16))

    own = draw(*tokens, shared, width) * 0.5, draw(*tokens, width), draw(*tokens, width)
    if not start:
        return own, None
    length = rng.integers(1, start + 1, prompts).astype(np.int32)
    length[0] = start
    prompt = (draw(prompts, 1, start, heads, width) for _ in range(2))
    return own, (*prompt, length)


def softmax_attention(own, prompt, gradient):
    """Output and gradients of every input in float64, one query head after another.

    Queries go in blocks of 512, so that no array has all scores.
    """
    query, key, value = own
    prompts, group, count, heads, shared, width = query.shape
    start = 0 if prompt is None else prompt[0].shape[2]
    out, to_query = np.zeros_like(query), np.zeros_like(query)
    to_own = [np.zeros_like(key), np.zeros_like(value)]
    to_prompt = [] if prompt is None else [np.zeros_like(x) for x in prompt[:2]]
    for p, g, h in np.ndindex(prompts, group, heads):
        length = 0 if prompt is None else prompt[2][p]
        before = [] if prompt is None else [x[p, 0, :length, h] for x in prompt[:2]]
        keys, values = (
            np.concatenate([*before[i : i + 1], x[p, g, :, h]]) for i, x in enumerate((key, value))
        )
        to_keys, to_values = np.zeros_like(keys), np.zeros_like(values)
        for r in range(shared):
            for first in range(0, count, 512):
                rows = np.arange(first, min(first + 512, count))
                q, d = query[p, g, rows, h, r], gradient[p, g, rows, h, r]
                seen = length + rows[-1] + 1
                scores = q @ keys[:seen].T
                scores[np.arange(seen) > length + rows[:, None]] = -np.inf
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                weights /= weights.sum(-1, keepdims=True)
                out[p, g, rows, h, r] = weights @ values[:seen]
                to_weights = d @ values[:seen].T
                mean = (weights * to_weights).sum(-1, keepdims=True)
                to_scores = weights * (to_weights - mean)
                to_query[p, g, rows, h, r] = to_scores @ keys[:seen]
                to_keys[:seen] += to_scores.T @ q
                to_values[:seen] += weights.T @ d
        for i, x in enumerate((to_keys, to_values)):
            to_own[i][p, g, :, h] += x[length:]
            if start:
                to_prompt[i][p, 0, :length, h] += x[:length]
    return out, [to_query, *to_own, *to_prompt]
