"""Evaluates a policy alone: pass@k on the held-out prompts of a config.

    python -m experiments.evaluate --workdir=DIR [--step=N]
    python -m experiments.evaluate --config=configs/fade.py --config.evaluation.samples=512 \\
        --workdir=DIR
    python -m experiments.evaluate --config=configs/smollm2_arithmetic.py --model=PATH

With --workdir the policy is a checkpoint of a run and the config is the one that the run saved; a
--config beside it gives the fields `evaluation`, `mesh` and `verification` alone. With --model the
policy is a GGUF file or a Hugging Face directory. Nothing is written.
"""

import json
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from experiments.command import one_line_errors
from experiments.config import ConfigError, default_config, with_added_fields
from experiments.experiment import starting_params
from experiments.held_out import evaluation_line
from experiments.train import compile_for, host_verification, hyperparameters, restore_params

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file; see above.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run to evaluate.")
_STEP = flags.DEFINE_integer("step", None, "Checkpoint to evaluate; the newest by default.")
_MODEL = flags.DEFINE_string("model", None, "GGUF file or Hugging Face directory to evaluate.")


# What --config may change of the config that a run saved.
OVERRIDES = ("evaluation", "mesh", "verification")


def saved_config(workdir: Path) -> ConfigDict:
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
        saved = json.loads(path.read_text(encoding="utf-8"))
        with config.unlocked(), config.ignore_type():
            config.update(_with_tuples(with_added_fields(saved, config.to_dict())))
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is not the config of a run: {error}") from error
    return config


def _with_tuples(value: Any) -> Any:
    """JSON has lists where a config has tuples."""
    if isinstance(value, dict):
        return {name: _with_tuples(part) for name, part in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def main(argv):
    """Prints the evaluation as one line of JSON."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    if (_WORKDIR.value is None) == (_MODEL.value is None):
        raise ConfigError("give --workdir=DIR of a run, or --model=PATH of a model, not both")
    config = _CONFIG.value
    if _MODEL.value is not None:
        if config is None:
            raise ConfigError("--model needs --config=FILE, which names the task")
        config.model.path = _MODEL.value
    else:
        given, config = config, saved_config(Path(_WORKDIR.value))
        for name in OVERRIDES if given is not None else ():
            config[name] = given[name]
    compiled = compile_for(config)
    parts, members, program, _ = compiled
    if _MODEL.value is not None:
        step, params = 0, starting_params(parts)
    else:
        hyper = hyperparameters(config, members)
        step, params = restore_params(parts, members, hyper, _WORKDIR.value, _STEP.value)
    with host_verification(compiled) as verify:
        line = evaluation_line(parts, program, params, verify, step)
    print(json.dumps({"step": step} | line))


if __name__ == "__main__":
    one_line_errors(main)
