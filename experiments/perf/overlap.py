"""Measures how far sampling hides behind training on devices of their own.

    export FADE_JAX_SECRET=measure
    taskset -c 0 python -m experiments.sampler --listen=localhost:9000 &
    taskset -c 1 python -m experiments.perf.overlap --config=configs/fade.py \
        --samplers=localhost:9000 --steps=20

Runs steps of a config, which must be of a task on the device, on one device that trains, in three
ways: sampling alone, the update alone, and both beside each other with rollouts one step old.
Prints the median seconds of each. --samplers=N takes N devices of this process in place of
processes.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import flags
from ml_collections import config_flags

from experiments import sharding
from experiments.command import one_line_errors
from experiments.config import Config, ConfigError
from experiments.experiment import Experiment, build_experiment, initial_params
from experiments.learner import TrainState, hyperparameters
from experiments.metric_writer import Bar
from experiments.samplers import Devices, Processes, Samplers


def beside(config: Config, samplers: int) -> Config:
    """Returns a copy of a config with one device that trains and `samplers` that sample."""
    config = config.copy_and_resolve_references()
    config.mesh.data = config.mesh.fsdp = config.mesh.tensor = 1
    config.mesh.samplers, config.learner.staleness = samplers, 1
    config.steps_per_call, config.steps = 1, 2**30
    config.warm_start.steps = 0
    return config


def seconds_of(call: Callable[[], Any]) -> tuple[float, Any]:
    """Times one call to the end of its computations."""
    start = time.perf_counter()
    found = jax.block_until_ready(call())
    return time.perf_counter() - start, found


def measure(
    experiment: Experiment, side: Devices | Processes, steps: int, say: Callable[[str], None]
) -> dict[str, float]:
    """Returns median seconds: sampling, update, and both beside each other.

    Args:
      experiment: of a config as of `beside`, on a task that is verified on the device.
      side: what samples.
      steps: timed steps of each way, after two that are not.
      say: is told what is being timed.
    """
    config, rl, fns = experiment.config, experiment.rl, side.fns
    hyper = hyperparameters(config, experiment.methods)
    by_prompt = sharding.batch_sharding(experiment.mesh)
    state: TrainState = rl.init(hyper, initial_params(experiment))

    def sample(step):
        side.send_weights(fns.cast(state.params, state.base))
        prompts = fns.train_prompts(config.seed, step)
        placed = prompts._replace(verifier_inputs=())
        rollouts = side.sample(state.key, placed, step, 0)
        rewards = fns.verify(prompts.verifier_inputs, rollouts.tokens, rollouts.token_mask)
        return placed, rollouts, rewards

    def update(state, prompts, rollouts, rewards):
        placed = sharding.place(np.asarray(rewards), by_prompt)
        return rl.update(state, hyper, prompts, rollouts, placed)

    say("sampling alone")
    times = [seconds_of(lambda step=step: sample(step))[0] for step in range(steps + 2)]
    found = {"sampling": float(np.median(times[2:]))}
    say("the update alone")
    prompts, rollouts, rewards = sample(0)
    prompts, rollouts = jax.device_put((prompts, rollouts), by_prompt)
    times = []
    for _ in range(steps + 2):
        spent, (state, _) = seconds_of(lambda s=state: update(s, prompts, rollouts, rewards))
        times.append(spent)
    found["update"] = float(np.median(times[2:]))
    say("both beside each other")
    state = rl.init(hyper, initial_params(experiment))
    times = []
    with Samplers(experiment, None, side) as samplers:
        for step in range(steps + 2):
            start = time.perf_counter()
            batch = samplers.take(state, step)
            state, metrics = update(state, batch.prompts, batch.rollouts, batch.rewards)
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - start)
    found["beside"] = float(np.median(times[2:]))
    return found


def table(found: dict[str, float]) -> str:
    """Formats the seconds of a step, and what they are of the longer and of the sum."""
    longer, both = max(found["sampling"], found["update"]), found["sampling"] + found["update"]
    rows = [
        [name, f"{value:.3f}", f"{value / longer:.2f}", f"{value / both:.2f}"]
        for name, value in found.items()
    ]
    columns = ["", "seconds a step", "of the longer", "of the sum"]
    return pd.DataFrame(rows, columns=columns).to_markdown(index=False, disable_numparse=True)


def main(argv):
    """Measures and prints."""
    del argv
    FLAGS = flags.FLAGS
    devices = int(FLAGS.samplers) if FLAGS.samplers.isdigit() else 0
    jax.config.update("jax_num_cpu_devices", 1 + devices)
    experiment = build_experiment(beside(FLAGS.config, devices))
    if not experiment.task.on_device:
        name = experiment.config.task.name
        raise ConfigError(f"config.task.name must be verified on the device, got {name!r}")
    side = Devices(experiment) if devices else Processes(experiment, FLAGS.samplers.split(","))
    print(table(measure(experiment, side, FLAGS.steps, Bar().say)))


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "Config file of the run.")
    flags.DEFINE_string("samplers", "1", "HOST:PORT of processes, or a number of devices.")
    flags.DEFINE_integer("steps", 20, "Timed steps of each way.", lower_bound=1)
    flags.mark_flags_as_required(["config"])
    one_line_errors(main)
