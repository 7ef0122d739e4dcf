"""What the page says beside its figures: how they are measured, and what grows why."""

from experiments.benchmarks.growth.fit import LIMIT

ABOUT = (
    "Every point is a process of its own on one core: the programs `sample` and `learn` of"
    " experiments.program are compiled, run once to warm up, and then repeated. No completion ends"
    " early. GFLOP are counted by experiments.plan.flops: matrix products only, masked scores"
    " included. CPU s and s are medians, of the processor's seconds and of the clock's; on an idle"
    " core they are the same. Peak is what the process held beyond one that has compiled and run"
    " and holds no arrays; program is the arguments, outputs and temporaries that the compiler"
    " plans, of all devices together.",
    f"▲ marks a point whose CPU seconds, or planned memory, have grown more than {LIMIT} times as"
    " much as its work since the row above.",
)

FINDINGS: dict[str, tuple[str, ...]] = {}
