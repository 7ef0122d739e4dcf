"""What the page says beside its figures: how they are measured, and what grows why."""

ABOUT = (
    "Every point is a process of its own on one core: `sample` and `learn` of experiments.program"
    " compile, run once to warm up, and are then repeated. No completion ends early.",
)

FINDINGS: dict[str, tuple[str, ...]] = {}
