"""Writes the policy of a run as a Hugging Face directory.

    python -m experiments.export --workdir=RUN --out=DIR [--step=N] [--dtype=bfloat16] [--adapters]

The directory holds config.json, safetensors, generation_config.json, and the files of the tokenizer
that the run began with, chat template included; transformers and `config.model.path` read it. A run
without a tokenizer, of a task on token ids, gives the model alone. The run is read, not changed, on
one device; JAX_PLATFORMS=cpu takes the host's memory.

The adapters of LoRA are merged, or with --adapters written as a directory of peft. Its base model
is config.model.path if RL started from that directory; otherwise it is written to DIR/base.

Below: evaluate, experiment, models. Above: nothing.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import flags

from experiments import workdir as workdirs
from experiments.command import one_line_errors
from experiments.config import Config, ConfigError, saved_config, shown
from experiments.evaluation import restore_params, restore_trained
from experiments.experiment import Experiment, build_experiment
from experiments.models import huggingface, peft
from experiments.models.config import read_json
from experiments.tasks.base import eos_ids
from experiments.warm_start import start_params

# What a Hugging Face directory may hold of a tokenizer.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)


def export(
    workdir: str | Path,
    out: str | Path,
    step: int | None = None,
    dtype: str = "float32",
    adapters: bool = False,
) -> int:
    """Writes the policy of a run's checkpoint to a new directory.

    Args:
      workdir: of the run.
      out: the directory; it must not exist, or be empty. It appears when it is complete.
      step: of the checkpoint; None for the newest that is whole.
      dtype: of the weights, one of huggingface.SAVED_DTYPES.
      adapters: write those of LoRA apart from their base.

    Returns:
      The step of the checkpoint.

    Raises:
      ConfigError: for an `out` or a `dtype` that cannot be, or a run without adapters.
      FileNotFoundError: if there is no run, or not the checkpoint asked for.
      ValueError: if a weight is too large for `dtype`, or the checkpoint is damaged.
    """
    out = Path(out).expanduser().resolve()
    if dtype not in huggingface.SAVED_DTYPES:
        allowed = ", ".join(huggingface.SAVED_DTYPES)
        raise ConfigError(f"--dtype must be one of {allowed}, got {shown(dtype)}")
    if (out.is_dir() and any(out.iterdir())) or (out.exists() and not out.is_dir()):
        raise ConfigError(f"--out must be a new or empty directory, got {str(out)!r}")
    parent = next(path for path in out.parents if path.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise ConfigError(f"--out must lie in a directory that can be written, got {str(out)!r}")
    workdir = workdirs.directory(workdir)
    config = saved_config(workdir)
    if adapters and not config.lora.rank:
        raise ConfigError(
            f"--adapters needs a run with config.lora.rank > 0, that of {workdir} is 0"
        )
    _check_step(workdir / "checkpoints", step)
    for axis in ("data", "fsdp", "tensor"):  # a run on a pod too
        config.mesh[axis] = 1
    experiment = build_experiment(config)
    step, params = (restore_trained if adapters else restore_params)(experiment, workdir, step)
    with _complete(out) as directory:
        if adapters:
            base = _base(experiment, workdir, out, directory, dtype)
            peft.save(directory, params, alpha=config.lora.alpha, base=base, dtype=dtype)
        else:
            huggingface.save(directory, experiment.model, params, dtype)
            _save_tokenizer(experiment, directory)
    return step


def _base(experiment: Experiment, workdir: Path, out: Path, directory: Path, dtype: str) -> str:
    """Returns the path of the adapters' base, which is written if it is in no directory yet."""
    config = experiment.config
    source = Path(config.model.path).expanduser()
    if config.model.path and source.is_dir() and not config.warm_start.steps:
        return str(source.resolve())
    huggingface.save(directory / "base", experiment.model, start_params(experiment, workdir), dtype)
    _save_tokenizer(experiment, directory / "base")
    return str(out / "base")


def _check_step(checkpoints: Path, step: int | None) -> None:
    """Raises FileNotFoundError if there is no checkpoint to read, before data and weights are."""
    steps = sorted(int(path.name) for path in checkpoints.glob("*") if path.name.isdigit())
    if not steps or (step is not None and step not in steps):
        asked = "" if step is None else f" of step {step}"
        raise FileNotFoundError(f"no checkpoint{asked} in {checkpoints}; there are {steps}")


@contextmanager
def _complete(out: Path) -> Iterator[Path]:
    """Yields a directory beside `out` to write to, which becomes `out`, or goes on an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    directory = out.parent / f".{out.name}.{os.getpid()}.tmp"
    directory.mkdir()
    try:
        yield directory
        directory.replace(out)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _save_tokenizer(experiment: Experiment, directory: Path) -> None:
    """Writes the tokenizer, and which tokens end a completion, for the model in `directory`."""
    config, task = experiment.config, experiment.task
    source = Path(config.model.path).expanduser()
    generation: dict[str, Any] = {}
    tokens = task
    if config.model.path:
        tokens = _tokenizer(config)
        if source.is_dir():
            for name in _TOKENIZER_FILES:
                if (source / name).is_file():
                    shutil.copyfile(source / name, directory / name)
            if (source / "generation_config.json").is_file():
                generation = read_json(source / "generation_config.json")
        else:
            tokens.save(directory)
    ids = {"eos_token_id": list(eos_ids(tokens)), "pad_token_id": tokens.pad_id}
    _write(directory / "generation_config.json", generation | ids)
    _write(directory / "config.json", read_json(directory / "config.json") | ids)


def _tokenizer(config: Config) -> Any:
    from experiments.models import tokenizer

    return tokenizer.load(config.model.path).with_end_tokens(config.sampling.end_tokens)


def _write(path: Path, settings: dict) -> None:
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _main(argv):
    del argv
    values = flags.FLAGS
    for name in ("workdir", "out"):
        if not values[name].value:
            raise ConfigError(f"--{name} must be a directory, got {values[name].value!r}")
    step = export(values.workdir, values.out, values.step, values.dtype, values.adapters)
    print(f"checkpoint {step} of {values.workdir} is in {values.out}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Directory of the run.")
    flags.DEFINE_string("out", None, "Directory to write, which must be new or empty.")
    flags.DEFINE_integer("step", None, "Checkpoint to export; the newest by default.")
    flags.DEFINE_string("dtype", "float32", "Of the weights: bfloat16, float16 or float32.")
    flags.DEFINE_bool("adapters", False, "Write the adapters of LoRA for peft, not merged weights.")
    one_line_errors(_main)
