"""Measures one point, in a process of its own:

    python -m experiments.benchmarks.growth.point '{"prompts": 8}' REPEATS

The rollout step `sample` and the train step `learn` are those of a run, experiments.program. What
is printed is one line of JSON. Linux only: memory is read from /proc.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments import program, setup, sharding
from experiments.benchmarks.growth.axes import HEAD_WIDTH, Sizes
from experiments.benchmarks.worker import give_back, memory_bytes, peak_bytes, set_back_peak
from experiments.config import default_config
from experiments.models import transformer
from experiments.models.config import ModelConfig
from experiments.plan import flops, lowering
from experiments.plan.work import work_of
from experiments.tasks.prompts import Prompts

_LEAST_SECONDS = 0.5  # short steps are repeated for so long
_MOST_REPEATS = 25


def parts_of(sizes: Sizes) -> setup.Parts:
    """The parts of a run of these sizes; its completions never end early."""
    config = default_config()
    config.prompts, config.group_size = sizes.prompts, sizes.group
    config.learner.microbatches = sizes.microbatches
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = sizes.data, sizes.fsdp, sizes.tensor
    config.evaluation.prompts_per_call = config.evaluation.prompts  # any mesh divides these
    config.task.kwargs = {"max_prompt": sizes.prompt, "max_completion": sizes.completion}
    heads = sizes.width // HEAD_WIDTH
    model = ModelConfig(
        vocab_size=sizes.vocabulary,
        num_layers=sizes.layers,
        d_model=sizes.width,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=HEAD_WIDTH,
        d_ff=4 * sizes.width,
        max_positions=sizes.prompt + sizes.completion,
    )
    parts = lowering.abstract_parts(config, model)
    return parts._replace(task=parts.task._replace(eos_id=-1))


def measure(sizes: Sizes, repeats: int) -> dict:
    """Compiles, runs and times both steps.

    Args:
      sizes: of the point; the process has as many devices.
      repeats: of each step after one to warm up, at least.

    Returns:
      What growth.json holds of a point. Bytes and FLOP are of all devices together.
    """
    parts = parts_of(sizes)
    members, hyper, state = lowering.abstract_state(parts)
    steps = program.make_program(parts, members)
    prompts, rewards = _inputs(parts)
    sample, sample_compiled = _compile(sizes.devices, steps.sample, state, prompts)
    rollouts = _on_mesh(parts, jax.eval_shape(steps.sample, state, prompts))
    arguments = state, hyper, prompts, rollouts, rewards
    learn, learn_compiled = _compile(sizes.devices, steps.learn, *arguments)
    shardings = setup.parameter_shardings(parts)

    def steps_of_a_run(repeats: int) -> tuple[dict, dict]:
        params = transformer.init_params(parts.model, jax.random.key(0))
        state = steps.init(hyper, jax.device_put(params, shardings))
        del params
        _, rollouts, sampled = _time(lambda _: (None, sample(state, prompts)), None, repeats)
        # The state is donated: each update takes that of the one before.
        *_, learnt = _time(lambda s: learn(s, hyper, prompts, rollouts, rewards), state, repeats)
        return sampled, learnt

    steps_of_a_run(1)  # to warm up, and for all that a first call leaves behind
    give_back()
    idle = memory_bytes("VmRSS")
    sampled, learnt = steps_of_a_run(repeats)
    work = work_of(parts)
    counted = flops.sample_flops(work), flops.learn_flops(work)
    for record in (sampled, learnt):
        record["peak_bytes"] -= idle
    for record, count in zip((sampled, learnt), counted):
        record["flops"] = {part: n * sizes.devices for part, n in count._asdict().items()}
    return {
        "sizes": sizes._asdict(),
        "idle_bytes": idle,
        "sample": sampled | sample_compiled,
        "learn": learnt | learn_compiled,
    }


def _inputs(parts: setup.Parts) -> tuple[Prompts, jax.Array]:
    rng = np.random.default_rng(0)
    count, length = parts.config.prompts, parts.task.max_prompt
    tokens = rng.integers(2, parts.model.vocab_size, (count, length), np.int32)
    rewards = np.zeros((count, parts.config.group_size), np.float32)
    rewards[:, ::2] = 1  # in every group, so that no part of the update is left out
    prompts = Prompts(tokens, np.full(count, length, np.int32), facts=())
    return jax.device_put((prompts, rewards), sharding.batch_sharding(parts.mesh))


def _on_mesh(parts: setup.Parts, shapes):
    place = sharding.batch_sharding(parts.mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)


def _compile(devices: int, function: Callable, *arguments) -> tuple[Callable, dict]:
    start = time.process_time()
    compiled = function.lower(*arguments).compile()
    seconds = time.process_time() - start
    memory = compiled.memory_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return compiled, {
        "compile_seconds": seconds,
        "argument_bytes": memory.argument_size_in_bytes * devices,
        "output_bytes": outputs * devices,
        "temporary_bytes": memory.temp_size_in_bytes * devices,
    }


def _time(step: Callable, carry: Any, repeats: int) -> tuple[Any, Any, dict]:
    """Calls carry, output = step(carry) again and again; the record holds seconds and the peak."""
    if not set_back_peak():
        raise OSError(
            "the peak of memory cannot be set back: /proc/self/clear_refs is not writable"
        )
    seconds, cpu_seconds, output = [], [], None
    while len(seconds) < repeats or (
        sum(seconds) < _LEAST_SECONDS and 1 < len(seconds) < _MOST_REPEATS
    ):
        start, cpu_start = time.perf_counter(), time.process_time()
        carry, output = jax.block_until_ready(step(carry))
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    record = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak_bytes()}
    return carry, output, record


def main(arguments: list[str]) -> None:
    """Prints the record of the point that the arguments name."""
    sizes = Sizes(**json.loads(arguments[0]))
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", sizes.devices)
    jax.config.update("jax_enable_compilation_cache", False)
    print(json.dumps(measure(sizes, int(arguments[1]))))


if __name__ == "__main__":
    main(sys.argv[1:])
