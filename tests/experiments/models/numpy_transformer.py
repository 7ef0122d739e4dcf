"""A second transformer, written from the formulas in float64 loops, that shares no code with ours.

One sequence at a time, no cache, no padding; queries take their keys head by head, positions turn
complex numbers.
"""

import numpy as np


def angular_frequencies(config):
    """Radians per position, [head_dim / 2]."""
    wavelengths = [
        2 * np.pi * config.rope_theta ** (2 * i / config.head_dim)
        for i in range(config.head_dim // 2)
    ]
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "yarn":
        wavelengths = [_yarn(config, i, wavelength) for i, wavelength in enumerate(wavelengths)]
    elif scaling is not None:
        wavelengths = [_stretched(wavelength, scaling) for wavelength in wavelengths]
    return 2 * np.pi / np.array(wavelengths)


def _stretched(wavelength, scaling):
    if scaling.kind == "linear":
        return wavelength * scaling.factor
    longest = scaling.original_max_positions / scaling.low_freq_factor
    shortest = scaling.original_max_positions / scaling.high_freq_factor
    if wavelength > longest:
        return wavelength * scaling.factor
    if wavelength < shortest:
        return wavelength
    place = scaling.original_max_positions / wavelength - scaling.low_freq_factor
    place /= scaling.high_freq_factor - scaling.low_freq_factor
    return 1 / ((1 - place) / (scaling.factor * wavelength) + place / wavelength)


def _yarn(config, i, wavelength):
    """Pairs that turn often in the original context keep their wavelength, and others stretch."""
    scaling, d = config.rope_scaling, config.head_dim

    def turning(times):
        return (
            d
            / 2
            * np.emath.logn(config.rope_theta, scaling.original_max_positions / (2 * np.pi * times))
        )

    often, seldom = turning(scaling.beta_fast), turning(scaling.beta_slow)
    if scaling.truncate:
        often, seldom = np.floor(often), np.ceil(seldom)
    often, seldom = max(often, 0), min(seldom, d - 1)
    if often == seldom:
        seldom += 0.001
    stretched = np.interp(i, [often, seldom], [0, 1])
    return 1 / ((1 - stretched) / wavelength + stretched / (scaling.factor * wavelength))


def attention_scale(config):
    """Of cosines and sines."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "yarn":
        return 1
    return scaling.attention_factor or 1 + np.log(scaling.factor) / 10


def hidden_states(config, params, tokens):
    """After the final norm: float64 [len(tokens), D]."""
    params = _float64(params)
    layers = params["layers"]
    x = params["embedding"][np.array(tokens)]
    for i in range(config.num_layers):
        layer = {name: value[i] for name, value in layers.items()}
        x = x + _attend(config, layer, _norm(x, layer["attention_norm"], config))
        y = _norm(x, layer["mlp_norm"], config)
        gate = y @ layer["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ layer["up"])) @ layer["down"]
    return _norm(x, params["final_norm"], config)


def logits(config, params, tokens):
    """float64 [len(tokens), V]."""
    head = _float64(params)["embedding" if config.tied_head else "head"]
    return hidden_states(config, params, tokens) @ head.T


def _float64(params):
    return {
        name: _float64(value) if isinstance(value, dict) else np.asarray(value, np.float64)
        for name, value in params.items()
    }


def _norm(x, scale, config):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * scale


def _attend(config, layer, x):
    length, width = len(x), config.head_dim
    query, key, value = (
        x @ layer[n] + layer.get(f"{n}_bias", 0) for n in ("query", "key", "value")
    )
    shared = config.num_heads // config.num_kv_heads
    turns = attention_scale(config) * np.exp(
        1j * np.arange(length)[:, None] * angular_frequencies(config)
    )
    out = np.zeros((length, config.num_heads * width))
    for head in range(config.num_heads):
        mine = slice(head * width, (head + 1) * width)
        theirs = slice(head // shared * width, (head // shared + 1) * width)
        q = _turned(config, layer, "query_norm", query[:, mine], turns)
        k = _turned(config, layer, "key_norm", key[:, theirs], turns)
        for t in range(length):
            scores = k[: t + 1] @ q[t] / np.sqrt(width)
            weights = np.exp(scores - scores.max())
            out[t, mine] = weights @ value[: t + 1, theirs] / weights.sum()
    return out @ layer["output"]


def _turned(config, layer, norm, x, turns):
    if config.qk_norm:
        x = _norm(x, layer[norm], config)
    half = config.head_dim // 2
    turned = (x[:, :half] + 1j * x[:, half:]) * turns
    return np.concatenate([turned.real, turned.imag], axis=1)
