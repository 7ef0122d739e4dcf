"""Samplers beside the trainer: devices or processes that sample while it updates the policy.

The rollouts of step t are those of the policy of step t - k, k = config.learner.staleness, whether
the two take turns or not. So the batches of k further steps are under way while the trainer is at
one, no batch is older than k steps, and a run is the same bit for bit as in lock step on the same
meshes. Below: collect, step_functions, sharding. Above: train.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments import policy, sharding
from experiments.collect import Collected, Source, collect
from experiments.compilation import compiler_options
from experiments.config import ConfigError
from experiments.experiment import Experiment
from experiments.learner import TrainState
from experiments.models import transformer
from experiments.remote import RemoteSamplers
from experiments.resampling import replace_flat
from experiments.rollout import Rollouts
from experiments.sampler import setup_of
from experiments.step_functions import make_sample_fn, parameter_shardings, sampling_key


class SamplerFns(NamedTuple):
    """The jitted functions of the sampling devices.

    Attributes:
      shardings: of the parameters that they get.
      cast: (params, base) of the trainer -> what is sent, merged; on the trainer's devices.
      sample: (params, key, prompts, step, round) -> Rollouts.
      train_prompts: (seed, position) -> Prompts; device tasks.
      verify: (verifier inputs, tokens, mask) -> rewards; device tasks.
      replace_flat: see resampling.replace_flat.
    """

    shardings: Any
    cast: Callable
    sample: Callable
    train_prompts: Callable
    verify: Callable
    replace_flat: Callable


def make_sampler_fns(experiment: Experiment, mesh: Mesh) -> SamplerFns:
    """Builds the functions of the devices of `mesh`; nothing is compiled before its first call."""
    config, task, model = experiment.config, experiment.task, experiment.model
    by_prompt, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    sample = make_sample_fn(config, mesh, task, model)
    options = compiler_options(config, model)  # as in lock step, for the same bits

    def sample_step(params, key, prompts, step, index):
        key = sampling_key(config, key, step, index)
        return sample(params, prompts, key, config.group_size)

    def cast(params, base):
        return transformer.cast_for_sampling(model, policy.join(config, params, base))

    return SamplerFns(
        shardings=parameter_shardings(model, mesh),
        # A copy: the trainer's next update overwrites its parameters.
        cast=jax.jit(
            lambda *params: jax.tree.map(jnp.copy, cast(*params)),
            out_shardings=parameter_shardings(model, experiment.mesh),
        ),
        sample=jax.jit(sample_step, out_shardings=by_prompt, compiler_options=options),
        train_prompts=jax.jit(
            lambda seed, position: task.train_prompts(seed, position, config.prompts),
            out_shardings=by_prompt,
        ),
        verify=jax.jit(lambda *rollouts: task.verify(*rollouts)),
        replace_flat=jax.jit(replace_flat, out_shardings=(by_prompt, whole)),
    )


class Devices:
    """Sampling devices of this process, those of config.mesh.samplers."""

    def __init__(self, experiment: Experiment):
        """Builds their programs."""
        self.mesh = sharding.sampler_mesh(experiment.config.mesh)
        self.fns = make_sampler_fns(experiment, self.mesh)
        self._params: Any = None

    def send_weights(self, params: Any) -> None:
        """Copies parameters to the devices, in place of those before them."""
        self._params = jax.device_put(params, self.fns.shardings)

    def sample(self, key: jax.Array, prompts: Any, step: int, index: int) -> Rollouts:
        """Samples one round of a step."""
        key = jax.device_put(key, sharding.replicated(self.mesh))
        return self.fns.sample(self._params, key, prompts, step, index)

    def close(self) -> None:
        """Does nothing: the devices stay."""


class Processes:
    """Sampling processes elsewhere; see experiments.sampler."""

    def __init__(self, experiment: Experiment, addresses: Sequence[str]):
        """Connects to them.

        Raises:
          ConfigError: for an address that is none, or if the prompts do not divide over them.
          SamplerError: if one cannot be reached.
        """
        prompts = experiment.config.prompts
        if prompts % len(addresses):
            raise ConfigError(
                f"config.prompts must be a multiple of the {len(addresses)} --samplers, got"
                f" {prompts}"
            )
        self.mesh = experiment.mesh  # where prompts are made and rollouts arrive
        self.fns = make_sampler_fns(experiment, self.mesh)
        self._remote = RemoteSamplers(addresses, setup_of(experiment))
        self.send_weights, self.close = self._remote.send_weights, self._remote.close

    def sample(self, key: jax.Array, prompts: Any, step: int, index: int) -> Rollouts:
        """Samples one round of a step."""
        arrays = self._remote.sample(key, prompts, step, index)
        return Rollouts(*sharding.place(arrays, sharding.batch_sharding(self.mesh)))


class Samplers:
    """The batches that sampling devices or processes have under way.

    A thread of its own waits for rollouts and has them scored, so that the trainer's programs are
    dispatched meanwhile. Use it as a context: what is under way is given up at its end.
    """

    def __init__(
        self,
        experiment: Experiment,
        rewards_of: Callable[..., Any] | None,
        side: Devices | Processes,
    ):
        """Takes what samples, and how rollouts are scored.

        Args:
          experiment: of the run.
          rewards_of: verification on the host; None for a task that is verified on the device.
          side: what samples.
        """
        self._experiment, self._rewards_of, self._side = experiment, rewards_of, side
        self._lag = experiment.config.learner.staleness
        self._under_way: dict[int, Future[Collected]] = {}
        self._thread = ThreadPoolExecutor(1, "samplers")

    def __enter__(self) -> "Samplers":
        return self

    def __exit__(self, *_: object) -> None:
        self._side.close()
        self._thread.shutdown(cancel_futures=True)

    def take(self, state: TrainState, step: int) -> Collected:
        """Sends for the batch that `state` can sample, and returns that of `step`.

        Args:
          state: before `step`; its parameters are copied before anything can overwrite them.
          step: of the batch, which is on the trainer's devices.

        Raises:
          SamplerError, VerificationError: if it cannot be made on these machines.
        """
        if step not in self._under_way:  # at the start, or after a resume
            self._under_way.clear()
            for later in range(step, step + self._lag):
                past = jax.tree.map(lambda p, s=later: p[s % self._lag], state.past_params)
                self._send_for(later, past, state)
        self._send_for(step + self._lag, state.params, state)
        batch = self._under_way.pop(step).result()
        prompts, rollouts = jax.device_put(
            (batch.prompts, batch.rollouts), sharding.batch_sharding(self._experiment.mesh)
        )
        return batch._replace(prompts=prompts, rollouts=rollouts)

    def _send_for(self, step: int, params: Any, state: TrainState) -> None:
        if step < self._experiment.config.steps:
            sent = self._side.fns.cast(params, state.base)
            key = jnp.copy(state.key)
            first = None
            if self._experiment.task.on_device:
                # Now: later it would wait for the update that the trainer is given next.
                first = self._prompts(step * (self._experiment.config.learner.resample_rounds + 1))
            self._under_way[step] = self._thread.submit(self._collect, step, sent, key, first)

    def _prompts(self, position: int) -> tuple[Any, Any]:
        """The prompts of a batch on the sampler's devices, and what their verification reads."""
        config, task, side = self._experiment.config, self._experiment.task, self._side
        if task.on_device:
            made = side.fns.train_prompts(config.seed, position)
            return made._replace(verifier_inputs=()), made.verifier_inputs
        read = task.train_prompts(config.seed, position, config.prompts)
        by_prompt = sharding.batch_sharding(side.mesh)
        placed = sharding.place(read._replace(verifier_inputs=()), by_prompt)
        return placed, read.verifier_inputs

    def _collect(self, step: int, params: Any, key: jax.Array, first: Any) -> Collected:
        config, side = self._experiment.config, self._side
        side.send_weights(params)
        made = iter([] if first is None else [first])

        def verified(inputs, rollouts):
            return side.fns.verify(inputs, rollouts.tokens, rollouts.token_mask), {}, {}

        source = Source(
            lambda position: next(made, None) or self._prompts(position),
            lambda placed, index: side.sample(key, placed, step, index),
            self._rewards_of or verified,
            side.fns.replace_flat,
        )
        return collect(config, step, source)
