"""Evaluates a policy alone: pass@k on the held-out prompts of a config.

    python -m experiments.evaluate --config=configs/fade.py --workdir=DIR [--step=N]
    python -m experiments.evaluate --config=configs/smollm2_arithmetic.py --model=PATH

The first reads a checkpoint of a run, the second a GGUF file or a Hugging Face directory.
"""

import json

from absl import app, flags
from ml_collections import config_flags

from experiments.command import one_line_errors
from experiments.config import ConfigError
from experiments.held_out import evaluation_line
from experiments.setup import starting_params
from experiments.train import compile_for, host_verification, hyperparameters, restore_params

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file of the run.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run to evaluate.")
_STEP = flags.DEFINE_integer("step", None, "Checkpoint to evaluate; the newest by default.")
_MODEL = flags.DEFINE_string("model", None, "GGUF file or Hugging Face directory to evaluate.")


def main(argv):
    """Prints the evaluation as one line of JSON."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    config = _CONFIG.value
    if (_WORKDIR.value is None) == (_MODEL.value is None):
        raise ConfigError("give --workdir=DIR of a run, or --model=PATH of a model, not both")
    if _MODEL.value is not None:
        config.model.path = _MODEL.value
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
    flags.mark_flag_as_required("config")
    one_line_errors(main)
