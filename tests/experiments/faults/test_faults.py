"""Kills and errors at every call that changes a file of a run: the next start ends as no fault had.

With -s, each test prints a table of what was injected and what came of it.
"""

import collections
import errno
import json
import os
import queue
import random
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from experiments.metric_writer import read_lines

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.faults,
    pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler"),
    pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD and /proc are Linux's"),
]
HERE = Path(__file__).parent


class Servers:
    """Processes that run tiny_run, one for each core."""

    def __init__(self, library: Path):
        self.count = min(4, os.cpu_count() or 1)
        self._idle: queue.Queue[subprocess.Popen] = queue.Queue()
        environment = os.environ | {"LD_PRELOAD": str(library), "JAX_PLATFORMS": "cpu"}
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.experiments.faults.tiny_run"],
                cwd=HERE.parents[2],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(self.count)
        ]
        for process in self._processes:
            self._idle.put(process)

    def run(self, workdir, n=-1, error=0, after=None):
        """Returns (exit status, what failed, stderr, seconds) of a run."""
        process = self._idle.get()
        process.stdin.write(json.dumps([str(workdir), n, error, after]) + "\n")
        process.stdin.flush()
        said = json.loads(process.stdout.readline())
        self._idle.put(process)
        return said

    def close(self):
        for process in self._processes:
            process.communicate()


@pytest.fixture(scope="module", name="servers")
def servers_fixture(tmp_path_factory):
    library = tmp_path_factory.mktemp("library") / "calls.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "calls.c", "-ldl"]
    subprocess.run(command, check=True)
    servers = Servers(library)
    yield servers
    servers.close()


def outcome(workdir):
    """All that a run leaves, without the times."""

    def timeless(line):
        return {k: v for k, v in line.items() if not k.endswith("seconds")}

    counts = {
        path.name: np.load(path)["num_correct"].tolist() for path in workdir.glob("evaluations/*")
    }
    return {
        "result": timeless(json.loads((workdir / "result.json").read_text())),
        "log": [timeless(line) for line in read_lines(workdir / "metrics.jsonl")],
        "counts": counts,
        "checkpoints": sorted(path.name for path in (workdir / "checkpoints").iterdir()),
        "top": sorted(path.name for path in workdir.iterdir()),
    }


@pytest.fixture(scope="module", name="straight")
def straight_fixture(servers, tmp_path_factory):
    """(outcome, number of calls, seconds) of a run without a fault."""
    workdir = tmp_path_factory.mktemp("straight")
    servers.run(workdir / "warm")  # the first process of a server is slower
    status, calls, err, seconds = servers.run(workdir / "run", 0)
    assert (status, err) == (0, "")
    return outcome(workdir / "run"), int(calls), seconds


def place(said):
    """The call that failed and the kind of file, without steps and hashes."""
    call, _, path = said.partition(" ")
    parts = [re.sub(r"\.[^./]*-\d+\.tmp|[0-9a-f]{32}|\d+", "", part) for part in path.split("/")]
    return f"{call} {'/'.join(dict.fromkeys((parts[0], parts[-1])))}"


def check(servers, straight, workdir, fault):
    """Runs with a fault, then without; returns (what failed, what came of it)."""
    status, said, err, _ = servers.run(workdir, **fault)
    if status == 0:
        end = "done" if not err else f"done, but said {err!r}"
    elif status == -9:
        end = "killed" if not err else f"killed, but said {err!r}"
    elif status == 2 and err.startswith("error: ") and err.count("\n") == 1:
        end = "one line"
    else:
        end = f"status {status}: {err}"
    again, _, err, _ = servers.run(workdir)
    if again or err:
        end += f"; then status {again}: {err}"
    elif (found := outcome(workdir)) != straight[0]:
        changed = {k: found[k] for k in found if found[k] != straight[0][k]}
        end += f"; then {changed}"
    else:
        end += "; then the same bits"
    shutil.rmtree(workdir)
    return place(said), end


GOOD = {f"{end}; then the same bits" for end in ("done", "killed", "one line")}


def inject(servers, straight, directory, faults):
    """Injects faults, prints the table, and asserts that nothing was lost."""
    with ThreadPoolExecutor(servers.count) as pool:
        found = list(
            pool.map(
                lambda numbered: check(
                    servers, straight, directory / str(numbered[0]), numbered[1]
                ),
                enumerate(faults),
            )
        )
    table = collections.Counter(found)
    print(f"\n{len(found)} faults")
    for (where, end), count in sorted(table.items()):
        print(f"{count:4} {where or 'at a random moment':60.60} {end}")
    assert {end for _, end in found} <= GOOD


def test_a_kill_at_every_call(servers, straight, tmp_path):
    faults = [{"n": n} for n in range(1, straight[1] + 1)]
    inject(servers, straight, tmp_path, faults)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_an_error_at_every_call(servers, straight, tmp_path, error):
    faults = [{"n": n, "error": error} for n in range(1, straight[1] + 1)]
    inject(servers, straight, tmp_path, faults)


def test_a_kill_at_random_moments(servers, straight, tmp_path):
    draw = random.Random(0)
    faults = [{"after": draw.uniform(0.0, straight[2])} for _ in range(20)]
    inject(servers, straight, tmp_path, faults)
