"""Plans as Markdown tables, one column for each mesh."""

from collections.abc import Sequence

import pandas as pd

from experiments.plan import rates
from experiments.plan.estimate import Plan

_GB, _TERA = 1e9, 1e12


def plan_tables(plans: Sequence[Plan]) -> str:
    """The tables of the plans of one config.

    Args:
      plans: of one config, one for each mesh.
    """
    head = ("", *(mesh_name(plan) for plan in plans))
    sections = (
        ("Memory of one device, GB", _memory_rows(plans)),
        ("Work of one device in one step", _work_rows(plans)),
        ("Bytes that one device sends in one step, GB", _collective_rows(plans)),
        ("Predicted seconds of one step", _second_rows(plans)),
    )
    return "\n\n".join(
        f"{title}:\n\n{_as_markdown(pd.DataFrame(rows, columns=head))}" for title, rows in sections
    )


def _as_markdown(table: pd.DataFrame) -> str:
    aligned = ["left", *["right"] * (table.shape[1] - 1)]
    return table.to_markdown(index=False, disable_numparse=True, colalign=aligned)


def mesh_name(plan: Plan) -> str:
    """`64 devices: data 1, fsdp 16, tensor 4; 4 microbatches`."""
    count = 1
    for size in plan.mesh.values():
        count *= size
    axes = ", ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    return f"{count} devices: {axes}; {plan.options['microbatches']} microbatches"


def peak_bytes(plan: Plan) -> float:
    """The larger of the rollout step and the train step, with the state."""
    needed = max(sum(plan.learning.values()), sum(plan.sampling.values()))
    return sum(plan.resident.values()) + needed


def _row(label: str, plans: Sequence[Plan], value, scale: float = _GB) -> tuple[str, ...]:
    return (label, *(_number(value(plan) / scale) for plan in plans))


def _rows(labels: Sequence[str], plans: Sequence[Plan], value, scale: float = _GB) -> list:
    """A row for each pair of a key and a label; value(plan, key)."""
    return [_row(label, plans, lambda p, k=key: value(p, k), scale) for key, label in labels]


def _number(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


_STEPS = (("sample", "rollout"), ("learn", "train"))
_RESIDENT = (
    ("weights", "weights, float32 (exact)"),
    ("optimizer", "optimiser state (exact)"),
    ("rest", "head before RL and small states (exact)"),
)
_LEARNING = (
    ("gradients", "train step: gradients"),
    ("residuals", "train step: activations kept by remat"),
    ("layer", "train step: the layer at hand"),
    ("attention", "train step: scores of a block of queries"),
    ("head", "train step: head, chunks of logits"),
)
_SAMPLING = (
    ("copy", "rollout step: copy of the weights, whole over fsdp"),
    ("apart", "rollout step: the layers apart, for decoding"),
    ("cache", "rollout step: cache of keys and values"),
    ("logits", "rollout step: logits"),
)
_SECONDS = (
    ("prefill", "rollout: prompts"),
    ("decode", "rollout: decoding"),
    ("sample_collectives", "rollout: collectives"),
    ("products", "train: products"),
    ("scores", "train: attention scores through memory"),
    ("learn_collectives", "train: collectives"),
    ("rollout", "**rollout step**"),
    ("learn", "**train step**, nothing overlapped"),
    ("learn_overlapped", "**train step**, collectives overlapped"),
)


def _memory_rows(plans: Sequence[Plan]) -> list[tuple[str, ...]]:
    rows = _rows(_RESIDENT, plans, lambda p, key: p.resident[key])
    arguments = "arguments of the compiled train step (measured)"
    rows.append(_row(arguments, plans, lambda p: p.compiled["learn"]["arguments"]))
    rows += _rows(_LEARNING, plans, lambda p, key: p.learning[key])
    rows += _rows(_SAMPLING, plans, lambda p, key: p.sampling[key])
    rows.append(_row("**peak** (modelled)", plans, peak_bytes))
    for device in rates.DEVICES:
        filled = [f"{100 * peak_bytes(p) / device.memory:.0f}%" for p in plans]
        rows.append((f"of the memory of one {device.name}", *filled))
    labels = [
        (step, f"{label} step: temporary, compiler for CPU (measured)") for step, label in _STEPS
    ]
    return rows + _rows(labels, plans, lambda p, step: p.compiled[step]["temporary"])


def _work_rows(plans: Sequence[Plan]) -> list[tuple[str, ...]]:
    parts = ("projections", "attention", "head")
    labels = [((s, part), f"{label} step: {part}, TFLOP") for s, label in _STEPS for part in parts]
    rows = _rows(labels, plans, lambda p, key: p.flops[key[0]][key[1]], _TERA)
    labels = [(step, f"{label} step: seconds to compile, one CPU core") for step, label in _STEPS]
    return rows + _rows(labels, plans, lambda p, step: p.compiled[step]["seconds"], 1)


def _collective_rows(plans: Sequence[Plan]) -> list[tuple[str, ...]]:
    labels = [
        ((step, kind), f"{label} step: {kind}")
        for step, label in _STEPS
        for kind in plans[0].collectives[step]
        if any(p.collectives[step][kind] >= 1e6 for p in plans)
    ]
    return _rows(labels, plans, lambda p, key: p.collectives[key[0]][key[1]])


def _second_rows(plans: Sequence[Plan]) -> list[tuple[str, ...]]:
    labels = [
        ((device.name, key), f"{device.name}, {label}")
        for device in rates.DEVICES
        for key, label in _SECONDS
    ]
    return _rows(labels, plans, lambda p, key: p.seconds[key[0]][key[1]], 1)
