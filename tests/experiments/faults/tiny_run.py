"""A run of milliseconds through the real loop, log and checkpoints, in forked processes.

As a command: each line of stdin is [workdir, n, error, after]: run in a new process, of which the
n-th change of a file below workdir fails (see calls.c), or which gets a SIGKILL `after` seconds
from its start; n = 0 counts them. The answer is a line [exit status, what failed or the count,
stderr, seconds].
"""

import ctypes
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import workdir as workdirs
from experiments.checkpoints import tree_sha256
from experiments.command import one_line_errors
from experiments.environment import record_session
from experiments.evaluation import HeldOut, _save_counts
from experiments.loop import RunWriter, Stage, run_loop
from experiments.metric_writer import Silent
from tests.experiments.tiny_config import get_config

STEPS, EVERY, SIZE = 4, 2, 10_000


def stage(workdir: Path) -> Stage:
    """x_{t+1} = x_t / 2 + t; evaluations and checkpoints every 2 steps."""

    def train_steps(state, step, count):
        lines = []
        for index in range(step, step + count):
            x = np.asarray(state["x"]) / 2 + index
            state = {"x": jnp.asarray(x)}
            lines.append({"loss": float(x[0]), "gradient_norm": 1.0})
        return state, [lines]

    def evaluate(state, step):
        correct = np.asarray(state["x"])[:3].astype(np.int32)
        _save_counts(workdir, step, HeldOut(correct, 4, 0.0, 1.0, 0.0, 0.0, 0, []))
        return [{"eval/pass@1": float(correct.mean())}]

    return Stage("tiny", STEPS, 1, train_steps, evaluate, lambda state: [state], EVERY, EVERY)


def run(workdir: Path) -> dict:
    """Makes or goes on with the run in `workdir`; returns its result."""
    config = get_config()
    config.steps = STEPS
    workdirs.check(config, workdir)
    with workdirs.locked(workdir):
        workdirs.claim(config, workdir)
        record_session(workdir)
        with closing(RunWriter(workdir, 2, Silent())) as writer:
            like = {"x": jax.ShapeDtypeStruct((SIZE,), np.float32)}
            start = 0, {"x": jnp.arange(SIZE, dtype=np.float32)}
            step, state = writer.restore(like) or start
            state = run_loop(stage(workdir), [writer], step, state)
        return workdirs.write_result(config, workdir, tree_sha256(state))


def _child(hooks, workdir: str, n: int, error: int, after: float | None, report: int) -> None:
    sys.argv = ["tiny_run"]
    signal.alarm(120)  # a run that hangs ends
    if after is not None:
        threading.Timer(after, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()

    def main(_):
        run(Path(workdir))

    status = 0
    try:
        hooks.arm(workdir.encode(), n, error, report)
        one_line_errors(main)
    except SystemExit as end:
        os.write(report, str(hooks.calls()).encode() if n == 0 else b"")
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)


def _serve() -> None:
    hooks = ctypes.CDLL(os.environ["LD_PRELOAD"])
    for line in sys.stdin:
        arguments = json.loads(line)
        with (
            tempfile.TemporaryFile("w+", errors="replace") as report,
            tempfile.TemporaryFile("w+", errors="replace") as err,
        ):
            began = time.monotonic()
            child = os.fork()
            if child == 0:
                os.dup2(err.fileno(), 2)
                _child(hooks, *arguments, report.fileno())
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            report.seek(0)
            err.seek(0)
            said = [status, report.read(), err.read(), time.monotonic() - began]
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    _serve()
