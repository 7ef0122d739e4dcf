"""Evaluates a policy on the held-out prompts of a config, or on suites.

    python -m experiments.evaluate --workdir=DIR [--step=N]
    python -m experiments.evaluate --config=configs/fade.py --config.evaluation.samples=512 \\
        --workdir=DIR
    python -m experiments.evaluate --config=configs/smollm2_arithmetic.py --model=PATH

With --workdir the policy is a checkpoint of a run and the config is the one that the run saved; a
--config beside it gives the fields `evaluation`, `mesh` and `verification` alone. With --model the
policy is a GGUF file or a Hugging Face directory. On held-out prompts the command writes nothing.

    python -m experiments.evaluate --model=DIR_OR_GGUF --suite=humaneval,aime24 --samples=16 \\
        --data_dir=DIR --out=OUT
    python -m experiments.evaluate --workdir=RUN --suite=math500 --samples=4 --data_dir=DIR
    python -m experiments.evaluate --rescore=OUT --suite=humaneval --data_dir=DIR

OUT/SUITE/samples.jsonl grows by a batch at a time; a command that was killed goes on where it was,
with the same samples. --rescore scores saved completions again, whoever made them.

Below: evaluation, evaluate_suites.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from absl import flags
from ml_collections import config_flags

from experiments import workdir as workdirs
from experiments.command import one_line_errors
from experiments.config import Config, ConfigError, default_config, saved_config
from experiments.evaluate_suites import (
    Settings,
    check_claim,
    encode_suite,
    rescore,
    sample_suite,
    suite_directory,
    suite_experiment,
)
from experiments.evaluation import evaluation_metrics, restore_params
from experiments.experiment import build_experiment, host_rewards, initial_params
from experiments.models import huggingface, tokenizer
from experiments.sandbox.backends import BACKENDS
from experiments.tasks.suites import SUITES, read_suite

OVERRIDES = ("evaluation", "mesh", "verification")  # what --config may change of a saved config


def config_to_evaluate(config: Any, workdir: str | None, model: str | None) -> Config:
    """Returns the config of the run or of the model to evaluate.

    Args:
      config: of --config, or None.
      workdir: of a run.
      model: path of a model.

    Raises:
      ConfigError: unless exactly one of workdir and model is given.
    """
    if (workdir is None) == (model is None):
        raise ConfigError("give --workdir=DIR of a run, or --model=PATH of a model, not both")
    if model is not None:
        if config is None:
            raise ConfigError("--model needs --config=FILE, which names the task")
        config.model.path = model
        return config
    saved: Config = saved_config(workdirs.directory(str(workdir)))
    if config is not None:
        for name in OVERRIDES:
            saved[name] = config[name]
    return saved


def evaluate_suites(values: Any) -> str:
    """Samples and scores the suites of the flags, or scores them again; returns a table."""
    suites = [read_suite(name, values.data_dir, values.sandbox) for name in values.suite]
    folders = [suite_directory(Path(), suite.name) for suite in suites]
    if repeated := [str(folder) for folder in folders if folders.count(folder) > 1]:
        raise ConfigError(f"--suite must name each suite once, got {repeated[0]} twice")
    if values.rescore is not None:
        if values.model is not None or values.workdir is not None or values.out:
            raise ConfigError("--rescore samples nothing: leave --model, --workdir and --out out")
        out, workers = Path(values.rescore).expanduser(), values.workers
        return results_table(
            [
                rescore(suite, suite_directory(out, suite.name), workers, values.check_seconds)
                for suite in suites
            ]
        )
    if values.samples % (values.samples_per_call or values.samples):
        raise ConfigError(
            f"--samples must be a multiple of --samples_per_call, got {values.samples} and"
            f" {values.samples_per_call}"
        )
    config = values.config or (default_config() if values.model is not None else None)
    config = config_to_evaluate(config, values.workdir, values.model)
    if values.model is not None and not values.out:
        raise ConfigError("--suite with --model needs --out=DIR")
    if values.workdir is not None and values.out:
        raise ConfigError(f"--out is for --model: {values.workdir} keeps its own suites")
    config.verification.workers = values.workers
    config.verification.timeout_seconds = values.check_seconds
    if not config.model.path:
        raise ConfigError("--suite needs a model with a tokenizer; that of this run has none")
    if values.workdir is not None:
        trained = build_experiment(config)
        step, params = restore_params(trained, values.workdir, values.step)
        model, weights = trained.model, None
        out = workdirs.directory(values.workdir) / "suites" / str(step)
        named = f"{values.workdir}, step {step}"
    else:
        model, weights = huggingface.open_model(config.model.path, dtype=config.model.dtype)
        params, out, named = None, Path(values.out).expanduser(), config.model.path
    settings = Settings(
        model=named,
        samples=values.samples,
        samples_per_call=values.samples_per_call or values.samples,
        prompts_per_call=values.prompts_per_call,
        max_tokens=values.max_tokens,
        max_prompt=values.max_prompt,
        system=values.system,
        template=values.template,
        **{
            name: config.sampling[name] if getattr(values, name) is None else getattr(values, name)
            for name in ("temperature", "top_p", "top_k")
        },
        seed=values.seed,
    )
    tokens = tokenizer.load(config.model.path).with_end_tokens(config.sampling.end_tokens)
    experiment = suite_experiment(config, tokens, model, settings)
    for suite in suites:  # before the first of them takes hours
        encode_suite(suite, tokens, settings)
        check_claim(suite_directory(out, suite.name), suite, settings)
    if params is None:
        params = initial_params(experiment._replace(weights=weights))
    return results_table(
        [
            sample_suite(experiment, params, suite, settings, suite_directory(out, suite.name))
            for suite in suites
        ]
    )


def results_table(summaries: Sequence[dict[str, Any]]) -> str:
    """Returns a table of summaries, in Markdown."""
    rows = []
    for summary in summaries:
        row = {"suite": summary["suite"].partition(":")[0], "problems": summary["problems"]}
        for name, rate in summary.items():
            if name.startswith("pass@"):
                mean, low, high = (100 * rate[part] for part in ("mean", "low", "high"))
                row[f"{name}, %"] = f"{mean:.1f} [{low:.1f}, {high:.1f}]"
        total = summary["completions"]
        for kind in ("cut off", "no answer", "error", "timeout", "unknown"):
            row[f"{kind}, %"] = f"{100 * summary['verdicts'].get(kind, 0) / total:.1f}"
        rows.append(row)
    return pd.DataFrame(rows).fillna("–").to_markdown(index=False, disable_numparse=True)


def define_flags() -> None:
    """Defines the flags of suites."""
    flags.DEFINE_list("suite", [], f"Of {', '.join(SUITES)}, each NAME or NAME:FILE.")
    flags.DEFINE_string("data_dir", os.environ.get("FADE_JAX_DATA", ""), "Files of the suites.")
    flags.DEFINE_string("out", None, "For --model: directory of the samples.")
    flags.DEFINE_string("rescore", None, "Directory whose completions are scored again.")
    flags.DEFINE_integer("samples", 1, "Completions of each problem.", lower_bound=1)
    flags.DEFINE_integer("samples_per_call", 0, "Sampled at once; 0: all.", lower_bound=0)
    flags.DEFINE_integer("prompts_per_call", 8, "Problems sampled at once.", lower_bound=1)
    flags.DEFINE_integer("max_tokens", 1024, "Of a completion.", lower_bound=1)
    flags.DEFINE_integer("max_prompt", 1024, "Tokens; longer prompts are left out.", lower_bound=1)
    flags.DEFINE_string("system", None, "System message; the suite's own by default.")
    flags.DEFINE_enum("template", "chat", ["chat", "plain"], "Of the prompts.")
    of_config = "Of sampling; by default that of the config."
    flags.DEFINE_float("temperature", None, of_config, lower_bound=1e-6)
    flags.DEFINE_float("top_p", None, of_config, lower_bound=1e-6, upper_bound=1.0)
    flags.DEFINE_integer("top_k", None, of_config, lower_bound=0)
    flags.DEFINE_integer("seed", 0, "Of sampling.", lower_bound=0, upper_bound=2**32 - 1)
    flags.DEFINE_enum("sandbox", "bubblewrap", list(BACKENDS), "Backend for programs.")
    flags.DEFINE_integer("workers", 2, "Processes or sandboxes that score.", lower_bound=1)
    flags.DEFINE_float("check_seconds", 5.0, "Processor time to check an answer.", lower_bound=0.01)


def _main(argv):
    del argv
    values = flags.FLAGS
    if values.suite:
        print(evaluate_suites(values))
        return
    if values.rescore is not None or values.out:
        raise ConfigError(f"--rescore and --out need --suite, of {', '.join(SUITES)}")
    experiment = build_experiment(config_to_evaluate(values.config, values.workdir, values.model))
    if values.model is not None:
        step, params = 0, initial_params(experiment)
    else:
        step, params = restore_params(experiment, values.workdir, values.step)
    with host_rewards(experiment) as rewards_of:
        metrics = evaluation_metrics(experiment, params, rewards_of, step)
    print(json.dumps({"step": step} | metrics))


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "Config file; see above.")
    flags.DEFINE_string("workdir", None, "Directory of the run to evaluate.")
    flags.DEFINE_integer("step", None, "Checkpoint to evaluate; the newest by default.")
    flags.DEFINE_string("model", None, "GGUF file or Hugging Face directory to evaluate.")
    define_flags()
    one_line_errors(_main)
