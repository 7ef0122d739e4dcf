import itertools
import logging

import numpy as np
import pytest

from experiments.tasks.base import token_mask
from experiments.tasks.text_task import Problem, newline_id, text_task
from tests.experiments.tasks.byte_tokenizer import ByteTokenizer


def score(text, answer):
    return float(text == str(int(answer)))


def small_task(**changes):
    problems = [Problem(f"{'very ' * (i % 3)}{i}:", i, f" {i}") for i in range(12)]
    settings = {
        "train": [problems[:8]],
        "evaluation": [problems[8:]],
        "pattern": (0,),
        "evaluation_pattern": (0,),
        "score": score,
        "eos_id": 10,
        "max_prompt": 8,
        "max_completion": 4,
        "seed": 0,
        "dropped": {"spoiled": 2, "nothing": 0},
    }
    return text_task(ByteTokenizer(), **{**settings, **changes})


def text_of(tokens, length):
    return ByteTokenizer().decode(np.asarray(tokens)[: int(length)].tolist())


def test_prompts_are_padded_on_the_right_and_long_ones_left_out(caplog):
    with caplog.at_level(logging.INFO):
        task = small_task()
    prompts = task.train_prompts(0, 0, 6)
    assert prompts.tokens.shape == (6, 8)  # "very 10:" is the longest kept
    assert task.max_prompt == 8
    assert prompts.tokens.dtype == prompts.length.dtype == np.int32
    texts = [text_of(row, n) for row, n in zip(prompts.tokens, prompts.length)]
    assert sorted(texts) == sorted(["0:", "very 1:", "3:", "very 4:", "6:", "very 7:"])
    for row, length, answer, text in zip(
        prompts.tokens, prompts.length, prompts.verifier_inputs, texts
    ):
        assert set(row[length:].tolist()) <= {task.pad_id}
        assert text.split()[-1] == f"{int(answer)}:"
    assert task.dropped == {
        "spoiled": 2,
        "training prompts over 8 tokens": 2,
        "evaluation prompts over 8 tokens": 2,
    }
    assert "left out: 2 training prompts over 8 tokens" in caplog.text


def test_long_demonstrations_are_left_out_but_their_prompts_kept():
    problems = [Problem("a", 1, "1"), Problem("b", 2, "12345"), Problem("c", 3, None)]
    task = small_task(train=[problems])
    assert task.dropped["demonstrations over 4 tokens"] == 1
    assert {text_of(row, 1) for row in task.train_prompts(0, 0, 3).tokens} == {"a", "b", "c"}
    shown = task.demonstrations(0, 0, 3)
    assert [text_of(row, 1) for row in shown.prompts.tokens] == ["a", "a", "a"]
    np.testing.assert_array_equal(shown.tokens, [[ord("1"), 10, 257, 257]] * 3)
    np.testing.assert_array_equal(shown.token_mask, [[1, 1, 0, 0]] * 3)
    assert shown.token_mask.dtype == np.float32


def test_epochs_repeat_for_the_same_seed_and_differ_between_streams():
    task = small_task()
    first = [task.train_prompts(4, step, 2).verifier_inputs.tolist() for step in range(6)]
    assert [task.train_prompts(4, step, 2).verifier_inputs.tolist() for step in range(6)] == first
    for epoch in (first[:3], first[3:]):
        assert sorted(itertools.chain(*epoch)) == [0, 1, 3, 4, 6, 7]
    assert [task.train_prompts(5, step, 2).verifier_inputs.tolist() for step in range(6)] != first
    shown = [task.demonstrations(4, step, 2).prompts.verifier_inputs.tolist() for step in range(6)]
    assert shown != first


def test_evaluation_is_fixed_without_repeats_and_says_how_many_there_are():
    task = small_task(max_prompt=20)
    assert len(set(task.eval_prompts(4).verifier_inputs.tolist())) == 4
    np.testing.assert_array_equal(task.eval_prompts(4).tokens[:2], task.eval_prompts(2).tokens)
    with pytest.raises(ValueError, match=r"evaluation\.prompts must be at most 4 .* got 5"):
        task.eval_prompts(5)


def test_verify_reads_up_to_the_first_eos_and_needs_one():
    task = small_task()
    answers = ["12\n", "12\n9", "12", "123", "\n12\n", "1\n", "12 \n", "12\n\n"]
    tokens = np.full((2, len(answers), 4), task.pad_id, np.int32)
    for i, answer in enumerate(answers):
        tokens[:, i, : len(answer)] = list(answer.encode())
    mask = np.asarray(token_mask(tokens, task.eos_id))
    rewards = task.verify(np.array([12.0, 1.0]), tokens, mask)
    assert rewards.dtype == np.float32
    assert rewards.tolist() == [[1, 1, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1, 0, 0]]
    assert task.texts(tokens, mask)[0] == ["12", "12", None, None, "", "1", "12 ", "12"]
    # A mask cut short, as by a length limit, ends without EOS.
    assert task.texts(tokens, np.zeros_like(mask))[0] == [None] * len(answers)


def test_pad_that_equals_eos_changes_nothing():
    class SamePad(ByteTokenizer):
        @property
        def pad_id(self):
            return 10

    problems = [Problem("a", 1, "1"), Problem("bcd", 2, "22")]
    task = text_task(
        SamePad(), train=[problems], evaluation=[problems], pattern=(0,), evaluation_pattern=(0,),
        score=score, eos_id=10, max_prompt=8, max_completion=4, seed=0, dropped={},
    )  # fmt: skip
    shown = task.demonstrations(0, 0, 2)
    assert sorted(shown.token_mask.sum(axis=1).tolist()) == [2, 3]
    assert sorted(shown.prompts.length.tolist()) == [1, 3]


def test_what_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match=r"max_prompt keeps none of 8 training .*got 1;"):
        small_task(max_prompt=1)
    with pytest.raises(ValueError, match="max_completion keeps no demonstration, got 2"):
        small_task(max_completion=2).demonstrations(0, 0, 2)


def test_newline_is_one_token():
    assert newline_id(ByteTokenizer()) == 10

    class NoNewline(ByteTokenizer):
        def encode(self, text):
            return [1, 2]

    with pytest.raises(ValueError, match=r"one token for a newline, got \[1, 2\]"):
        newline_id(NoNewline())
