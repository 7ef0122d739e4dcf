"""The checks of a config that run before any work: one entry for every field.

Below: config. Above: experiment, jobs, command.
"""

import importlib.util
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_type_hints

from ml_collections import ConfigDict

from experiments.config import Config, ConfigError, shown

REDUCTIONS = ("sequence_sum", "token_mean", "sequence_mean", "constant_length_mean")
KL_ESTIMATORS = ("k1", "k2", "k3")
SWEEP_MODES = ("auto", "processes", "serial", "vmap")
DTYPES = ("float32", "bfloat16")
REMAT_KEEPS = ("nothing", "products")
ATTENTIONS = ("auto", "plain", "blocks", "cudnn", "pallas")
TRACKING = ("tensorboard", "wandb", "mlflow")
LORA_TARGETS = ("query", "key", "value", "output", "gate", "up", "down")


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


def _are_among(names: Any, known: Sequence[str]) -> bool:
    """Whether these are names of `known`, each once."""
    if not isinstance(names, (tuple, list)):
        return False
    return all(isinstance(n, str) and n in known for n in names) and len(set(names)) == len(names)


def _choice(*choices: Any) -> tuple[Check, ...]:
    allowed = f"one of {', '.join(map(str, choices))}"
    return (Check(allowed, lambda x: any(type(x) is type(c) and x == c for c in choices)),)


_POSITIVE = _number("> 0", lambda x: x > 0)
_NOT_NEGATIVE = _number(">= 0", lambda x: x >= 0)
_BELOW_1 = _number("in [0, 1)", lambda x: 0 <= x < 1)
_PROBABILITY = _number("in [0, 1]", lambda x: 0 <= x <= 1)
_FRACTION = _number("in (0, 1]", lambda x: 0 < x <= 1)
_BOOLEAN = _choice(True, False)
_SEED = _whole(0, 2**32 - 1)
_STEPS = _whole(1)
_SIZE = _whole(1, 2**24)  # of what is in memory at one time
_NAME = (Check("a name", lambda x: isinstance(x, str) and 0 < len(x) <= 1000 and "\0" not in x),)
_WORD = (
    Check(
        "a word of at most 1000 characters, or empty",
        lambda x: isinstance(x, str) and len(x) <= 1000 and x.isprintable() and " " not in x,
    ),
)
_PATH = (Check("a path", lambda x: isinstance(x, str) and "\0" not in x and len(x) <= 4096),)
_KWARGS = (Check("a dict of keyword arguments", lambda x: isinstance(x, (ConfigDict, Mapping))),)

# Every field has an entry.
CHECKS: dict[str, tuple[Check, ...]] = {
    "seed": _SEED,
    "steps": _STEPS,
    "prompts": _SIZE,
    "group_size": _whole(1, 2**20),
    "steps_per_call": _STEPS,
    "quick_compile": _BOOLEAN,
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
    "model.attention": _choice(*ATTENTIONS),
    "lora.rank": _whole(0, 2**16),
    "lora.alpha": _POSITIVE,
    "lora.targets": (
        Check(
            f"a tuple of one or more of {', '.join(LORA_TARGETS)}, each once",
            lambda x: _are_among(x, LORA_TARGETS) and len(x) > 0,
        ),
    ),
    "sampling.temperature": _number("> 0", lambda x: x > 0, 1e6),
    "sampling.top_p": _FRACTION,
    "sampling.top_k": _whole(0),
    "sampling.slots": _whole(0, 2**24),
    "sampling.loops": _whole(1, 6),
    "sampling.end_tokens": (
        Check(
            "a tuple of texts of tokens",
            lambda x: isinstance(x, (tuple, list)) and all(isinstance(t, str) and t for t in x),
        ),
    ),
    "advantage.name": _NAME,
    "advantage.kwargs": _KWARGS,
    "learner.epochs": _SIZE,
    "learner.minibatches": _SIZE,
    "learner.microbatches": _SIZE,
    "learner.packed_tokens": _whole(0),
    "learner.clip_low": _FRACTION,
    "learner.clip_high": _NOT_NEGATIVE,
    "learner.loss.name": _NAME,
    "learner.loss.kwargs": _KWARGS,
    "learner.importance_cap": _NOT_NEGATIVE,
    "learner.kl.coefficient": _NOT_NEGATIVE,
    "learner.kl.measured": _BOOLEAN,
    "learner.kl.estimator": _choice(*KL_ESTIMATORS),
    "learner.kl.place": _choice("loss", "reward"),
    "learner.kl.reference": _NAME,
    "learner.kl.refresh_every": _whole(0),
    "learner.kl.schedule.name": _NAME,
    "learner.kl.schedule.kwargs": _KWARGS,
    "learner.entropy.coefficient": _number("a number", lambda x: x >= -3e38),
    "learner.entropy.schedule.name": _NAME,
    "learner.entropy.schedule.kwargs": _KWARGS,
    "learner.reduction": _choice(*REDUCTIONS),
    "learner.staleness": _whole(0, 1024),
    "learner.equalize_mass": _BOOLEAN,
    "learner.head_rank": _BOOLEAN,
    "learner.resample_rounds": _whole(0, 1024),
    "learner.mask_truncated": _BOOLEAN,
    "learner.overlong_buffer": _whole(0, 2**24),
    "learner.overlong_penalty": _NOT_NEGATIVE,
    "optimizer.name": _NAME,
    "optimizer.kwargs": _KWARGS,
    "optimizer.schedule.name": _NAME,
    "optimizer.schedule.kwargs": _KWARGS,
    "optimizer.moments_dtype": _choice(*DTYPES),
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
    "evaluation.shown_prompts": _whole(0, 2**20),
    "checkpoint.every": _STEPS,
    "checkpoint.keep": _STEPS,
    "profile.start": _whole(0),
    "profile.steps": _whole(0),
    "tracking": (
        Check(
            f"a tuple of none or more of {', '.join(TRACKING)}, each once",
            lambda x: _are_among(x, TRACKING),
        ),
    ),
    "mesh.data": (Check("-1 or >= 1", lambda x: type(x) is int and (x == -1 or 1 <= x < 2**31)),),
    "mesh.fsdp": _STEPS,
    "mesh.tensor": _STEPS,
    "mesh.samplers": _whole(0, 2**20),
    "curriculum.low": _PROBABILITY,
    "curriculum.high": _PROBABILITY,
    "curriculum.explore": _PROBABILITY,
    "curriculum.decay": _PROBABILITY,
    "verification.workers": _whole(0, 4096),
    "verification.timeout_seconds": _number("> 0", lambda x: x > 0, 86400),
    "sweep.mode": _choice(*SWEEP_MODES),
    "sweep.workers": _whole(0, 4096),
    "sweep.runs_together": _whole(0),
    "sweep.seeds": _whole(1, 2**20),
    "sweep.reuse": _PATH,
    "launcher.jobs": _whole(0, 2**20),
    "launcher.at_once": _whole(0, 2**20),
    "launcher.partition": _WORD,
    "launcher.account": _WORD,
    "launcher.gpus": _whole(0, 1024),
    "launcher.cpus": _whole(0, 2**16),
    "launcher.memory_gb": _whole(0, 2**20),
    "launcher.minutes": _whole(1, 2**20),
    "launcher.requeues": _whole(0, 2**20),
    "launcher.parameters": _KWARGS,
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


def check_arguments(
    function: Callable, kwargs: Mapping, field: str, given: Sequence[str] = ("tokenizer",)
) -> None:
    """Raises ConfigError when `kwargs` does not fit the signature of `function`.

    Checks names, and the types of parameters that are annotated as numbers, str or bool; those in
    `given` are not the config's.
    """
    parameters = dict(inspect.signature(function).parameters)
    for name in given:
        parameters.pop(name, None)
    try:
        types = get_type_hints(inspect.unwrap(function))
    except Exception:  # annotations of a user's function may name what is not there
        types = {}
    named = {name: p for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    for name, value in kwargs.items():
        if name in named:
            _check_type(f"{field}.{name}", value, types.get(name))
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
    _require(
        not config.learner.packed_tokens or config.learner.microbatches == 1,
        "learner.microbatches",
        config.learner.microbatches,
        f"1 with config.learner.packed_tokens = {config.learner.packed_tokens}",
    )
    _check_divides(config, "steps_per_call", "steps")
    _check_divides(config, "steps_per_call", "evaluation.every")
    _check_divides(config, "steps_per_call", "checkpoint.every")
    _check_divides(config, "evaluation.prompts_per_call", "evaluation.prompts")
    samplers = config.mesh.samplers
    allowed = "at least 1 with config.mesh.samplers: step t is sampled while earlier ones train"
    ahead = config.learner.staleness
    _require(not samplers or ahead > 0, "learner.staleness", ahead, allowed)
    reference = config.learner.kl.reference
    exists = reference == "start" or os.path.exists(os.path.expanduser(reference))
    hint = "'start', or an existing GGUF file or Hugging Face directory"
    _require(exists, "learner.kl.reference", reference, hint)
    for service in {*config.tracking} - {"tensorboard"}:
        installed = importlib.util.find_spec(service) is not None
        needs = f"pip install 'fade-jax[tracking]' for {service}"
        _require(installed, "tracking", config.tracking, f"without {service}, or {needs}")
    low, high = config.curriculum.low, config.curriculum.high
    allowed = f"at least config.curriculum.low = {low}"
    _require(low <= high, "curriculum.high", high, allowed)
    samples, ks = config.evaluation.samples, tuple(config.evaluation.ks)
    allowed = f"numbers in 1..config.evaluation.samples = {samples}"
    _require(all(1 <= k <= samples for k in ks), "evaluation.ks", ks, allowed)
    model = config.model
    if model.path:
        exists = os.path.exists(os.path.expanduser(model.path))
        hint = "an existing GGUF file or Hugging Face directory (`make smollm2` fetches one)"
        _require(exists, "model.path", model.path, hint)
        return
    ends = tuple(config.sampling.end_tokens)
    _require(not ends, "sampling.end_tokens", ends, "empty without config.model.path")
    if model.d_model % (2 * model.num_heads):
        raise ConfigError(
            f"config.model.num_heads must divide config.model.d_model = {model.d_model} into heads"
            f" of even width, got {model.num_heads}"
        )
    _check_divides(config, "model.num_kv_heads", "model.num_heads")
