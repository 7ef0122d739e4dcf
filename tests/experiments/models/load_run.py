"""Loads a model onto fake devices, and prints what was read and how much memory it took.

python -m tests.experiments.models.load_run DIRECTORY DEVICES FSDP TENSOR [PORT PROCESSES PROCESS]
"""

import json
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np

from experiments.models import huggingface, weights
from experiments.multihost import connect
from experiments.sharding import make_mesh
from experiments.step_functions import parameter_shardings


def anonymous_bytes():
    """Resident memory of this process, without the pages of mapped files."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


class PeakMemory:
    """A context; `peak` is the largest `anonymous_bytes` inside, beyond that at its start."""

    def __enter__(self):
        self.start, self.peak, self._done = anonymous_bytes(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._done.is_set():
            self.peak = max(self.peak, anonymous_bytes() - self.start)
            time.sleep(0.001)

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()


def count_bytes(read, counts):
    """Wraps the `read` of a Checkpoint: appends the bytes of every part that is read."""

    def counted(name, index):
        part = read(name, index)
        counts.append(part.nbytes)
        return part

    return counted


def main(directory, devices, fsdp, tensor, port=None, processes=1, process=0):
    jax.config.update("jax_num_cpu_devices", int(devices))
    if port is not None:
        connect(f"localhost:{port}", int(processes), int(process))
    mesh = make_mesh({"data": -1, "fsdp": int(fsdp), "tensor": int(tensor)})
    counts, load = [], weights.load

    def load_counted(config, checkpoint, *arguments):
        counted = checkpoint._replace(read=count_bytes(checkpoint.read, counts))
        return load(config, counted, *arguments)

    weights.load = load_counted
    config, load_params = huggingface.open_model(directory)
    shardings = parameter_shardings(config, mesh)
    assert not counts, "numbers were read before they were asked for"
    began = time.monotonic()
    with PeakMemory() as memory:
        params = load_params(shardings)
        seconds = time.monotonic() - began
    shards = [s for x in jax.tree.leaves(params) for s in x.addressable_shards]
    said = {
        "read": sum(counts),
        "held": sum(s.data.nbytes for s in shards),
        "peak": memory.peak,
        "seconds": seconds,
        "sum": float(
            sum(np.sum(np.asarray(s.data), dtype=np.float64) for s in shards if s.replica_id == 0)
        ),
    }
    with PeakMemory() as memory:
        if port is None:
            huggingface.save(Path(directory) / "saved", config, params, "bfloat16", 2**26)
    print(json.dumps(said | {"saving": memory.peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
