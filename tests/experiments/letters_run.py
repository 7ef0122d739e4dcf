"""A run whose answers are scored on the host: letters instead of a language model's words.

As a command, it is one process of several: python -m tests.experiments.letters_run WORKDIR PORT N I
"""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import jax

from experiments.config import ConfigError
from experiments.experiment import build_experiment
from experiments.loop import Stopped
from experiments.metric_writer import Silent
from experiments.multihost import any_of, connect, everywhere, first, gather, same
from experiments.tasks.text_task import Problem, text_task
from experiments.train import train
from tests.experiments.tiny_config import get_config as tiny_config

LETTERS = "abcd"
SCORED: list[str] = []
STOPS = [False]  # whether this process gets a SIGTERM when it scores


@dataclasses.dataclass(frozen=True)
class Letters:
    """Tokens 0..3 are the letters, 4 ends an answer, 5 fills up."""

    eos_id: int = 4
    pad_id: int = 5
    vocab_size: int = 6

    def encode(self, text):
        return [LETTERS.index(letter) for letter in text]

    def decode(self, tokens):
        return "".join(LETTERS[token] for token in tokens if token < len(LETTERS))


def score(text, answer):
    """1 for an answer whose length is even or odd as asked; keeps what this process has scored."""
    SCORED.append(text)
    if STOPS[0]:
        STOPS[0] = False
        os.kill(os.getpid(), signal.SIGTERM)
    return float(len(text) % 2 == answer)


def make(tokenizer, **kwargs):
    """The task, which `config.task.name` names by its import path."""
    del tokenizer, kwargs
    problems = [Problem(a + b + c, float(a < c), "a") for a in LETTERS for b in "ab" for c in "cd"]
    return text_task(
        Letters(), train=[problems[:8]], evaluation=[problems[8:]], pattern=(0,),
        evaluation_pattern=(0,), score=score, eos_id=4, max_prompt=3, max_completion=6, seed=0,
        dropped={},
    )  # fmt: skip


def run(workdir):
    """Makes two steps of 8 prompts, going on after a stop; returns (result, stopped, scored)."""
    config = tiny_config()
    config.task.name, config.task.kwargs = f"{__name__}.make", {}
    config.advantage = {"name": "per_prompt_solve_rate", "kwargs": {"num_prompts": 8}}
    config.curriculum.low = 0.1
    config.steps = config.evaluation.every = config.checkpoint.every = 2
    config.steps_per_call = 1
    config.warm_start.steps = 0
    config.optimizer.learning_rate = 1e-3
    config.mesh.data = config.mesh.fsdp = 2
    SCORED.clear()
    settings = {"progress": Silent(), "experiment": build_experiment(config)}
    try:
        return train(config, workdir, **settings), "", list(SCORED)
    except Stopped as stopped:
        return train(config, workdir, **settings), str(stopped), list(SCORED)


def heard():
    """What this process learns of what only process 1 or process 0 knows."""
    process = jax.process_index()

    def fails_on_1():
        if process == 1:
            raise ValueError("no disk")
        return process

    messages = []
    for ask in (lambda: everywhere(fails_on_1), lambda: same("config", {"seed": process // 3})):
        try:
            messages.append(ask())
        except (ConfigError, ValueError) as error:
            messages.append(f"{type(error).__name__}: {error}")
    return [*messages, any_of(process == 1), any_of(False), first(lambda: process)]


if __name__ == "__main__":
    connect(f"localhost:{sys.argv[2]}", int(sys.argv[3]), int(sys.argv[4]))
    STOPS[0] = jax.process_index() == 1
    result, stopped, scored = run(Path(sys.argv[1]))
    said = {"result": result, "stopped": stopped, "scored": gather(scored), "heard": heard()}
    print(json.dumps(said))
