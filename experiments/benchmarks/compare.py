"""All implementations at one work: fresh processes that take turns."""

import signal
from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments.benchmarks.processes import Worker, WorkerError
from experiments.benchmarks.works import Work


class Contender(NamedTuple):
    """An implementation that can be timed.

    Attributes:
      name: as in results.json.
      python: that has its packages; None if it is not here.
      module: of experiments.benchmarks, its worker.
      status: why it is not timed, if python is None.
    """

    name: str
    python: str | None
    module: str
    status: str = "not installed"

    def work(self, work: Work) -> Work:
        """What it is given for a row of the table."""
        return work if self.name == "ours" else work.peers_work


class Race:
    """The processes of one family of works, and what they have answered."""

    def __init__(self, core: int | None, tell: Callable[[str], None]):
        self._core, self._tell = core, tell
        self._workers: dict[tuple[str, str], Worker] = {}
        self._variant: dict[str, str] = {}
        self.entries: dict[tuple[str, str], dict] = {}

    def add(self, contender: Contender, work: Work) -> None:
        """Starts a process and waits until it has warmed up."""
        key = (work.name, contender.name)
        entry = {"work": work.name, "implementation": contender.name, "status": "ok"}
        self.entries[key] = entry | {"seconds": [], "cpu_seconds": []}
        if contender.python is None:
            self.entries[key]["status"] = contender.status
            return
        self._tell(f"{work.name}: {contender.name} warms up")
        # What torch compiles is chosen once: trying takes minutes.
        known = self._variant.get(contender.module)
        environment = {"FADE_JAX_VARIANT": known} if known else {}
        worker = Worker(
            contender.python, contender.module, work, core=self._core, environment=environment
        )
        self._workers[key] = worker
        try:
            ready = worker.answer()
        except WorkerError as error:
            self._give_up(key, error)
            return
        self.entries[key] |= {k: ready[k] for k in ("versions", "notes", "prepare_s", "warm_up_s")}
        if "variant" in ready["notes"]:
            self._variant[contender.module] = ready["notes"]["variant"]

    def run(self, repeats: int) -> list[dict]:
        """Has all processes do their work in turn, `repeats` times; returns the entries."""
        try:
            for number in range(repeats):
                for key in list(self._workers):
                    self._tell(f"{key[0]}: {key[1]}, repetition {number + 1} of {repeats}")
                    self._take(key, Worker.go)
            for key in list(self._workers):
                self._take(key, Worker.end)
        finally:
            self.stop()
        return list(self.entries.values())

    def stop(self) -> None:
        """Ends all processes."""
        for worker in self._workers.values():
            worker.stop()
        self._workers.clear()

    def _take(self, key: tuple[str, str], ask: Callable[[Worker], dict]) -> None:
        try:
            answer = ask(self._workers[key])
        except WorkerError as error:
            self._give_up(key, error)
            return
        entry = self.entries[key]
        for name, value in answer.items():
            if isinstance(entry.get(name), list):
                entry[name].append(value)
            else:
                entry[name] = value

    def _give_up(self, key: tuple[str, str], error: WorkerError) -> None:
        self._workers.pop(key).stop()
        self.entries[key] |= {"status": f"failed, {error}", "seconds": [], "cpu_seconds": []}


def families(works: Sequence[Work]) -> list[list[Work]]:
    """Works whose implementations take turns with each other: those of one kind and shape."""
    groups: dict[str, list[Work]] = {}
    for work in works:
        groups.setdefault(work.peers_work.name, []).append(work)
    return list(groups.values())


def compare(
    works: Sequence[Work],
    contenders: Sequence[Contender],
    repeats: int,
    core: int | None,
    tell: Callable[[str], None],
) -> list[dict]:
    """Times every contender at every work of one family; returns the entries of results.json.

    A peer that does the same for two rows of the table does it once; a process that is killed while
    all are there is tried once more when the others have ended.
    """
    race = Race(core, tell)
    copies: dict[tuple, tuple[str, str]] = {}
    try:
        for work in works:
            for contender in contenders:
                told = contender.work(work)
                if _same(told, contender) not in copies:
                    race.add(contender, told)
                    copies[_same(told, contender)] = (told.name, contender.name)
        entries = race.run(repeats)
    finally:
        race.stop()
    entries = [_once_more_alone(e, works, contenders, repeats, core, tell) for e in entries]
    by_key = {(e["work"], e["implementation"]): e for e in entries}
    rows = []
    for work in works:
        for contender in contenders:
            entry = by_key[copies[_same(contender.work(work), contender)]]
            shared = {} if entry["work"] == work.name else {"same_as": entry["work"]}
            rows.append(entry | {"work": work.name} | shared)
    return rows


def _once_more_alone(
    entry: dict,
    works: Sequence[Work],
    contenders: Sequence[Contender],
    repeats: int,
    core: int | None,
    tell: Callable[[str], None],
) -> dict:
    """The entry; if its process was killed, as for memory, that of another one with no others."""
    if not entry["status"].startswith(f"failed, exit code {-signal.SIGKILL}:"):
        return entry
    contender = next(c for c in contenders if c.name == entry["implementation"])
    told = next(w for w in map(contender.work, works) if w.name == entry["work"])
    tell(f"{told.name}: {contender.name} was killed; once more, alone")
    race = Race(core, tell)
    try:
        race.add(contender, told)
        return race.run(repeats)[0] | {"alone": True}
    finally:
        race.stop()


def _same(told: Work, contender: Contender) -> tuple:
    """Equal for works that differ in their names only."""
    return told._replace(name=""), contender.name
