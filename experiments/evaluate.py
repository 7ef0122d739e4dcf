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

from absl import app, flags
from ml_collections import config_flags

from experiments.command import one_line_errors
from experiments.config import ConfigError, saved_config
from experiments.experiment import starting_params
from experiments.held_out import evaluation_line, restore_params
from experiments.learner import hyperparameters
from experiments.train import compile_for, host_verification

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file; see above.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run to evaluate.")
_STEP = flags.DEFINE_integer("step", None, "Checkpoint to evaluate; the newest by default.")
_MODEL = flags.DEFINE_string("model", None, "GGUF file or Hugging Face directory to evaluate.")


# What --config may change of the config that a run saved.
OVERRIDES = ("evaluation", "mesh", "verification")


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
