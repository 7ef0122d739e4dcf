"""Four parts of the steps alone, which explain what grows faster than its work:

    python -m experiments.benchmarks.growth.parts REPEATS

`decode` is one token of every completion of the base point, by the size of the cache that it
reads. `attention` is that of one layer over prompts of the base point, forward and backward, by
their length. `drawing` is that of one token of every completion from its logits, by the size of the
vocabulary. `products` is those of some tokens with weights that come from memory, by the number of
tokens. What is printed is one line of JSON.
"""

import json
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from experiments.benchmarks.growth.axes import Sizes
from experiments.benchmarks.growth.point import parts_of
from experiments.models import attention, decoding, transformer
from experiments.models.linear import linear, linear_of_few
from experiments.rollout import draw

CACHES = (32, 64, 128, 256, 512, 1024)
LENGTHS = (64, 128, 256, 512, 1024)
VOCABULARIES = (1024, 4096, 16384, 32768)
# In the order of the columns: what a rollout does, what it might do, and the noise in the latter.
DRAWERS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "draw": draw,
    "categorical": jax.random.categorical,
    "noise": lambda key, logits: jax.random.gumbel(key, logits.shape).sum(-1),
}
TOKENS = (8, 32, 128, 512)
_IN, _OUT = 576, 1536  # of the largest weight of a layer of SmolLM2-135M
WEIGHT = _IN * _OUT
# What decoding does, and what passes over whole sequences do; the weight's axes for each.
PRODUCTS: dict[str, tuple[Callable[[jax.Array, jax.Array], jax.Array], tuple[int, int]]] = {
    "few": (linear_of_few, (_OUT, _IN)),
    "many": (linear, (_IN, _OUT)),
}
_WEIGHTS = 30  # 106 MB
_DECODED = 16  # tokens in one call


def decode_seconds(size: int, repeats: int) -> list[float]:
    """CPU seconds of one token of every completion, with room for `size` tokens in the cache."""
    base = Sizes(completion=size)
    model = parts_of(base).model
    params = transformer.init_params(model, jax.random.key(0))
    prompts = jnp.ones((base.prompts, base.prompt), jnp.int32)
    length = jnp.full(base.prompts, base.prompt)
    prefix, _ = transformer.prefill(model, params, prompts, length)
    tokens = jnp.ones((base.prompts, base.group), jnp.int32)

    @jax.jit
    def decode(sources, cache):
        def one(index, carry):
            return decoding.decode(model, sources, carry[1], tokens, index)

        hidden = jnp.zeros((*tokens.shape, model.d_model))
        return jax.lax.fori_loop(0, _DECODED, one, (hidden, cache))[0]

    sources = decoding.prepare(model, params, prefix, size)
    cache = decoding.empty_cache(model, base.prompts, base.group, size)
    return [t / _DECODED for t in _cpu_seconds(lambda: decode(sources, cache), repeats)]


def attention_seconds(length: int, repeats: int) -> list[float]:
    """CPU seconds of attention and its gradient in one layer, over prompts of `length` tokens."""
    base = Sizes()
    model = parts_of(base).model
    heads, width = model.num_heads, model.head_dim
    query = jax.random.normal(jax.random.key(0), (base.prompts, 1, length, heads, 1, width))
    values = jax.random.normal(jax.random.key(1), (base.prompts, 1, heads, length, width))
    keys = jax.random.normal(jax.random.key(2), (base.prompts, 1, heads, width, length))
    steps = jnp.arange(length)
    mask = (steps[:, None] >= steps)[:, None]

    def total(query, keys, values):
        return jnp.sum(jnp.square(attention.attention(query, [(keys, values, mask)])))

    gradient = jax.jit(jax.grad(total, (0, 1, 2)))
    return _cpu_seconds(lambda: gradient(query, keys, values), repeats)


def drawing_seconds(vocabulary: int, drawer: str, repeats: int) -> list[float]:
    """CPU seconds of one of DRAWERS for every completion of the base point."""
    base, key = Sizes(), jax.random.key(0)
    logits = jax.random.normal(jax.random.key(1), (base.prompts, base.group, vocabulary))
    drawn = jax.jit(DRAWERS[drawer])
    return _cpu_seconds(lambda: drawn(key, logits), repeats)


def product_seconds(tokens: int, form: str, repeats: int) -> list[float]:
    """CPU seconds of one product of `tokens` tokens with a weight, by one of PRODUCTS."""
    product, shape = PRODUCTS[form]
    weights = [jax.random.normal(jax.random.key(i), shape) for i in range(_WEIGHTS)]
    x = jax.random.normal(jax.random.key(_WEIGHTS), (tokens, _IN))

    @jax.jit
    def one_after_another(x, weights):
        for weight in weights:
            # Of a part of each product, so that none can be left out or computed before its turn.
            x = x + 1e-9 * product(x, weight)[:, :1]
        return x

    seconds = _cpu_seconds(lambda: one_after_another(x, weights), repeats)
    return [t / _WEIGHTS for t in seconds]


def _cpu_seconds(call: Callable, repeats: int) -> list[float]:
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        jax.block_until_ready(call())
        seconds.append(time.process_time() - start)
    return seconds


def main(arguments: list[str]) -> None:
    """Prints the samples of every part."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    repeats = int(arguments[0])
    decode = [{"cache": n, "cpu_seconds": decode_seconds(n, repeats)} for n in CACHES]
    attention = [{"length": n, "cpu_seconds": attention_seconds(n, repeats)} for n in LENGTHS]
    drawing = []
    for size in VOCABULARIES:
        seconds = {name: drawing_seconds(size, name, repeats) for name in DRAWERS}
        drawing.append({"vocabulary": size, "cpu_seconds": seconds})
    parts = {"decode": decode, "attention": attention, "drawing": drawing}
    parts["products"] = [
        {"tokens": n, "cpu_seconds": {form: product_seconds(n, form, repeats) for form in PRODUCTS}}
        for n in TOKENS
    ]
    print(json.dumps(parts))


if __name__ == "__main__":
    main(sys.argv[1:])
