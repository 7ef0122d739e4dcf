"""The fields of a config, their defaults, and the checks that run before any work.

Imports nothing of ours. Above: everything.
"""

import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from ml_collections import ConfigDict

if TYPE_CHECKING:  # ConfigDict types a field as a union of all that any field may hold
    Config = Any
else:
    Config = ConfigDict

REDUCTIONS = ("sequence_sum", "token_mean", "sequence_mean")
OPTIMIZERS = ("adamw", "sgd")
SWEEP_MODES = ("auto", "processes", "serial", "vmap")
DTYPES = ("float32", "bfloat16")
REMAT_KEEPS = ("nothing", "products")


# A run may resume with other values of these fields.
FREE_TO_CHANGE = (
    "steps",
    "checkpoint.every",
    "checkpoint.keep",
    "profile.start",
    "profile.steps",
    "sweep.mode",
    "sweep.workers",
    "sweep.runs_together",
    "sweep.seeds",
    "sweep.reuse",
    "verification.workers",
    "verification.timeout_seconds",
    "warm_start.workdir",
)


class ConfigError(ValueError):
    """A config that cannot run: one line that names the field, its value and what is allowed."""


class SweepError(RuntimeError):
    """Runs of a sweep that failed; the others have been made."""


def default_config() -> Config:
    """Returns every field with its default; the comments here are the fields' documentation."""
    config: Config = ConfigDict()
    config.seed = 0  # of sampling and of the order of the prompts
    config.steps = 600  # RL steps; each is one batch of rollouts
    config.prompts = 32  # P, prompts per step
    config.group_size = 16  # G, rollouts per prompt
    config.steps_per_call = 10  # RL steps per compiled call on a device task, and per log flush

    # experiments.tasks.<name>.make(tokenizer, **kwargs); a dotted name is an import path
    config.task = ConfigDict({"name": "graph", "kwargs": {}})

    config.model = ConfigDict()
    config.model.path = ""  # a GGUF file or a Hugging Face directory; empty: the sizes below
    config.model.num_layers = 2
    config.model.d_model = 64
    config.model.num_heads = 4
    config.model.num_kv_heads = 4
    config.model.d_ff = 256
    config.model.tied_head = False
    config.model.dtype = "float32"  # of the computation; parameters are always float32
    # Recompute each block in the backward pass: less memory, and on a CPU no slower.
    config.model.remat = True
    # What remat keeps: "nothing", or the outputs of matmuls ("products"), which takes less time and
    # more memory.
    config.model.remat_keeps = "nothing"

    config.sampling = ConfigDict()
    config.sampling.temperature = 1.0
    config.sampling.top_p = 1.0
    config.sampling.top_k = 0  # 0: no truncation

    # A factory of fade_jax.transforms, called with **kwargs; or the import path of a user-defined
    # function such as my_advantages.mine, which is a factory too, or a plain advantage of
    # (rewards, **kwargs). `python -m` imports from the directory of the command, or what is
    # installed.
    config.advantage = ConfigDict({"name": "fade", "kwargs": {}})

    config.learner = ConfigDict()
    config.learner.epochs = 1  # passes over a batch of rollouts
    config.learner.minibatches = 1  # optimizer updates per pass
    # Gradient accumulation inside a minibatch: saves memory, fits a CPU's cache, and skips the
    # microbatches whose advantages are all 0.
    config.learner.microbatches = 1
    config.learner.clip_low = 0.2  # the ratio is clipped to [1 - clip_low, 1 + clip_high]
    config.learner.clip_high = 0.2
    config.learner.reduction = "sequence_sum"  # of the token losses (learner.REDUCTIONS)
    config.learner.staleness = 0  # policy lag of the sampler, in steps
    config.learner.equalize_mass = False  # rescale advantages to the total weight of r - mean(r)
    # Log the rank-one fraction of the output head's update; keeps a copy of the initial head.
    config.learner.head_rank = True

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-4
    config.optimizer.warmup_updates = 0  # linear
    config.optimizer.momentum = 0.0  # of sgd; b1, b2 and eps are of adamw
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.0
    config.optimizer.max_gradient_norm = 0.0  # 0: no clipping

    # Supervised steps on the task's demonstrations, before RL; AdamW whatever optimizer.name is, so
    # that optimizers are compared from the same start.
    config.warm_start = ConfigDict()
    config.warm_start.workdir = ""  # to share one among runs; empty: inside the run's workdir
    config.warm_start.steps = 280
    config.warm_start.batch = 64
    config.warm_start.learning_rate = 1e-3
    config.warm_start.seed = 0  # of the initial weights and of the demonstrations

    config.evaluation = ConfigDict()  # pass@k on held-out prompts
    config.evaluation.every = 100
    config.evaluation.prompts = 256
    config.evaluation.samples = 128
    config.evaluation.prompts_per_call = 64
    config.evaluation.ks = (1, 10, 100)
    config.evaluation.seed = 0

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 100
    config.checkpoint.keep = 2

    config.profile = ConfigDict()  # jax.profiler trace in WORKDIR/profile
    config.profile.start = 10  # steps before the trace, which leave compilation out
    config.profile.steps = 0  # RL steps in the trace; 0: no trace

    config.mesh = ConfigDict()  # the product of the axes is the number of devices used
    config.mesh.data = -1  # -1: all remaining devices
    config.mesh.fsdp = 1
    config.mesh.tensor = 1

    config.verification = ConfigDict()  # for tasks that are verified on the host
    config.verification.workers = 0  # processes; 0: the main process
    config.verification.timeout_seconds = 5.0  # a rollout that takes longer counts as failed

    config.sweep = ConfigDict()  # for config files with a sweep() function
    config.sweep.mode = "auto"  # processes on a CPU, vmap on an accelerator
    config.sweep.workers = 0  # of processes; 0: one per core
    config.sweep.runs_together = 0  # at most, in one vmapped program; 0: all that can share it
    config.sweep.seeds = 5  # for sweep files with an axis of seeds
    config.sweep.reuse = ""  # directory of sweeps; finished runs with equal configs are copied
    return config.lock()  # a field that is not here is an error


def with_mode(config: Config, mode: str, shrink: Callable | None = None) -> Config:
    """Applies the part of --config behind the colon: nothing, or `smoke`.

    Args:
      config: of the full run.
      mode: "" or "smoke".
      shrink: what `smoke` does; `smoke_run` by default.

    Raises:
      ConfigError: for any other mode.
    """
    if mode not in ("", "smoke"):
        raise ConfigError(f"the config has no mode {mode!r}; there is 'smoke'")
    return (shrink or smoke_run)(config) if mode else config


def smoke_run(config: Config) -> Config:
    """Shrinks a run on a device task to well under a minute on one core."""
    config.steps = 4
    config.steps_per_call = 2
    config.prompts = 4
    config.group_size = 4
    config.learner.microbatches = 1
    config.model.d_model = 32
    config.model.d_ff = 64
    config.warm_start.steps = min(config.warm_start.steps, 4)
    config.warm_start.batch = 16
    config.evaluation.every = 2
    config.evaluation.prompts = 8
    config.evaluation.samples = 8
    config.evaluation.prompts_per_call = 8
    config.evaluation.ks = (1, 4)
    config.checkpoint.every = 2
    config.sweep.seeds = 1
    return config


def smoke_language_model(config: Config) -> Config:
    """Shrinks a run on a pre-trained language model."""
    smoke_run(config)
    config.steps = 2
    config.steps_per_call = 1
    config.prompts = 2
    config.warm_start.steps = min(config.warm_start.steps, 1)
    config.warm_start.batch = 2
    config.task.kwargs.max_completion = min(config.task.kwargs.max_completion, 16)
    config.evaluation.prompts = 2
    config.evaluation.prompts_per_call = 2
    config.evaluation.samples = 4
    return config


def leaves(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted field, value) of a nested dict; an empty dict has none."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def with_added_fields(saved: Mapping, like: Mapping, defaults: Mapping | None = None) -> dict:
    """Returns a config saved by an earlier version, with the fields that were added since.

    By default an added field does what runs did before it existed.

    Args:
      saved: nested dict.
      like: a current config, or a part of one, which has the fields to add.
      defaults: of the fields of `like`; of default_config() if None.
    """
    now: Mapping = default_config().to_dict() if defaults is None else defaults
    added = {name: now[name] for name in like if name in now and name not in saved}
    parts = {
        name: with_added_fields(value, like[name], now[name])
        for name, value in saved.items()
        if all(isinstance(tree.get(name), Mapping) for tree in (saved, like, now))
    }
    return {**saved, **added, **parts}


def conflicts(saved: Mapping, new: Mapping) -> list[str]:
    """Returns what keeps a run with config `new` from going on where `saved` was.

    Both are nested dicts of JSON; each item reads "field: old there, new here". Fields that were
    added since `saved` have their defaults there, and those in FREE_TO_CHANGE may differ.
    """
    old = dict(leaves(with_added_fields(saved, new)))
    now = dict(leaves(new))
    return [
        f"{field}: {old.get(field)!r} there, {now.get(field)!r} here"
        for field in sorted(old.keys() | now.keys())
        if field not in FREE_TO_CHANGE and old.get(field) != now.get(field)
    ]


def saved_config(workdir: Path) -> Config:
    """Reads the config of a run.

    Raises:
      FileNotFoundError: if there is no config.json in `workdir`.
      ConfigError: if it is no config.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"there is no run in {workdir}: {path} is missing")
    config = default_config()
    try:
        saved = with_added_fields(read_object(path), config.to_dict())
        with config.unlocked(), config.ignore_type():
            config.update(_with_tuples(saved))
    except (AttributeError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} is not the config of a run: {error}") from error
    return config


def _with_tuples(value: Any) -> Any:
    """JSON has lists where a config has tuples."""
    if isinstance(value, dict):
        return {name: _with_tuples(part) for name, part in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def shown(value: Any) -> str:
    """Returns the repr of a value for an error message, cut after 200 characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an int of more than 4300 digits
        text = f"a number of {value.bit_length()} bits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def read_object(path: Path) -> dict:
    """Reads a file that holds one JSON object.

    Raises:
      ConfigError: if it holds anything else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is damaged: it must be a JSON object, got {shown(value)}")
    return value


def _lookup(config: Any, field: str) -> Any:
    for part in field.split("."):
        if not isinstance(config, (ConfigDict, Mapping)) or part not in config:
            raise ConfigError(f"config.{field} is missing")
        config = config[part]
    return config


def _require(ok: bool, field: str, value, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"config.{field} must be {allowed}, got {shown(value)}")


class Check(NamedTuple):
    """A condition on the value of a field, and the words for it in an error message."""

    allowed: str
    holds: Callable[[Any], bool]


def _whole(low: int, high: int = 2**31 - 1) -> tuple[Check, ...]:
    return (
        Check(f"a whole number >= {low}", lambda x: type(x) is int and x >= low),
        Check(f"a whole number <= {high}", lambda x: x <= high),
    )


def _number(allowed: str, holds: Callable[[float], bool], high: float = 3e38) -> tuple[Check, ...]:
    """Numbers are finite in float32 too, which programs compute in."""
    return (
        Check("a number", lambda x: isinstance(x, (int, float)) and not isinstance(x, bool)),
        Check(allowed, holds),
        Check(f"finite and <= {high:g}", lambda x: x <= high),
    )


def _choice(*choices: Any) -> tuple[Check, ...]:
    allowed = f"one of {', '.join(map(str, choices))}"
    return (Check(allowed, lambda x: any(type(x) is type(c) and x == c for c in choices)),)


_POSITIVE = _number("> 0", lambda x: x > 0)
_NOT_NEGATIVE = _number(">= 0", lambda x: x >= 0)
_BELOW_1 = _number("in [0, 1)", lambda x: 0 <= x < 1)
_FRACTION = _number("in (0, 1]", lambda x: 0 < x <= 1)
_BOOLEAN = _choice(True, False)
_SEED = _whole(0, 2**32 - 1)
_STEPS = _whole(1)
_SIZE = _whole(1, 2**24)  # of what is in memory at one time
_NAME = (Check("a name", lambda x: isinstance(x, str) and 0 < len(x) <= 1000 and "\0" not in x),)
_PATH = (Check("a path", lambda x: isinstance(x, str) and "\0" not in x and len(x) <= 4096),)
_KWARGS = (Check("a dict of keyword arguments", lambda x: isinstance(x, (ConfigDict, Mapping))),)

# Every field has an entry.
CHECKS: dict[str, tuple[Check, ...]] = {
    "seed": _SEED,
    "steps": _STEPS,
    "prompts": _SIZE,
    "group_size": _whole(1, 2**20),
    "steps_per_call": _STEPS,
    "task.name": _NAME,
    "task.kwargs": _KWARGS,
    "model.path": _PATH,
    "model.num_layers": _whole(1, 4096),
    "model.d_model": _SIZE,
    "model.num_heads": _SIZE,
    "model.num_kv_heads": _SIZE,
    "model.d_ff": _SIZE,
    "model.tied_head": _BOOLEAN,
    "model.dtype": _choice(*DTYPES),
    "model.remat": _BOOLEAN,
    "model.remat_keeps": _choice(*REMAT_KEEPS),
    "sampling.temperature": _number("> 0", lambda x: x > 0, 1e6),
    "sampling.top_p": _FRACTION,
    "sampling.top_k": _whole(0),
    "advantage.name": _NAME,
    "advantage.kwargs": _KWARGS,
    "learner.epochs": _SIZE,
    "learner.minibatches": _SIZE,
    "learner.microbatches": _SIZE,
    "learner.clip_low": _FRACTION,
    "learner.clip_high": _NOT_NEGATIVE,
    "learner.reduction": _choice(*REDUCTIONS),
    "learner.staleness": _whole(0, 1024),
    "learner.equalize_mass": _BOOLEAN,
    "learner.head_rank": _BOOLEAN,
    "optimizer.name": _choice(*OPTIMIZERS),
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.warmup_updates": _whole(0),
    "optimizer.momentum": _BELOW_1,
    "optimizer.b1": _BELOW_1,
    "optimizer.b2": _BELOW_1,
    "optimizer.eps": _POSITIVE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.max_gradient_norm": _NOT_NEGATIVE,
    "warm_start.workdir": _PATH,
    "warm_start.steps": _whole(0),
    "warm_start.batch": _SIZE,
    "warm_start.learning_rate": _POSITIVE,
    "warm_start.seed": _SEED,
    "evaluation.every": _STEPS,
    "evaluation.prompts": _SIZE,
    "evaluation.samples": _SIZE,
    "evaluation.prompts_per_call": _SIZE,
    "evaluation.ks": (
        Check(
            "a tuple of one or more whole numbers",
            lambda x: (
                isinstance(x, (tuple, list)) and len(x) > 0 and all(type(k) is int for k in x)
            ),
        ),
    ),
    "evaluation.seed": _SEED,
    "checkpoint.every": _STEPS,
    "checkpoint.keep": _STEPS,
    "profile.start": _whole(0),
    "profile.steps": _whole(0),
    "mesh.data": (Check("-1 or >= 1", lambda x: type(x) is int and (x == -1 or 1 <= x < 2**31)),),
    "mesh.fsdp": _STEPS,
    "mesh.tensor": _STEPS,
    "verification.workers": _whole(0, 4096),
    "verification.timeout_seconds": _number("> 0", lambda x: x > 0, 86400),
    "sweep.mode": _choice(*SWEEP_MODES),
    "sweep.workers": _whole(0, 4096),
    "sweep.runs_together": _whole(0),
    "sweep.seeds": _whole(1, 2**20),
    "sweep.reuse": _PATH,
}


def _check_divides(config: Mapping, part: str, whole: str) -> None:
    a, b = _lookup(config, whole), _lookup(config, part)
    _require(a % b == 0, part, b, f"a divisor of config.{whole} = {a}")


def _check_type(field: str, value: Any, annotation: Any) -> None:
    """Checks the value of a parameter that is annotated as int, float, str, bool or a union."""
    match annotation.__name__ if isinstance(annotation, type) else None:
        case "int":
            _require(type(value) is int, field, value, "a whole number")
            _require(abs(value) < 2**31, field, value, "a whole number < 2^31")
        case "float":
            number = type(value) in (int, float) and abs(value) <= 3e38  # in float32 too
            _require(number, field, value, "a finite number")
        case "str":
            _require(isinstance(value, str), field, value, "a string")
        case "bool":
            _require(isinstance(value, bool), field, value, "True or False")
        case None if float in (kinds := get_args(annotation)) and not callable(value):
            if not (value is None and type(None) in kinds):
                _check_type(field, value, float)


def check_arguments(function: Callable, kwargs: Mapping, field: str) -> None:
    """Raises ConfigError when `kwargs` does not fit the signature of `function`.

    Checks names, and the types of parameters that are annotated as numbers, str or bool.
    """
    parameters = dict(inspect.signature(function).parameters)
    parameters.pop("tokenizer", None)
    named = {name: p for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    for name, value in kwargs.items():
        if name in named:
            _check_type(f"{field}.{name}", value, named[name].annotation)
        elif named == parameters:
            raise ConfigError(
                f"config.{field} has no field {name!r} (got {shown(value)});"
                f" allowed: {', '.join(named) or 'nothing'}"
            )
    missing = [name for name, p in named.items() if p.default is p.empty and name not in kwargs]
    if missing:
        raise ConfigError(f"config.{field} lacks {', '.join(missing)}; it has {dict(kwargs)}")


def validate(config: Config) -> None:
    """Checks every value that can be checked without data, weights or devices.

    Raises:
      ConfigError: naming the field, its value and what is allowed.
    """
    for field, checks in CHECKS.items():
        value = _lookup(config, field)
        for check in checks:
            _require(check.holds(value), field, value, check.allowed)
    _check_divides(config, "learner.minibatches", "prompts")
    _require(
        (config.prompts // config.learner.minibatches) % config.learner.microbatches == 0,
        "learner.microbatches",
        config.learner.microbatches,
        f"a divisor of the minibatch of {config.prompts // config.learner.minibatches} prompts",
    )
    _check_divides(config, "steps_per_call", "steps")
    _check_divides(config, "steps_per_call", "evaluation.every")
    _check_divides(config, "steps_per_call", "checkpoint.every")
    _check_divides(config, "evaluation.prompts_per_call", "evaluation.prompts")
    samples, ks = config.evaluation.samples, tuple(config.evaluation.ks)
    allowed = f"numbers in 1..config.evaluation.samples = {samples}"
    _require(all(1 <= k <= samples for k in ks), "evaluation.ks", ks, allowed)
    model = config.model
    if model.path:
        exists = os.path.exists(os.path.expanduser(model.path))
        hint = "an existing GGUF file or Hugging Face directory (`make smollm2` fetches one)"
        _require(exists, "model.path", model.path, hint)
        return
    if model.d_model % (2 * model.num_heads):
        raise ConfigError(
            f"config.model.num_heads must divide config.model.d_model = {model.d_model} into heads"
            f" of even width, got {model.num_heads}"
        )
    _check_divides(config, "model.num_kv_heads", "model.num_heads")
