"""The tables: every point of an axis, and the exponents of all axes."""

import math
import statistics
from collections.abc import Sequence

from experiments.benchmarks.growth.axes import HEAD_WIDTH, Axis, Sizes
from experiments.benchmarks.growth.parts import WEIGHT
from experiments.benchmarks.growth.series import STEPS, series
from experiments.models.attention import query_blocks
from experiments.report.table import Table

MARK = " ▲"
_FLOAT32 = 4


def points_table(axis: Axis, records: Sequence[dict], step: str) -> Table:
    """A row for each point: work, seconds and memory of one step."""
    one = series(axis, records, step)
    head = (
        axis.title,
        "GFLOP",
        "CPU s",
        "s",
        "GFLOP / CPU s",
        "peak, MB",
        "program, MB",
        "compile, CPU s",
    )
    rows = []
    for i, value in enumerate(one.values):
        rate = one.work[i] / one.cpu_seconds[i] / 1e9
        rows.append(
            (
                str(value),
                _figure(one.work[i] / 1e9),
                _figure(one.cpu_seconds[i]) + MARK * one.slow[i],
                _figure(one.seconds[i]),
                _figure(rate),
                _figure(one.peak[i] / 1e6),
                _figure(one.program[i] / 1e6) + MARK * one.large[i],
                _figure(one.compile_seconds[i]),
            )
        )
    return Table(head, tuple(rows), f"The {STEPS[step]}.")


def exponents_table(axes: Sequence[Axis], records: dict[str, list[dict]]) -> Table:
    """A row for each axis and step."""
    rows, head = [], ("axis", "step")
    for axis in axes:
        for step, name in STEPS.items():
            found = series(axis, records[axis.name], step).exponents()
            head = ("axis", "step", *found)
            rows.append((axis.title, name, *(_exponent(value) for value in found.values())))
    caption = (
        "Slopes of least-squares lines through the logarithms: 1 is in proportion, 2 is the square."
        " Time: of the processor. Memory: as the compiler plans it. – where the work does not vary."
    )
    return Table(head, tuple(rows), caption)


def decode_table(records: Sequence[dict]) -> Table:
    """Time of one decoded token by the size of the cache."""
    base = Sizes()
    # Keys and values of every layer, as wide as the model, for every completion.
    slot = 2 * base.layers * base.width * base.prompts * base.group * _FLOAT32
    rows = []
    for record in records:
        size, seconds = record["cache"], statistics.median(record["cpu_seconds"])
        cells = size, 1e3 * seconds, size * slot / 1e6, size * slot / seconds / 1e9
        rows.append(tuple(map(_figure, cells)))
    head = ("room of the cache, tokens", "CPU ms a token", "cache, MB", "GB/s, were it read once")
    caption = f"One token of all {base.prompts * base.group} completions of the base point."
    return Table(head, tuple(rows), caption)


def attention_table(records: Sequence[dict]) -> Table:
    """Time of attention and its gradient by the length of the prompts."""
    base = Sizes()
    heads = base.width // HEAD_WIDTH
    rows = []
    for record in records:
        length, seconds = record["length"], statistics.median(record["cpu_seconds"])
        scores = base.prompts * heads * length**2
        # Two products forward, four backward; in blocks of queries the forward ones once more.
        products = 3 + (query_blocks(length) > 1)
        rate = 4 * HEAD_WIDTH * scores * products / seconds / 1e9
        cells = length, 1e3 * seconds, 1e9 * seconds / scores, rate, _FLOAT32 * scores / 1e6
        rows.append(tuple(map(_figure, cells)))
    head = ("prompt length", "CPU ms", "ns a score", "GFLOP / CPU s", "one array of scores, MB")
    caption = (
        "Attention of one layer over the prompts of the base point, forward and backward. Longer"
        " prompts go through it in blocks of queries, which hold a part of the scores at a time."
    )
    return Table(head, tuple(rows), caption)


def drawing_table(records: Sequence[dict]) -> Table:
    """Time of drawing one token by the size of the vocabulary."""
    base = Sizes()
    rows = []
    for record in records:
        logits = base.prompts * base.group * record["vocabulary"]
        medians = [statistics.median(samples) for samples in record["cpu_seconds"].values()]
        cells = (record["vocabulary"], *(1e9 * seconds / logits for seconds in medians))
        rows.append(tuple(map(_figure, (*cells, medians[1] / medians[0]))))
    head = (
        "vocabulary",
        "rollout.draw, ns a logit",
        "jax.random.categorical, ns a logit",
        "the noise alone, ns a logit",
        "categorical by draw",
    )
    caption = (
        f"One token of all {base.prompts * base.group} completions of the base point, drawn from"
        " its logits."
    )
    return Table(head, tuple(rows), caption)


def products_table(records: Sequence[dict]) -> Table:
    """Rate of a product with a weight by the number of tokens."""
    rows = []
    for record in records:
        flop = 2 * record["tokens"] * WEIGHT
        few, many = (statistics.median(samples) for samples in record["cpu_seconds"].values())
        cells = record["tokens"], flop / few / 1e9, flop / many / 1e9, many / few
        rows.append(tuple(map(_figure, cells)))
    head = (
        "tokens",
        "weight on the left, GFLOP / CPU s",
        "on the right, GFLOP / CPU s",
        "right by left, time",
    )
    caption = (
        "The product of some tokens with a weight of 576 x 1536, as large as the largest of a layer"
        " of SmolLM2-135M, one of 30 in turn, so that each comes from memory. Decoding has the"
        " weight on the left, passes over whole sequences have it on the right."
    )
    return Table(head, tuple(rows), caption)


def _figure(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _exponent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
