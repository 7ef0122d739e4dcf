"""The fields of a config, their defaults, and the checks that run before any work.

Imports nothing of ours. Above: everything.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

if TYPE_CHECKING:  # ConfigDict types a field as a union of all that any field may hold
    Config = Any
else:
    Config = ConfigDict

# A run may resume with other values of these fields.
FREE_TO_CHANGE = (
    "steps",
    "checkpoint.every",
    "checkpoint.keep",
    "profile.start",
    "profile.steps",
    "tracking",
    "sweep.mode",
    "sweep.workers",
    "sweep.runs_together",
    "sweep.seeds",
    "sweep.reuse",
    "verification.workers",
    "verification.timeout_seconds",
    "warm_start.workdir",
    "launcher.jobs",
    "launcher.at_once",
    "launcher.partition",
    "launcher.account",
    "launcher.gpus",
    "launcher.cpus",
    "launcher.memory_gb",
    "launcher.minutes",
    "launcher.requeues",
    "launcher.parameters",
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
    config.tracking = ("tensorboard",)  # beside metrics.jsonl: of tensorboard, wandb, mlflow

    # Compile in a fifth of the time on a CPU, for slower steps: only to see whether all runs.
    config.quick_compile = False

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
    # Of passes over many tokens: "plain", or "blocks", "cudnn" (GPU, bfloat16) or "pallas" (TPU),
    # which hold no scores of all tokens with all. "auto": plain for short sequences, else what the
    # device has (models.attention).
    config.model.attention = "auto"

    # Low-rank adapters (arXiv:2106.09685): with a rank, RL trains W + (alpha / rank) A B of the
    # targets and leaves all else as the warm start or model.path has it. 0: all parameters.
    config.lora = ConfigDict()
    config.lora.rank = 0
    config.lora.alpha = 16.0
    config.lora.targets = ("query", "key", "value", "output", "gate", "up", "down")

    config.sampling = ConfigDict()
    config.sampling.temperature = 1.0
    config.sampling.top_p = 1.0
    config.sampling.top_k = 0  # 0: no truncation
    # Texts of tokens that end a completion, beside all that the files of model.path name.
    config.sampling.end_tokens = ()
    # Completions that a device decodes at a time; one that ends makes room for the next. 0: all, in
    # the least time; fewer take less memory.
    config.sampling.slots = 0
    # Where completions may have 128 tokens or more, those that outlast the others are decoded in
    # narrower and narrower loops. At most so many, 1 to 6; each is compiled. 1: the plain loop,
    # which rounds log-probabilities as runs did before.
    config.sampling.loops = 1

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
    # In place of microbatches, for completions of different lengths: pack them, without their
    # padding, into rows of which so many tokens are held in memory at a time (experiments.packing).
    # It is one row on each device at least; a good choice is the longest prompt and completion
    # twice, and more for groups with long prompts. 0: no packing.
    config.learner.packed_tokens = 0
    # A token loss: clipped_surrogate, sequence_surrogate (one ratio for a sequence), cispo,
    # policy_gradient, or the import path of a function (objective.loss_function); kwargs are its
    # arguments, of which a sweep may vary the floating-point ones in one program.
    config.learner.loss = ConfigDict({"name": "clipped_surrogate", "kwargs": {}})
    # Of clipped_surrogate: the ratio is clipped to [1 - clip_low, 1 + clip_high].
    config.learner.clip_low = 0.2
    config.learner.clip_high = 0.2
    # Truncated importance sampling: the loss of a token is multiplied by min(π_old / μ, cap), with
    # π_old computed anew and μ as the sampler has it. 0: ratios are taken to the sampler itself.
    config.learner.importance_cap = 0.0
    config.learner.reduction = "sequence_sum"  # of the token losses (objective.REDUCTIONS)
    config.learner.kl = ConfigDict()  # between the policy and a reference
    config.learner.kl.coefficient = 0.0
    config.learner.kl.measured = False  # log it where the coefficient is 0
    config.learner.kl.estimator = "k3"  # k1 has no expected gradient in the loss (losses.kl)
    config.learner.kl.place = "loss"  # of each token, or "reward": what the rollout's sum takes off
    config.learner.kl.reference = (
        "start"  # the policy that RL starts from, or a model like it by path
    )
    config.learner.kl.refresh_every = 0  # steps after which the policy becomes the reference
    # What a coefficient is multiplied by at each step: a schedule as for the optimizer, a
    # controller (pi_controller, adaptive_kl of fade_jax.controllers), or an import path.
    config.learner.kl.schedule = ConfigDict({"name": "constant", "kwargs": {}})
    config.learner.entropy = ConfigDict()  # a bonus, exact over the vocabulary
    config.learner.entropy.coefficient = 0.0
    config.learner.entropy.schedule = ConfigDict({"name": "constant", "kwargs": {}})
    config.learner.staleness = 0  # policy lag of the sampler, in steps
    config.learner.equalize_mass = False  # rescale advantages to the total weight of r - mean(r)
    # Dynamic sampling (DAPO): groups whose rewards are all equal are replaced by groups of further
    # prompts, in at most so many rounds a step, each of a whole batch.
    config.learner.resample_rounds = 0
    config.learner.mask_truncated = False  # leave completions without an end out of the update
    # Soft overlong punishment (DAPO): over the last `overlong_buffer` tokens before max_completion
    # up to `overlong_penalty` is taken off the reward. 0 tokens: none.
    config.learner.overlong_buffer = 0
    config.learner.overlong_penalty = 1.0
    # Log the rank-one fraction of the output head's update; keeps a copy of the initial head. Not
    # with lora, which leaves the head as it is.
    config.learner.head_rank = True

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # an optimizer of optax or optax.contrib
    config.optimizer.kwargs = ConfigDict()  # its arguments beyond those below
    config.optimizer.learning_rate = 3e-4
    config.optimizer.warmup_updates = 0  # linear
    # What follows the warmup: constant, linear, cosine, warmup_stable_decay, or an import path; its
    # arguments count updates (optimizers.SCHEDULES).
    config.optimizer.schedule = ConfigDict({"name": "constant", "kwargs": {}})
    config.optimizer.momentum = 0.0  # of sgd; b1, b2 and eps are of adamw
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.0  # not of norms and biases
    config.optimizer.moments_dtype = "float32"  # of the first moment, where an optimizer has one
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
    # Of a task on text: prompts whose completions are kept in WORKDIR/samples/STEP.jsonl.
    config.evaluation.shown_prompts = 4

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
    # Further devices that sample for the next steps while those above train; learner.staleness says
    # how many steps ahead. 0: the same devices take turns.
    config.mesh.samplers = 0

    # Training prompts drawn among those with a running solve rate in [low, high], or unseen; [0, 1]
    # draws all in epochs. For tasks with a finite set of prompts, verified on the host.
    config.curriculum = ConfigDict()
    config.curriculum.low = 0.0
    config.curriculum.high = 1.0
    config.curriculum.explore = 0.1  # share of each step's prompts that is drawn from all
    config.curriculum.decay = 0.5  # weight of the rollouts of earlier visits in a solve rate

    config.verification = ConfigDict()  # for tasks that are verified on the host
    config.verification.workers = 0  # processes; 0: the main process
    config.verification.timeout_seconds = 5.0  # a rollout that takes longer counts as failed

    config.sweep = ConfigDict()  # for config files with a sweep() function
    config.sweep.mode = "auto"  # processes on a CPU, vmap on an accelerator
    config.sweep.workers = 0  # of processes; 0: one per core
    config.sweep.runs_together = 0  # at most, in one vmapped program; 0: all that can share it
    config.sweep.seeds = 5  # for sweep files with an axis of seeds
    config.sweep.reuse = ""  # directory of sweeps; finished runs with equal configs are copied

    config.launcher = ConfigDict()  # for sweeps with --launcher=slurm or local
    config.launcher.jobs = 0  # parts of the sweep; 0: one for each run (slurm), one in all (local)
    config.launcher.at_once = 0  # SLURM jobs that may run at the same time; 0: all
    config.launcher.partition = ""  # empty, and 0 for gpus, cpus and memory_gb: the cluster's own
    config.launcher.account = ""
    config.launcher.gpus = 0  # of each job, as cpus and memory_gb
    config.launcher.cpus = 0
    config.launcher.memory_gb = 0
    config.launcher.minutes = 1440  # a job that runs longer is stopped, requeued and goes on
    config.launcher.requeues = 20  # how often
    # Further arguments of submitit's AutoExecutor.update_parameters: slurm_qos, slurm_setup,
    # slurm_additional_parameters and so on.
    config.launcher.parameters = ConfigDict()
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
    config.quick_compile = True
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
        if not any(f"{field}.".startswith(f"{free}.") for free in FREE_TO_CHANGE)
        and _with_tuples(old.get(field)) != _with_tuples(now.get(field))
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
    config, found = default_config(), read_object(path)
    try:
        saved = with_added_fields(found, config.to_dict())
        with config.unlocked(), config.ignore_type():
            config.update(_with_tuples(saved))
    except (AttributeError, TypeError, KeyError, ValueError) as error:
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
