"""The page of a folder of plans, docs/plan/README.md."""

import json
from collections.abc import Sequence
from pathlib import Path

from experiments.plan import rates
from experiments.plan.estimate import Plan
from experiments.plan.table import plan_tables

_HOW = """\
# Plans for models that do not fit here

Every figure below is of the real rollout and train steps, lowered and compiled for fake CPU devices
with arrays that are only shapes. The page is written by the commands named with each model, from
the JSON beside it.

**Exact or measured**: the state on each device (the shards of its arrays, equal to the arguments of
the compiled program); the bytes of collectives, counted in the partitioned program with the number
of trips of every loop, before later passes of the compiler; the seconds to lower and compile on one
CPU core, beside other work; and the CPU compiler's temporary memory, which says nothing of another
device's: it keeps float32 copies of whole bfloat16 arrays, such as the activations kept by remat.

**Modelled**: everything else. Memory beside the state is the sum of the formulas in
`experiments/plan/memory.py`, FLOP those of `experiments/plan/flops.py` (matrix products only,
masked attention scores included, since they are computed), and seconds those of
`experiments/plan/times.py`, with these assumptions: every completion has all its tokens; matrix
products reach {flops:.0%} of the peak, memory {memory:.0%} and links {links:.0%} of their rates; a
collective takes {latency:.0f} microseconds beside its bytes; rollouts read all weights and all of
the cache for each token and hide no collective; attention scores go through memory as float32
(no fused kernel), 20 passes in all; a ring of devices beyond one H100 node shares the network ports
of its members; a TPU's collectives run along one axis of its torus. Starting a kernel, the reward
and the host's work are left out.

Later passes of the compilers of GPUs and TPUs send less than is counted here: an all-reduce of
gradients of which a device keeps its shard becomes a reduce-scatter, half the bytes; and of the
eight all-reduces of a layer over the tensor axis in a train step, five are the terms of two sums
(the gradients through q, k and v, and through the two of the SwiGLU), which may be merged into two.

| device | bfloat16, TFLOP/s | memory, GB | TB/s | links, GB/s each way | beyond the node | source |
|---|---:|---:|---:|---:|---:|---|
{devices}
"""


def write_page(folder: Path) -> Path:
    """Writes README.md from the *.json of `folder`; returns its path."""
    texts = [
        _HOW.format(
            flops=rates.OF_FLOPS,
            memory=rates.OF_MEMORY_RATE,
            links=rates.OF_LINK_RATE,
            latency=1e6 * rates.LATENCY,
            devices="\n".join(_device_row(device) for device in rates.DEVICES),
        )
    ]
    for path in sorted(folder.glob("*.json")):
        saved = json.loads(path.read_text())
        plans = [Plan(**plan) for plan in saved["plans"]]
        options = plans[0].options
        texts.append(
            f"## {plans[0].name}\n\n    {saved['command']}\n\n"
            f"{options['prompts']} prompts of up to {options['prompt']} tokens x"
            f" {options['group_size']} completions of {options['completion']} tokens;"
            f" {options['dtype']} compute, float32 weights and optimiser state;"
            f" remat {_remat(options)}; fused head.\n\n{plan_tables(plans)}\n"
        )
    page = folder / "README.md"
    page.write_text("\n".join(texts))
    return page


def _remat(options: dict) -> str:
    if not options["remat"]:
        return "off"
    return "on" if options.get("remat_keeps", "nothing") == "nothing" else "on, products kept"


def save_plans(folder: Path, plans: Sequence[Plan], command: str) -> None:
    """Writes the figures of one config as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = {"command": command, "plans": [plan._asdict() for plan in plans]}
    (folder / f"{plans[0].name}.json").write_text(json.dumps(saved, indent=1) + "\n")


def _device_row(device: rates.Device) -> str:
    beyond = f"{device.outer_rate / 1e9:.0f}" if device.island < 1000 else "the same"
    return (
        f"| {device.name} | {device.flops / 1e12:.0f} | {device.memory / 1e9:.0f} |"
        f" {device.memory_rate / 1e12:.2f} | {device.link_rate / 1e9:.0f} | {beyond} |"
        f" {device.source} |"
    )
