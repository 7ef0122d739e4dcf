"""Evaluates a policy on suites: samples, verdicts and pass@k, a line per completion.

Below: experiment, tasks.suites. Above: evaluate.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from experiments.config import Config, ConfigError, read_object
from experiments.experiment import Experiment, assemble
from experiments.metric_writer import plain_tree, replacing, write_json
from experiments.models.config import ModelConfig
from experiments.sharding import batch_sharding, check_batch, make_mesh, place
from experiments.tasks.base import Prompts, eos_ids
from experiments.tasks.chats import prompt_style
from experiments.tasks.suites import Suite, SuiteProblem, by_id
from experiments.tasks.text_task import decode_completions
from experiments.tasks.verdict import CUT_OFF, Verdict
from experiments.validation import validate
from fade_jax.pass_at_k import interval_over_problems, pass_at_k


class Settings(NamedTuple):
    """How a suite is sampled; a directory belongs to one of these.

    Attributes:
      model: what is evaluated, for people.
      samples: of each problem, N.
      samples_per_call: a divisor of N; fewer take less memory.
      prompts_per_call: problems sampled at once.
      max_tokens: of a completion.
      max_prompt: tokens; problems with longer prompts are left out, and counted.
      system: system message; None for the suite's own.
      template: "chat" or "plain".
      temperature, top_p, top_k: of sampling.
      seed: of sampling.
    """

    model: str
    samples: int
    samples_per_call: int
    prompts_per_call: int
    max_tokens: int
    max_prompt: int
    system: str | None
    template: str
    temperature: float
    top_p: float
    top_k: int
    seed: int


class Encoded(NamedTuple):
    """Problems with their prompts: tokens int32 [N, S], length int32 [N]."""

    problems: list[SuiteProblem]
    tokens: np.ndarray
    length: np.ndarray


class SuiteTask(NamedTuple):
    """What sampling needs of a task."""

    tokenizer: Any
    vocab_size: int
    eos_id: int
    eos_ids: tuple[int, ...]
    pad_id: int
    max_completion: int
    on_device: bool = False


def suite_experiment(
    config: Config, tokenizer: Any, model: ModelConfig, settings: Settings
) -> Experiment:
    """Returns the experiment that samples suites.

    Args:
      config: whose mesh, model and verification are used.
      tokenizer: of the model.
      model: static sizes of the policy.
      settings: see Settings.
    """
    config = config.copy_and_resolve_references()
    config.evaluation.prompts = config.evaluation.prompts_per_call = settings.prompts_per_call
    config.evaluation.samples = settings.samples_per_call
    config.evaluation.ks = (1,)
    for name in ("temperature", "top_p", "top_k"):
        config.sampling[name] = getattr(settings, name)
    config.sampling.loops = 4  # for thousands of completions of real lengths
    validate(config)
    mesh = make_mesh(config.mesh)
    check_batch(mesh, "evaluation.prompts_per_call", settings.prompts_per_call)
    if settings.max_prompt + settings.max_tokens > model.max_positions:
        raise ConfigError(
            f"--max_prompt = {settings.max_prompt} and --max_tokens = {settings.max_tokens} do not"
            f" fit the model's context of {model.max_positions}"
        )
    task: Any = SuiteTask(
        tokenizer,
        tokenizer.vocab_size,
        tokenizer.eos_id,
        eos_ids(tokenizer),
        tokenizer.pad_id,
        settings.max_tokens,
    )
    return assemble(config, mesh, task, model)


def encode_suite(suite: Suite, tokenizer: Any, settings: Settings) -> Encoded:
    """Makes the prompts of a suite.

    Raises:
      ConfigError: if the tokenizer has no chat template, or no prompt is short enough.
    """
    system = suite.system if settings.system is None else settings.system
    try:
        style = prompt_style(tokenizer, settings.template, system)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
    prompts = [style.prompt(problem.prompt) for problem in suite.problems]
    rows = [
        (problem, tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)
        for problem, prompt in zip(suite.problems, prompts)
    ]
    kept = [(problem, row) for problem, row in rows if len(row) <= settings.max_prompt]
    if not kept:
        shortest = min(len(row) for _, row in rows)
        raise ConfigError(
            f"--max_prompt keeps no problem of {suite.name}, got {settings.max_prompt}; the"
            f" shortest prompt has {shortest} tokens"
        )
    tokens = np.full((len(kept), max(len(row) for _, row in kept)), tokenizer.pad_id, np.int32)
    for i, (_, row) in enumerate(kept):
        tokens[i, : len(row)] = row
    length = np.array([len(row) for _, row in kept], np.int32)
    return Encoded([problem for problem, _ in kept], tokens, length)


def sample_suite(
    experiment: Experiment, params: Any, suite: Suite, settings: Settings, directory: Path
) -> dict[str, Any]:
    """Samples and scores a suite, going on where an earlier command ended.

    Args:
      experiment: of `suite_experiment`.
      params: of the policy.
      suite: to evaluate on.
      settings: see Settings.
      directory: of the suite.

    Returns:
      The summary; see `summarize`.
    """
    encoded = encode_suite(suite, cast("SuiteTask", experiment.task).tokenizer, settings)
    path, size = directory / "samples.jsonl", settings.prompts_per_call
    check_claim(directory, suite, settings)
    verification = experiment.config.verification
    right = scored = 0
    with ExitStack() as stack:
        checker = suite.open_checker(verification.workers, verification.timeout_seconds)
        stack.enter_context(closing(checker))
        _claim(directory, suite, settings)
        _drop_cut_line(path)
        done = {(line["id"], line.get("sample")) for line in read_samples(path, suite)}
        file = stack.enter_context(path.open("a", encoding="utf-8"))
        bar = tqdm(total=len(encoded.problems), desc=suite.name, unit="problem", dynamic_ncols=True)
        stack.enter_context(bar)
        for start in range(0, len(encoded.problems), size):
            problems = encoded.problems[start : start + size]
            for first in range(0, settings.samples, settings.samples_per_call):
                wanted = range(first, first + settings.samples_per_call)
                if all((problem.id, i) in done for problem in problems for i in wanted):
                    continue
                key = jax.random.key(np.uint32(settings.seed))
                key = jax.random.fold_in(jax.random.fold_in(key, start), first)
                sampled = _sample(experiment, params, encoded, start, key)
                lines = _score(problems, *sampled, checker, first)
                lines = [line for line in lines if (line["id"], line["sample"]) not in done]
                file.write("".join(json.dumps(plain_tree(line)) + "\n" for line in lines))
                file.flush()
                right += sum(line["verdict"] == "right" for line in lines)
                scored += len(lines)
                bar.set_postfix({"pass@1": f"{right / max(scored, 1):.3f}"}, refresh=False)
            bar.update(len(problems))
    return summarize(suite, read_samples(path, suite), directory)


def _sample(
    experiment: Experiment, params: Any, encoded: Encoded, start: int, key: jax.Array
) -> tuple[list[list[str]], np.ndarray, np.ndarray]:
    """Samples one batch; the last is filled up with its first prompt."""
    size = experiment.config.evaluation.prompts_per_call
    rows = np.arange(start, start + size)
    rows = np.where(rows < len(encoded.problems), rows, start)
    prompts = Prompts(encoded.tokens[rows], encoded.length[rows], ())
    prompts = place(prompts, batch_sharding(experiment.mesh))
    rollouts = experiment.rl.sample_held_out(params, prompts, key)
    tokens, mask = np.asarray(rollouts.tokens), np.asarray(rollouts.token_mask, bool)
    task: Any = experiment.task
    texts, ended = decode_completions(task.tokenizer, task.eos_ids, tokens, mask)
    return texts, ended, mask.sum(axis=-1)


def _score(
    problems: Sequence[SuiteProblem],
    texts: list[list[str]],
    ended: np.ndarray,
    lengths: np.ndarray,
    checker: Any,
    first: int,
) -> list[dict[str, Any]]:
    """Returns a line per completion."""
    cells = [
        {
            "id": problem.id,
            "sample": first + j,
            "completion": text,
            "tokens": int(lengths[i, j]),
            "ended": bool(ended[i, j]),
        }
        for i, problem in enumerate(problems)
        for j, text in enumerate(texts[i])
    ]
    return _scored(cells, by_id(problems), checker)


def _scored(
    lines: Sequence[dict[str, Any]], problems: dict[str, SuiteProblem], checker: Any
) -> list[dict[str, Any]]:
    """Returns the lines with their verdicts; a completion that was cut off is not checked."""
    whole = [line for line in lines if line.get("ended", True)]
    answers = [problems[line["id"]].answer for line in whole]
    verdicts = iter(checker.verify([line["completion"] for line in whole], answers))
    return [
        line | _verdict_fields(next(verdicts) if line.get("ended", True) else CUT_OFF)
        for line in lines
    ]


def _verdict_fields(verdict: Verdict) -> dict[str, Any]:
    return {
        "verdict": verdict.kind,
        "reward": verdict.reward,
        "detail": verdict.detail,
        "seconds": round(verdict.seconds, 4),
    }


def rescore(suite: Suite, directory: Path, workers: int, timeout_seconds: float) -> dict[str, Any]:
    """Judges the saved completions of a directory again, whoever made them.

    A line of samples.jsonl needs the fields `id` and `completion`; one with `ended` false was cut
    off. The file is replaced when all is scored.

    Returns:
      The summary; see `summarize`.
    """
    path = directory / "samples.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"--rescore needs {path}, which does not exist")
    lines = read_samples(path, suite)
    if not lines:
        raise ConfigError(f"{path} has no completions")
    problems = by_id(suite.problems)
    with closing(suite.open_checker(workers, timeout_seconds)) as checker:
        scored: list[dict[str, Any]] = []
        for start in tqdm(range(0, len(lines), 256), desc=suite.name, dynamic_ncols=True):
            scored += _scored(lines[start : start + 256], problems, checker)
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(plain_tree(line)) + "\n" for line in scored))
    return summarize(suite, scored, directory)


def read_samples(path: Path, suite: Suite) -> list[dict[str, Any]]:
    """Reads samples.jsonl.

    Raises:
      ConfigError: for a damaged line, or a problem that the suite does not have.
    """
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no UTF-8: {error}") from error
    return list(_parsed(path, text, by_id(suite.problems)))


def _drop_cut_line(path: Path) -> None:
    """Removes a last line without its newline, which a kill cut off: it is sampled again."""
    data = path.read_bytes() if path.exists() else b""
    if data and not data.endswith(b"\n"):
        with replacing(path) as temporary:
            temporary.write_bytes(data[: data.rfind(b"\n") + 1])


def _parsed(path: Path, text: str, problems: dict[str, SuiteProblem]) -> Iterator[dict[str, Any]]:
    for number, part in enumerate(text.split("\n"), 1):
        if not part.strip():
            continue
        try:
            line = json.loads(part)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}, line {number} is not JSON: {error}") from error
        for field in ("id", "completion"):
            if not isinstance(line, dict) or not isinstance(line.get(field), str):
                raise ConfigError(
                    f"{path}, line {number}: {field} must be a text, got {part[:100]}"
                )
        if line["id"] not in problems:
            raise ConfigError(f"{path}, line {number}: the suite has no problem {line['id']!r}")
        yield line


def summarize(suite: Suite, lines: Sequence[dict[str, Any]], directory: Path) -> dict[str, Any]:
    """Writes counts.csv and summary.json: pass@k, unbiased, with 95% intervals over problems.

    An unknown verdict counts as a sample that was not taken. With problems of fewer samples than
    others, k goes up to the fewest.

    Args:
      suite: of the lines.
      lines: of samples.jsonl, scored.
      directory: to write to.

    Returns:
      The summary; `left_out` counts problems without a completion.
    """
    known = [line for line in lines if line["verdict"] != "unknown"]
    taken = Counter(line["id"] for line in known)
    correct = Counter(line["id"] for line in known if line["verdict"] == "right")
    samples = np.array(list(taken.values()), np.int32)
    right = np.array([correct[name] for name in taken], np.int32)
    table = pd.DataFrame({"id": list(taken), "samples": samples, "right": right})
    with replacing(directory / "counts.csv") as temporary:
        table.to_csv(temporary, index=False)
    rates = {}
    fewest = min(taken.values(), default=0)
    for k in [k for k in (1, 2, 4, 8, 10, 16, 32, 64, 100, 128, 256) if k <= fewest]:
        per_problem = np.concatenate(
            [
                np.asarray(pass_at_k(count, right[samples == count], k))
                for count in np.unique(samples).tolist()
            ]
        )
        mean, low, high = (float(x) for x in interval_over_problems(per_problem))
        rates[f"pass@{k}"] = {"mean": mean, "low": low, "high": high}
    kinds = Counter(line["verdict"] for line in lines)
    tokens = [line["tokens"] for line in lines if "tokens" in line]
    summary = {
        "suite": suite.name,
        "problems": len(samples),
        "left_out": len(suite.problems) - len({line["id"] for line in lines}),
        "completions": len(lines),
        "verdicts": dict(kinds.most_common()),
        "mean_tokens": float(np.mean(tokens)) if len(tokens) == len(lines) else None,
        **rates,
    }
    write_json(directory / "summary.json", summary)
    return summary


def check_claim(directory: Path, suite: Suite, settings: Settings) -> None:
    """Refuses a directory that holds samples of other settings; writes nothing.

    Raises:
      ConfigError: naming the first setting that differs.
    """
    samples = directory / "samples.jsonl"
    if not samples.exists() or not samples.stat().st_size:
        return
    path = directory / "settings.json"
    saved = read_object(path) if path.exists() else {}
    for name, value in {"suite": suite.name, **settings._asdict()}.items():
        if name not in saved or saved[name] != value:
            raise ConfigError(
                f"{directory} holds samples with {name} = {saved.get(name)!r}, got {value!r}:"
                " choose another --out"
            )


def _claim(directory: Path, suite: Suite, settings: Settings) -> None:
    """Writes the settings beside the samples to come."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "settings.json", {"suite": suite.name, **settings._asdict()})


def suite_directory(out: Path, suite: str) -> Path:
    """Returns the directory of a suite, by its name and that of its file."""
    name, _, file = suite.partition(":")
    return out / (f"{name}-{Path(file).name.partition('.')[0]}" if file else name)
