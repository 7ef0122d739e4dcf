"""Training as a function of (config, workdir): a warm start, then RL, then a result."""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import advantages
from experiments.checkpoints import Checkpoints, tree_sha256
from experiments.config import FREE_TO_CHANGE, ConfigError, differences, with_added_fields
from experiments.experiment import (
    Imitation,
    Parts,
    Program,
    abstract_state,
    make_imitation,
    make_program,
    prepare,
    starting_params,
)
from experiments.held_out import evaluation_line
from experiments.learner import Hyperparameters, TrainState, hyperparameters, kept
from experiments.loop import Stage, run_stage
from experiments.metric_writer import Bar, Progress, Silent, plain_tree, read_lines, write_json
from experiments.models import transformer
from experiments.multihost import everywhere, first, is_first, join_rows, rows_of, same
from experiments.sharding import batch_sharding, place, replicated
from experiments.tasks.verifier import Verifier

logger = logging.getLogger(__name__)


class Compiled(NamedTuple):
    """What runs of one shape (experiments.jobs) share; `for_run` makes it that of one of them."""

    parts: Parts
    members: tuple
    program: Program
    imitation: Imitation


def compile_for(config: ConfigDict, methods: Sequence[tuple[str, dict]] = ()) -> Compiled:
    """Prepares the parts of `config` and the program for its advantage and for `methods`.

    Args:
      config: of one run.
      methods: (name, kwargs) of the other advantages that the program should serve.
    """
    own = (config.advantage.name, config.advantage.kwargs.to_dict())
    members = advantages.members_of([*methods, own])
    parts = prepare(config)
    check_gives_gradient(config)
    return Compiled(parts, members, make_program(parts, members), make_imitation(parts))


def for_run(compiled: Compiled, config: ConfigDict) -> Compiled:
    """Puts the config of one run into what runs of its shape share."""
    parts = compiled.parts._replace(config=config)
    old, new = compiled.parts.config.warm_start, config.warm_start
    same = (old.batch, old.learning_rate) == (new.batch, new.learning_rate)
    imitation = compiled.imitation if same else make_imitation(parts)
    return compiled._replace(parts=parts, imitation=imitation)


def check_gives_gradient(config: ConfigDict) -> None:
    """Runs the advantage once, on groups of every number of successes.

    Raises:
      ConfigError: when all advantages are 0 or some are not finite, or when the advantage cannot be
        compiled or changes the shape of the rewards.
    """
    name, kwargs = config.advantage.name, config.advantage.kwargs.to_dict()
    members = advantages.members_of([(name, kwargs)])
    choice = advantages.choose(members, name, kwargs)
    size = config.group_size
    rewards = np.tril(np.ones((size + 1, size), np.float32), -1)
    statistics = {"entropy": np.float32(1.0), "lengths": np.ones_like(rewards)}

    @jax.jit  # as programs will
    def weigh(choice, rewards, statistics):
        states = advantages.init(members, choice)
        return advantages.update(members, choice, rewards, states, **statistics)[0]

    try:
        weights = weigh(choice, rewards, statistics)
    except jax.errors.JAXTypeError as error:
        raise ConfigError(
            f"config.advantage.name = {name!r} must be traceable by jax, in its floating-point"
            f" arguments too (jnp for np, jnp.where for if): {str(error).splitlines()[0]}"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"config.group_size = {size} with config.advantage.name = {name!r}: {error}"
        ) from error
    weights = np.asarray(weights)
    if weights.shape != rewards.shape:
        raise ConfigError(
            f"config.advantage.name = {name!r} must return the shape of the rewards,"
            f" {rewards.shape}, got {weights.shape}"
        )
    if not np.all(np.isfinite(weights)) or not np.any(weights):
        raise ConfigError(
            f"config.group_size must be large enough to give a gradient with"
            f" config.advantage.name = {name!r}, got {size}"
        )


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    progress: Progress | None = None,
    compiled: Compiled | None = None,
) -> dict[str, Any]:
    """Runs an experiment to its end; called again, it goes on where it was.

    Args:
      config: see experiments.config.default_config.
      workdir: gets config.json, metrics.jsonl, tensorboard/, evaluations/, checkpoints/ and
        result.json.
      progress: where to show progress; a bar on the terminal if None.
      compiled: shared by runs with the same static config; made here if None.

    Returns:
      The contents of result.json: the final metrics and `params_sha256`.

    Raises:
      ConfigError: before any work, if the config cannot run or the workdir holds another config.
      Stopped: after SIGTERM, with a checkpoint written.
      NonFiniteError: when loss or gradient stop being finite.
    """
    workdir = Path(workdir)
    progress = progress or (Bar() if is_first() else Silent())
    claim(config, workdir)
    compiled = for_run(compiled or everywhere(lambda: compile_for(config)), config)
    result = finished_result(config, workdir)
    if result is not None:
        return result
    with host_verification(compiled) as verify:
        return _reinforce(config, workdir, compiled, progress, verify)


def finished_result(config: ConfigDict, workdir: Path) -> dict[str, Any] | None:
    """The contents of result.json, if the run in `workdir` has made all its steps."""
    path = workdir / "result.json"
    result = first(lambda: json.loads(path.read_text()) if path.exists() else {})
    return result if result.get("step") == config.steps else None


@contextmanager
def host_verification(compiled: Compiled):
    """Yields (verifier_inputs, rollouts) -> rewards [P, G] on the host; None for a device task.

    Each of several processes scores the completions of its own prompts; all get all rewards.
    """
    task, settings = compiled.parts.task, compiled.parts.config.verification
    if task.on_device:
        yield None
        return
    with Verifier(
        task, workers=settings.workers, timeout_seconds=settings.timeout_seconds
    ) as verifier:

        def verify(verifier_inputs, rollouts):
            rows, tokens = rows_of(rollouts.tokens)
            _, mask = rows_of(rollouts.token_mask)
            rewards = everywhere(lambda: verifier.verify(verifier_inputs[rows], tokens, mask))
            return join_rows(rows, rewards, len(verifier_inputs))

        yield verify


def claim(config: ConfigDict, workdir: Path) -> None:
    """Writes config.json, or checks that the run in this workdir has the same config."""
    new = json.loads(json.dumps(plain_tree(config.to_dict())))
    same("config", new)

    def check_and_write():
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "config.json"
        if path.exists():
            changed = differences(with_added_fields(json.loads(path.read_text()), new), new)
            changed = [c for c in changed if not c.startswith(FREE_TO_CHANGE)]
            if changed:
                raise ConfigError(
                    f"{workdir} holds a run with another config ({'; '.join(changed)}):"
                    " choose another --workdir"
                )
        write_json(path, new)

    first(check_and_write)


def warm_start(
    config: ConfigDict, compiled: Compiled, progress: Progress, workdir: str | Path
) -> Any:
    """Imitates the task's demonstrations; returns the parameters that RL starts from.

    Args:
      config: of the run.
      compiled: of the run.
      progress: where to show it.
      workdir: of the warm start itself; finished work there is read, not repeated.
    """
    compiled = for_run(compiled, config)
    parts, imitation = compiled.parts, compiled.imitation
    settings = config.warm_start
    workdir = Path(workdir)
    claim(warm_start_part(config), workdir)
    like = _abstract_carry(parts, imitation)
    if first(lambda: (workdir / "result.json").exists()):
        return _finished_warm_start(workdir, like)

    def advance(carry, step, count):
        if parts.task.on_device:
            seed = np.uint32(settings.seed)
            carry, metrics = imitation.advance(carry, parts.task, seed, np.int32(step), count)
            return carry, [lines_of(metrics)]
        lines = []
        for index in range(step, step + count):
            demonstrations = parts.task.demonstrations(settings.seed, index, settings.batch)
            demonstrations = demonstrations._replace(
                prompts=demonstrations.prompts._replace(verifier_inputs=())
            )
            demonstrations = place(demonstrations, batch_sharding(parts.mesh))
            carry, metrics = imitation.learn(carry, demonstrations)
            lines += lines_of(metrics)
        return carry, [lines]

    stage = Stage(
        name="warm start",
        steps=settings.steps,
        steps_per_call=config.steps_per_call,
        advance=advance,
        evaluate=None,
        split=lambda carry: [carry],
        evaluate_every=settings.steps,
        checkpoint_every=config.checkpoint.every,
        keep=1,
    )
    params, _ = run_stage(
        stage,
        workdir,
        start=lambda: imitation.init(starting_params(parts)),
        like=like,
        progress=progress,
    )
    result = {"step": settings.steps, "params_sha256": tree_sha256(params)}
    first(lambda: write_json(workdir / "result.json", result))
    return params


def warm_start_part(config: ConfigDict) -> ConfigDict:
    """The fields that a warm start depends on; runs that differ in others can share it."""
    part = ConfigDict(config.to_dict())
    del part.warm_start["workdir"]
    for field in ("name", "learning_rate", "momentum"):  # the warm start is AdamW at its own rate
        del part.optimizer[field]
    return ConfigDict({name: part[name] for name in ("warm_start", "optimizer", "model", "task")})


def _finished_warm_start(workdir: Path, like):
    """Reads the parameters of a finished warm start; several runs may do so at once."""
    checkpoints = Checkpoints(workdir / "checkpoints", keep=1)
    try:
        restored = checkpoints.restore(like)
    finally:
        checkpoints.close()
    if restored is None:
        raise FileNotFoundError(f"the warm start in {workdir} has no readable checkpoint")
    return restored[1][0]


def _abstract_carry(parts: Parts, imitation: Imitation):
    shapes = jax.eval_shape(
        imitation.init,
        jax.eval_shape(lambda: transformer.init_params(parts.model, jax.random.key(0))),
    )
    return jax.tree.map(
        lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p),
        shapes,
        imitation.carry_shardings,
    )


def _reinforce(
    config: ConfigDict,
    workdir: Path,
    compiled: Compiled,
    progress: Progress,
    verify: Callable | None,
) -> dict[str, Any]:
    parts, members, program, _ = compiled
    hyper = hyperparameters(config, members)

    def start():
        return program.init(hyper, first_params(config, compiled, progress, workdir))

    def advance(state, step, count):
        if parts.task.on_device:
            state, metrics = program.advance(state, parts.task, hyper, count)
            return state, [lines_of(metrics, config)]
        lines = []
        for index in range(step, step + count):
            prompts = parts.task.train_prompts(config.seed, index, config.prompts)
            device_prompts = place(prompts._replace(verifier_inputs=()), batch_sharding(parts.mesh))
            rollouts = program.sample(state, device_prompts)
            rewards = np.asarray(verify(prompts.verifier_inputs, rollouts), np.float32)
            rewards = place(rewards, batch_sharding(parts.mesh))
            state, metrics = program.learn(state, hyper, device_prompts, rollouts, rewards)
            lines += lines_of(metrics, config)
        return state, [lines]

    def evaluate(state, step):
        keeps = workdir if is_first() else None
        return [evaluation_line(parts, program, state.params, verify, step, keeps)]

    state = run_stage(
        reinforcement_stage(workdir.name, config, advance, evaluate, lambda s: [kept(s, hyper)]),
        workdir,
        start=start,
        like=kept(abstract_state(parts, members, hyper), hyper),
        progress=progress,
        whole=lambda restored: whole(compiled, hyper, restored),
    )
    return write_result(config, workdir, state.params)


def reinforcement_stage(name: str, config: ConfigDict, advance, evaluate, split) -> Stage:
    """The RL stage of runs that have `config` in common, as far as a stage goes."""
    return Stage(
        name=name,
        steps=config.steps,
        steps_per_call=config.steps_per_call,
        advance=advance,
        evaluate=evaluate,
        split=split,
        evaluate_every=config.evaluation.every,
        checkpoint_every=config.checkpoint.every,
        keep=config.checkpoint.keep,
        profile=(config.profile.start, config.profile.start + config.profile.steps),
    )


def first_params(config: ConfigDict, compiled: Compiled, progress: Progress, workdir: Path):
    """The policy that RL starts from: after the warm start, if there is one."""
    if not config.warm_start.steps:
        return starting_params(compiled.parts)
    directory = config.warm_start.workdir or workdir / "warm_start"
    return warm_start(config, compiled, progress, directory)


def whole(compiled: Compiled, hyper: Hyperparameters, restored: TrainState) -> TrainState:
    """The state that a program takes, from what a checkpoint holds: the inverse of `kept`."""
    states = advantages.all_states(compiled.members, hyper.advantage, restored.advantage_state)
    # Copied, since leaves of a first state may be one buffer, which cannot be donated twice.
    states = jax.device_put(jax.tree.map(jnp.copy, states), replicated(compiled.parts.mesh))
    return restored._replace(advantage_state=states)


def write_result(config: ConfigDict, workdir: Path, params) -> dict[str, Any]:
    """Writes result.json from the last lines of the log."""
    own = {"step": config.steps, "params_sha256": tree_sha256(params)}

    def write():
        final: dict[str, Any] = {}
        for line in read_lines(workdir / "metrics.jsonl"):
            final |= {k: v for k, v in line.items() if line["step"] == config.steps}
        result = final | own
        write_json(workdir / "result.json", result)
        return result

    return first(write)


def lines_of(metrics: dict, config: ConfigDict | None = None) -> list[dict]:
    """Splits metrics stacked over steps into one dict per step, on the host.

    A metric without the axis of steps belongs to the last step. NaN where a method has no alpha or
    delta is left out.
    """
    metrics = jax.device_get(metrics)
    last = {name: value.item() for name, value in metrics.items() if np.ndim(value) == 0}
    stacked = {name: value for name, value in metrics.items() if np.ndim(value) > 0}
    count = len(next(iter(stacked.values())))
    lines = []
    for i in range(count):
        line = {name: value[i].tolist() for name, value in stacked.items()}
        for name in ("alpha", "delta"):
            if name in line and np.isnan(line[name]):
                del line[name]
        if config is not None:
            line["tokens"] = line["length"] * config.prompts * config.group_size
        lines.append(line)
    lines[-1] |= last
    return lines
