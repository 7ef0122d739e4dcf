"""Puzzles of Reasoning Gym: the library's own answers are right, others are not."""

import pickle
import sys

import numpy as np
import pytest

from experiments.tasks import reasoning_gym
from experiments.tasks.reasoning_gym import Score, make
from experiments.tasks.verifier import Verifier
from tests.experiments.tasks.byte_tokenizer import ByteTokenizer

GENERATORS = {
    "leg_counting": {"max_animals": 4},
    "basic_arithmetic": {},
    "simple_equations": {},
    "polynomial_multiplication": {},
    "base_conversion": {},
    "letter_counting": {},
    "word_sorting": {},
    "mini_sudoku": {},
    "knights_knaves": {},
    "tower_of_hanoi": {},
    "countdown": {},
    "syllogism": {},
}


@pytest.fixture(autouse=True)
def library():
    pytest.importorskip("reasoning_gym.factory")


def prompts_of(kind):
    tokenizer = ByteTokenizer()
    return [tokenizer.decode(row[:n].tolist()) for row, n in zip(kind.tokens, kind.length)]


def task_of(generator="leg_counting", **kwargs):
    kwargs = {"template": "plain", "max_prompt": 6000, "max_completion": 3000, **kwargs}
    return make(ByteTokenizer(), generator=generator, **kwargs)


@pytest.mark.parametrize(("generator", "arguments"), GENERATORS.items())
@pytest.mark.parametrize("answer", ["stated", "whole"])
def test_make_scores_the_answers_of_the_library(generator, arguments, answer):
    task = task_of(generator, arguments=arguments, answer=answer, size=6, evaluation_size=4)
    prompts, tokens, mask = task.demonstrations(0, 0, 4)
    rewards = task.verify(prompts.verifier_inputs, tokens[:, None], mask[:, None])
    np.testing.assert_array_equal(rewards, 1)
    score = Score(generator, "{}", answer)
    for entry in prompts.verifier_inputs:
        assert score(r"\boxed{}", entry).reward < 1
        assert score(r"The answer is \boxed{-77777}", entry).reward < 1


def test_make_holds_out_questions_by_another_seed():
    few = {"min_animals": 1, "max_animals": 1, "max_instances": 2}  # so that questions repeat
    kwargs = {"arguments": few, "size": 60, "evaluation_size": 20}
    task = task_of(**kwargs)
    train, held = prompts_of(task.train[0]), prompts_of(task.evaluation[0])
    assert not {*train} & {*held}
    assert len({*train}) == len(train) > 5
    assert len({*held}) == len(held) > 5
    assert sum(task.dropped.values()) == 80 - len(train) - len(held) > 10
    again = task_of(**kwargs)
    assert (prompts_of(again.train[0]), prompts_of(again.evaluation[0])) == (train, held)
    assert prompts_of(task_of(**kwargs, seed=1).train[0]) != train


def test_make_keeps_puzzles_that_differ_in_signs_alone():
    """Mazes and grids are drawn with signs that are no words."""
    task = task_of("maze", size=20, evaluation_size=10)
    assert task.dropped == {}


def test_make_writes_chats():
    task = task_of(template="chat", size=4, evaluation_size=4)
    assert prompts_of(task.train[0])[0].startswith("<|im_start|>system\nReason step by step")


def test_score_reads_the_stated_answer_or_the_whole_text():
    entry = {"question": "", "answer": "184", "metadata": {}}
    stated, whole = (Score("leg_counting", "{}", answer) for answer in ("stated", "whole"))
    text = r"We count 3 \cdot 6 = 18, so \boxed{184}."
    assert stated(text, entry)[:2] == (1.0, "right")
    assert stated("184", entry)[:2] == (1.0, "right")
    assert whole(" 184\n", entry)[:2] == (1.0, "right")
    assert whole(text, entry).kind == "wrong"
    assert stated(" ", entry)[:2] == (0.0, "no answer")


def test_score_is_sent_to_processes():
    task = task_of(size=4, evaluation_size=4)
    prompts, tokens, mask = task.demonstrations(0, 0, 2)
    with Verifier(task, workers=1, timeout_seconds=5.0) as verifier:
        verified = verifier.verify(prompts.verifier_inputs, tokens[:, None], mask[:, None])
    np.testing.assert_array_equal(verified.rewards, 1)
    assert len(pickle.dumps(Score("leg_counting", "{}", "stated"))) < 200


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"generator": "legs"}, r"generator must be one of .*leg_counting.*, got 'legs'"),
        (
            {"arguments": {"legs": 4}},
            r"arguments of 'leg_counting' .* got \{'legs': 4\}: TypeError",
        ),
        ({"arguments": {"min_animals": -1}}, "arguments of 'leg_counting' .*: AssertionError"),
        ({"arguments": {"seed": 1}}, "arguments must not have seed"),
        ({"arguments": {"size": 1}}, "arguments must not have size"),
        ({"arguments": {"min_animals": object()}}, "arguments must be plain values by name"),
        ({"arguments": 3}, "arguments must be plain values by name, got 3"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"size": 2**21}, "size must be at most 1048576, got 2097152"),
        ({"evaluation_size": 0}, "evaluation_size must be at least 1, got 0"),
        ({"answer": "last"}, "answer must be one of stated, whole, got 'last'"),
        ({"solved_at": 0}, r"solved_at must lie in \(0, 1\], got 0"),
        ({"seed": -1}, "seed must lie in"),
        ({"max_completion": 1}, "max_completion must be at least 2, got 1"),
        ({"template": "chatty"}, "template must be one of"),
    ],
)
def test_make_refuses_bad_values(kwargs, message):
    with pytest.raises(ValueError, match=message) as caught:
        task_of(**kwargs)
    assert "\n" not in str(caught.value)


def test_make_names_the_package_that_is_missing(monkeypatch):
    reasoning_gym._data_set.cache_clear()
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(ValueError, match=r"needs the package reasoning-gym: pip install") as caught:
        task_of()
    assert "\n" not in str(caught.value)


def test_make_needs_a_tokenizer():
    with pytest.raises(ValueError, match="'reasoning_gym' needs a model with a tokenizer"):
        make(None)
