"""How runs show their progress: bars with the figures that matter."""

from collections.abc import Callable, Mapping
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


class Reporter:
    """A Progress of one run of a sweep, which tells of every step: (run, step, figures)."""

    def __init__(self, run: str, tell: Callable[[str, int, dict[str, str]], None]):
        self._run, self._tell = run, tell

    def start(self, name: str, step: int, total: int) -> None:
        """Tells where the run goes on."""
        self._tell(self._run, step, {})

    def update(self, step: int, line: Mapping[str, object]) -> None:
        """Tells the newest figures."""
        self._tell(self._run, step, figures(line))

    def finish(self) -> None:
        """Nothing: the end of a stage is not yet the end of the run."""


class Board:
    """A sweep on the terminal: one bar for all its steps, and one for each run under way."""

    _MOST_LINES = 8

    def __init__(self, totals: Mapping[str, int]):
        """Shows the bar of the sweep.

        Args:
          totals: steps of each job by name.
        """
        self._totals, self._width = dict(totals), max(map(len, totals), default=0)
        self._steps = dict.fromkeys(totals, 0)
        self._done: set[str] = set()
        self._figures: dict[str, dict[str, str]] = {}
        self._lines: dict[str, tqdm] = {}
        self._free: list[tqdm] = []
        self._all = tqdm(total=sum(totals.values()), unit="step", dynamic_ncols=True)
        self._count()

    def update(self, name: str, step: int, shown: Mapping[str, str]) -> None:
        """Moves a job to `step`; its figures stay until there are newer ones."""
        self._all.update(step - self._steps[name])
        self._steps[name] = step
        self._figures[name] = self._figures.get(name, {}) | dict(shown)
        line = self._line(name)
        if line is not None:
            line.set_postfix(self._figures[name], refresh=False)
            line.update(step - line.n)

    def done(self, name: str) -> None:
        """A job has ended; its line is free for another."""
        self._all.update(self._totals[name] - self._steps[name])
        self._steps[name] = self._totals[name]
        self._done.add(name)
        self._count()
        line = self._lines.pop(name, None)
        if line is not None:
            self._free.append(line)

    def close(self) -> None:
        """Leaves the bars as they are."""
        for bar in (*self._lines.values(), *self._free, self._all):
            bar.close()

    def _count(self) -> None:
        self._all.set_description(f"{len(self._done)} of {len(self._totals)} done".ljust(10))

    def _line(self, name: str) -> tqdm | None:
        if name in self._lines:
            return self._lines[name]
        if self._free:
            line = self._free.pop()
            line.reset(self._totals[name])
        elif len(self._lines) < self._MOST_LINES:
            line = tqdm(total=self._totals[name], unit="step", dynamic_ncols=True, leave=False)
        else:
            return None
        line.set_description(name.ljust(self._width), refresh=False)
        self._lines[name] = line
        return line
