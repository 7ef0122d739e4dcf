"""The page of a run of the suite, from its results alone."""

import statistics
from collections.abc import Mapping, Sequence

from experiments.perf.flops import DEVICES

NAMES = {
    "ours": "fade_jax",
    "tunix": "google-tunix",
    "torch": "torch",
}
CLOCKS = {"wall": "seconds", "cpu": "cpu_seconds"}


def values(work: Mapping, entry: Mapping, clock: str = "wall") -> list[float]:
    """What each repetition comes to in the unit of the work.

    Args:
      work: of results["works"].
      entry: of results["entries"].
      clock: "wall", or "cpu" for the time that the process itself was running.
    """
    samples = entry[CLOCKS[clock]]
    if work["unit"] == "s":
        return [s / work["steps"] for s in samples]
    return [work["amount"] * work["steps"] / s for s in samples]


def best_peer(work: Mapping, entries: Sequence[Mapping], clock: str = "wall") -> Mapping | None:
    """The fastest of the entries of a work that are not ours; None if there is none."""
    peers = [e for e in entries if e["implementation"] != "ours" and e.get("seconds")]
    better = min if work["unit"] == "s" else max
    return better(peers, key=lambda e: statistics.median(values(work, e, clock)), default=None)


def ratios(
    work: Mapping, entries: Sequence[Mapping], clock: str = "wall"
) -> tuple[float, float] | None:
    """How many times faster we are than the best peer, and our peak over its; None without either.

    Args:
      work: of results["works"].
      entries: those of this work.
      clock: as in `values`.
    """
    ours = next((e for e in entries if e["implementation"] == "ours" and e.get("seconds")), None)
    peer = best_peer(work, entries, clock)
    if ours is None or peer is None:
        return None
    speed = statistics.median(values(work, ours, clock)) / statistics.median(
        values(work, peer, clock)
    )
    if work["unit"] == "s":
        speed = 1 / speed
    return speed, ours["peak_bytes"] / peer["peak_bytes"]


def number(value: float) -> str:
    """Three figures, thousands with a comma."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def cell(work: Mapping, entry: Mapping | None, clock: str = "wall") -> str:
    """One field of the table: median [min, max], peak, and what compiling took."""
    if entry is None:
        return ""
    if not entry.get("seconds"):
        return entry["status"]
    of_work = values(work, entry, clock)
    low, middle, high = min(of_work), statistics.median(of_work), max(of_work)
    compiling = entry["warm_up_s"] - 2 * statistics.median(entry["seconds"])
    text = f"**{number(middle)}** [{number(low)}, {number(high)}]"
    text += f"; {entry['peak_bytes'] / 1e9:.2f} GB"
    if entry.get("device_bytes"):
        text += f", on the device {entry['device_bytes'] / 1e9:.2f} GB"
    return f"{text}; {max(compiling, 0):.0f} s"


def main_table(results: Mapping, clock: str = "wall") -> str:
    """The table of all works, Markdown."""
    columns = results["implementations"]
    lines = [
        f"| work | {' | '.join(NAMES[c] for c in columns)} | times the best peer | its memory |",
        "|---|" + "---|" * len(columns) + "---:|---:|",
    ]
    for work in results["works"]:
        entries = [e for e in results["entries"] if e["work"] == work["name"]]
        of = {e["implementation"]: e for e in entries}
        compared = ratios(work, entries, clock)
        ends = [f"{compared[0]:.2f}", f"{compared[1]:.2f}"] if compared else ["", ""]
        if work["kind"] == "product" and compared:
            ends[1] = ""
        cells = [cell(work, of.get(c), clock) for c in columns]
        lines.append(f"| {work['title']}, {work['unit']} | {' | '.join([*cells, *ends])} |")
    return "\n".join(lines)


def fractions(results: Mapping, clock: str = "wall") -> str:
    """How near our products come to what the device can do, a line for each work with FLOP."""
    entries = {(e["work"], e["implementation"]): e for e in results["entries"] if e.get("seconds")}
    product = entries.get(("product", "ours"))
    lines = []
    for work in results["works"]:
        entry = entries.get((work["name"], "ours"))
        if entry is None or "flop" not in entry["notes"]:
            continue
        rate = entry["notes"]["flop"] / statistics.median(entry[CLOCKS[clock]])
        peak, name = _peak(entry["notes"], product, results["works"], clock)
        if peak:
            lines.append(f"| {work['title']} | {rate / 1e9:,.0f} | {rate / peak:.0%} of {name} |")
    if not lines:
        return ""
    return "\n".join(["| work | GFLOP/s | fraction |", "|---|---:|---:|", *lines])


def _peak(notes: Mapping, product: Mapping | None, works: Sequence[Mapping], clock: str):
    """FLOP/s to compare with, and what they are of."""
    kind = notes["device"].lower()
    for device in DEVICES:
        if device.name.lower().removesuffix(" sxm") in kind:
            return device.flops, f"the bfloat16 peak of {device.name}"
    if product is None:
        return None, ""
    work = next(w for w in works if w["name"] == "product")
    rate = statistics.median(values(work, product, clock)) * 1e9
    return rate, "the product of the first row"


def sweep_table(sweep: Mapping) -> str:
    """The table of the sweep, Markdown.

    Each row has the seconds of all runs, their ratio to those of pure steps, and how many steps a
    run must have for a ratio of 1.1, if what is beside the steps does not grow with them.
    """
    pure = sweep["runs"] * sweep["steps"] * sweep["step_s"]
    lines = [
        f"| {sweep['runs']} runs of {sweep['steps']} steps | seconds | over pure step time |"
        " at most 1.1 with |",
        "|---|---:|---:|---:|",
        f"| pure steps, {1000 * sweep['step_s']:.0f} ms each | {pure:.1f} | 1 | |",
    ]
    for mode in sweep["modes"]:
        if mode.get("seconds") is None:
            lines.append(f"| {mode['title']} | {mode['status']} | | |")
            continue
        enough = (mode["seconds"] - pure) / (0.1 * sweep["runs"] * sweep["step_s"])
        lines.append(
            f"| {mode['title']} | {mode['seconds']:.1f} | {mode['seconds'] / pure:.2f} |"
            f" {max(enough, 0):,.0f} steps |"
        )
    return "\n".join(lines)


def page(results: Mapping, clock: str = "wall") -> str:
    """The whole page, Markdown."""
    machine = results["machine"]
    one_core = machine["pinned_to"] is not None
    where = "every process pinned to one core" if one_core else "processes not pinned"
    parts = [
        f"# Benchmarks on {results['device']}",
        f"    {results['command']}",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB; {where},"
        f" one thread, float32; {machine['system']}, Python {machine['python']};"
        f" {results['when']}. Load average at the start: {machine['load_at_start']}.",
        f"Median [lowest, highest] of {results['repeats']} repetitions after two that warm up, by"
        f" {'the wall clock' if clock == 'wall' else 'the CPU time of the process'}; the peak of"
        " resident memory in the repetitions; the seconds that compiling took before. The"
        " implementations do their repetitions in turn. The last columns compare us with the"
        " fastest of the peers: above 1 in speed, below 1 in memory, is better.",
    ]
    if results["works"]:
        parts.append(main_table(results, clock))
    flops = fractions(results, clock)
    if flops:
        parts += ["Our matrix products, counted by `experiments/plan/flops.py`:", flops]
    if results.get("sweep"):
        parts += [
            "The sweep, one time each: the graph task at the sizes of `configs/graph.py`, no warm"
            " start, a small evaluation at the end.",
            sweep_table(results["sweep"]),
        ]
    parts += ["## What is compared", COMPARED, "## Versions", _versions(results)]
    return "\n\n".join(parts) + "\n"


COMPARED = """\
- **Rollout**: prompts of full length, completions that never end early, temperature 1; new tokens
  are counted. We and google-tunix return the log-probabilities of the sampled tokens, we their
  exact entropies too; transformers does not, TRL computes them later. No process holds the state
  of an optimiser; ours holds the head before training, which a run keeps.
- **Policy-gradient step**: clipped surrogate loss, gradients, AdamW, the norm of the gradient; all
  tokens are counted, those of prompts too, of every sequence. The peers compute the exact entropy
  in the step; ours is there from sampling.
- **Grouped rows**: the peers repeat the prompt for every rollout, which is the same work as with
  distinct prompts: it is timed once, and stands in all rows. We read each prompt once.
- **Products kept**: `config.model.remat_keeps = "products"`, ours only: it
  keeps more for the backward pass and multiplies less there.
- **Ours** is what a run does: `experiments.experiment.make_program`, donated buffers, every
  field of the config at its default, `model.remat` (activations computed anew in the backward
  pass) among them; but in the updates `learner.head_rank`, a reading that the peers do not take and
  for which a run holds the output head twice, is off. On a CPU the program asks XLA for oneDNN
  products where
  a float32 model of some width updates; the first row and the head are XLA's own.
- **torch** is transformers' Llama and TRL's losses; compiled or not, cache growing or static, TRL's
  fused head or its plain one, whichever is fastest here; results.json names it. The whole step is
  TRL's GRPOTrainer without a generation backend.
- **google-tunix** is its llama3 with tied weights, its Sampler, the loss and the train step of its
  GRPOLearner, and that learner for the whole step. Its llama3 ignores `rope_theta`.
- **Whole RL step**: sampling, a reward that looks at the first token, advantages, update."""


def _versions(results: Mapping) -> str:
    lines = ["| implementation | versions |", "|---|---|"]
    for name in results["implementations"]:
        entry = next(
            (e for e in results["entries"] if e["implementation"] == name and e.get("versions")),
            None,
        )
        if entry is not None:
            text = ", ".join(f"{k} {v}" for k, v in entry["versions"].items())
            lines.append(f"| {NAMES[name]} | {text} |")
    return "\n".join(lines)
