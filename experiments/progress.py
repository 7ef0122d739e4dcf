"""How a run shows its progress: a bar with the figures that matter."""

from collections.abc import Mapping
from typing import Protocol

from tqdm import tqdm

SHOWN = {
    "reward": "reward",
    "entropy": "entropy",
    "alpha": "alpha",
    "delta": "delta",
    "loss": "loss",
    "eval/pass@1": "pass@1",
    "tokens_per_second": "tok/s",
}


class Progress(Protocol):
    """What a run reports to."""

    def start(self, name: str, step: int, total: int) -> None:
        """A stage begins, or goes on, at `step` of `total`."""

    def update(self, step: int, line: Mapping[str, object]) -> None:
        """The newest line of metrics."""

    def finish(self) -> None:
        """The stage has ended."""


def figures(line: Mapping[str, object]) -> dict[str, str]:
    """The figures of a metrics line that a bar shows."""
    return {
        short: f"{value:.3g}"
        for name, short in SHOWN.items()
        if isinstance(value := line.get(name), (int, float)) and value == value
    }


class Bar:
    """A progress bar on the terminal."""

    def __init__(self, prefix: str = ""):
        self._prefix = prefix
        self._bar = None
        self._figures: dict[str, str] = {}

    def start(self, name: str, step: int, total: int) -> None:
        """Shows the bar."""
        self._figures = {}
        self._bar = tqdm(
            total=total,
            initial=step,
            desc=f"{self._prefix} {name}".strip(),
            unit="step",
            dynamic_ncols=True,
        )

    def update(self, step: int, line: Mapping[str, object]) -> None:
        """Moves the bar to `step`; figures stay until there are newer ones."""
        self._figures |= figures(line)
        self._bar.set_postfix(self._figures, refresh=False)
        self._bar.update(step - self._bar.n)

    def finish(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()


class Silent:
    """Shows nothing."""

    def start(self, name: str, step: int, total: int) -> None:
        """Nothing."""

    def update(self, step: int, line: Mapping[str, object]) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""
