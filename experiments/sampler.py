"""A process that samples for a trainer elsewhere:

    FADE_JAX_SECRET=... python -m experiments.sampler --listen=0.0.0.0:9000
    FADE_JAX_SECRET=... python -m experiments.run --config=configs/qwen2_5_7b_code.py \
        --samplers=HOST:9000,HOST:9001 --workdir=DIR

It needs neither config nor data nor weights: the trainer sends what it samples from, after every
update. Each of several processes samples its own rows of every batch, on all devices that it has,
with the random numbers that these rows have in one process. It serves one trainer after another,
until Ctrl-C. Below: remote, rollout, models.
"""

import dataclasses
import threading
from contextlib import suppress
from functools import partial
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments import sharding
from experiments.command import one_line_errors
from experiments.compilation import compiler_options
from experiments.config import ConfigError
from experiments.experiment import Experiment
from experiments.models import transformer
from experiments.models.config import ModelConfig, RopeScaling
from experiments.remote import parse_address, receive, secret, send
from experiments.rollout import sample
from experiments.step_functions import parameter_shapes, parameter_shardings, sampling_key
from experiments.tasks.base import eos_ids

_SETTINGS = ("temperature", "top_p", "top_k", "slots", "loops")


def setup_of(experiment: Experiment) -> dict[str, Any]:
    """Returns what a trainer tells its samplers, as JSON holds it."""
    config, task = experiment.config, experiment.task
    return {
        "kind": "setup",
        "model": dataclasses.asdict(experiment.model),
        "prompts": config.prompts,
        "group_size": config.group_size,
        "settings": {
            "learner": {"resample_rounds": config.learner.resample_rounds},
            "quick_compile": config.quick_compile,
        },
        "max_tokens": task.max_completion,
        "eos_id": list(np.atleast_1d(eos_ids(task)).tolist()),
        "pad_id": task.pad_id,
        "vocab_size": task.vocab_size,
        "tensor": config.mesh.tensor,
        **{name: config.sampling[name] for name in _SETTINGS},
    }


class Server:
    """Samples for one trainer: its programs, and the newest weights."""

    def __init__(self, setup: dict[str, Any]):
        """Builds the program for the rows of one batch.

        Args:
          setup: of `setup_of`, with `first` and `rows`.

        Raises:
          ConfigError: if the rows do not divide over the devices.
        """
        sizes = setup["model"]
        scaling = sizes.pop("rope_scaling")
        self._model = ModelConfig(
            **sizes, rope_scaling=None if scaling is None else RopeScaling(**scaling)
        )
        mesh = sharding.make_mesh({"data": -1, "fsdp": 1, "tensor": setup["tensor"]})
        sharding.check_batch(mesh, "the rows of a sampler", setup["rows"])
        cast = partial(transformer.cast_for_sampling, self._model)
        self._like = jax.eval_shape(cast, parameter_shapes(self._model))
        self._shardings = parameter_shardings(self._model, mesh)
        self._by_prompt = sharding.batch_sharding(mesh)
        self._params: Any = None
        settings: Any = ConfigDict(setup["settings"])
        given = ("group_size", "max_tokens", "pad_id", "vocab_size", *_SETTINGS)
        rows = setup["first"], setup["prompts"]

        def sample_rows(params, key, tokens, length, step, index):
            with sharding.layout(mesh):
                return sample(
                    self._model,
                    params,
                    tokens,
                    length,
                    sampling_key(settings, key, step, index),
                    eos_id=tuple(setup["eos_id"]),
                    rows=rows,
                    **{name: setup[name] for name in given},
                )

        self._sample = jax.jit(
            sample_rows,
            out_shardings=self._by_prompt,
            compiler_options=compiler_options(settings, self._model),
        )

    def answer(self, header: dict[str, Any], arrays: list[np.ndarray]) -> list[Any]:
        """Takes weights, or samples; returns the arrays of the answer."""
        if header["kind"] == "weights":
            like, tree = jax.tree.flatten(self._like)
            shapes = [(x.shape, x.dtype) for x in arrays]
            if shapes != [(x.shape, x.dtype) for x in like]:
                raise ConfigError("the weights are not those of the model that was set up")
            self._params = sharding.place(jax.tree.unflatten(tree, arrays), self._shardings)
            return []
        tokens, length = sharding.place(arrays, self._by_prompt)
        key = jax.random.wrap_key_data(jnp.asarray(header["key"], jnp.uint32))
        place = np.uint32(header["step"]), np.uint32(header["round"])
        return jax.device_get([*self._sample(self._params, key, tokens, length, *place)])


def serve(connection: Connection) -> None:
    """Answers one trainer until it closes the connection."""
    server = None
    while True:
        try:
            header, arrays = receive(connection)
        except (EOFError, OSError):
            return
        try:
            found: list[Any] = []
            if header["kind"] == "setup":
                server = Server({k: v for k, v in header.items() if k != "kind"})
            elif server is not None:
                found = server.answer(header, arrays)
            send(connection, {}, found)
        except Exception as error:  # of a trainer of another version, too
            text = " ".join(f"{type(error).__name__}: {error}".split())
            send(connection, {"error": text[:500]})


def serve_one(connection: Connection, busy: threading.Lock, patience: float = 30.0) -> None:
    """Serves a trainer once the one before it has gone, or refuses it after `patience` seconds."""
    with connection:
        if not busy.acquire(timeout=patience):
            with suppress(OSError, EOFError):
                receive(connection)
                send(connection, {"error": "it serves another trainer"})
            return
        try:
            serve(connection)
        finally:
            busy.release()


def main(argv):
    """Listens, and serves one trainer after another."""
    del argv
    address, key, busy = parse_address(flags.FLAGS.listen), secret(), threading.Lock()
    with Listener(address, authkey=key) as listener:
        print(f"listening at {flags.FLAGS.listen} with {jax.device_count()} devices", flush=True)
        while True:
            try:
                connection = listener.accept()
                threading.Thread(target=serve_one, args=(connection, busy), daemon=True).start()
            except (AuthenticationError, EOFError, ConnectionError) as error:
                print(f"refused a connection: {error}", flush=True)


if __name__ == "__main__":
    flags.DEFINE_string("listen", None, "HOST:PORT to listen at.")
    flags.mark_flags_as_required(["listen"])
    one_line_errors(main)
