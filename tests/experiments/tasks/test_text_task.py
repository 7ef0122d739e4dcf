import collections
import itertools
import logging

import numpy as np
import pytest

from experiments.tasks.base import token_mask
from experiments.tasks.questions import draws, drop_repeats, normalize, one_epoch
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


def test_text_task_pads_prompts_and_drops_long_ones(caplog):
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
    assert task.describe() == (
        "6 problems to train on, 2 held out; left out: 2 spoiled,"
        " 2 training prompts over 8 tokens, 2 evaluation prompts over 8 tokens"
    )
    assert small_task(max_prompt=13, dropped={}).describe() == "8 problems to train on, 4 held out"


def test_text_task_numbers_the_prompts_of_several_kinds():
    kinds = [
        [Problem(f"{name}{i}", i, None) for i in range(size)] for name, size in (("a", 3), ("b", 5))
    ]
    task = small_task(train=kinds, pattern=(0, 1, 1))
    names = ["a0", "a1", "a2", "b0", "b1", "b2", "b3", "b4"]
    assert task.num_prompts == 8
    for step in range(5):
        prompts = task.train_prompts(1, step, 6)
        texts = [text_of(row, 2) for row in prompts.tokens]
        assert [names[i] for i in prompts.index] == texts
        assert [text[0] for text in texts] == ["a", "b", "b"] * 2
        assert prompts.index.dtype == np.int32
    picked = task.prompts_at([7, 2, 2, 3])
    assert [text_of(row, 2) for row in picked.tokens] == ["b4", "a2", "a2", "b0"]
    np.testing.assert_array_equal(picked.verifier_inputs, [4, 2, 2, 0])


def test_text_task_drops_long_demonstrations_but_not_their_prompts():
    problems = [Problem("a", 1, "1"), Problem("b", 2, "12345"), Problem("c", 3, None)]
    task = small_task(train=[problems])
    assert task.dropped["demonstrations over 4 tokens"] == 1
    assert {text_of(row, 1) for row in task.train_prompts(0, 0, 3).tokens} == {"a", "b", "c"}
    demonstrations = task.demonstrations(0, 0, 3)
    assert [text_of(row, 1) for row in demonstrations.prompts.tokens] == ["a", "a", "a"]
    np.testing.assert_array_equal(demonstrations.tokens, [[ord("1"), 10, 257, 257]] * 3)
    np.testing.assert_array_equal(demonstrations.token_mask, [[1, 1, 0, 0]] * 3)
    assert demonstrations.token_mask.dtype == np.float32


def test_train_prompts_repeat_for_a_seed_and_differ_from_demonstrations():
    task = small_task()
    first = [task.train_prompts(4, step, 2).verifier_inputs.tolist() for step in range(6)]
    assert [task.train_prompts(4, step, 2).verifier_inputs.tolist() for step in range(6)] == first
    for epoch in (first[:3], first[3:]):
        assert sorted(itertools.chain(*epoch)) == [0, 1, 3, 4, 6, 7]
    assert [task.train_prompts(5, step, 2).verifier_inputs.tolist() for step in range(6)] != first
    demonstrations = [
        task.demonstrations(4, step, 2).prompts.verifier_inputs.tolist() for step in range(6)
    ]
    assert demonstrations != first


def test_eval_prompts_are_fixed_and_distinct():
    task = small_task(max_prompt=20)
    assert len(set(task.eval_prompts(4).verifier_inputs.tolist())) == 4
    np.testing.assert_array_equal(task.eval_prompts(4).tokens[:2], task.eval_prompts(2).tokens)
    with pytest.raises(ValueError, match=r"evaluation\.prompts must be at most 4 .* got 5"):
        task.eval_prompts(5)


def test_verify_needs_an_eos_and_reads_up_to_it():
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


def test_verify_reads_special_tokens_and_ends_with_any_end_token():
    task = small_task(eos_ids=(259,), max_completion=5)
    im_start, im_end, pad = 258, 259, task.pad_id
    two, seven = ord("2"), ord("7")
    rows = [
        [seven, two, 10, pad, pad],
        [seven, two, im_end, pad, pad],
        [seven, im_start, two, 10, pad],
        [seven, pad, two, im_end, pad],
        [seven, two, 256, pad, pad],  # not among the end tokens
    ]
    tokens = np.array([rows], np.int32)
    mask = np.asarray(token_mask(tokens, task.eos_ids))
    texts = ["72", "72", "7<|im_start|>2", "7<|pad|>2", None]
    assert task.texts(tokens, mask) == [texts]
    assert task.verify(np.array([72.0]), tokens, mask).tolist() == [[1, 1, 0, 0, 0]]


def test_text_task_accepts_a_pad_id_equal_to_eos():
    class SamePad(ByteTokenizer):
        @property
        def pad_id(self):
            return 10

    problems = [Problem("a", 1, "1"), Problem("bcd", 2, "22")]
    task = text_task(
        SamePad(), train=[problems], evaluation=[problems], pattern=(0,), evaluation_pattern=(0,),
        score=score, eos_id=10, max_prompt=8, max_completion=4, seed=0, dropped={},
    )  # fmt: skip
    demonstrations = task.demonstrations(0, 0, 2)
    assert sorted(demonstrations.token_mask.sum(axis=1).tolist()) == [2, 3]
    assert sorted(demonstrations.prompts.length.tolist()) == [1, 3]


def test_text_task_refuses_limits_that_keep_nothing():
    with pytest.raises(ValueError, match=r"max_prompt keeps none of 8 training .*got 1;"):
        small_task(max_prompt=1)
    with pytest.raises(ValueError, match="max_completion keeps no demonstration, got 2"):
        small_task(max_completion=2).demonstrations(0, 0, 2)


def test_newline_id_needs_one_token():
    assert newline_id(ByteTokenizer()) == 10

    class NoNewline(ByteTokenizer):
        def encode(self, text):
            return [1, 2]

    with pytest.raises(ValueError, match=r"one token for a newline, got \[1, 2\]"):
        newline_id(NoNewline())


def test_draws_show_every_problem_once_an_epoch_in_another_order():
    epochs = [[i for _, i in draws(3, (7,), (0,), 7 * epoch, 7)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("cut", [1, 3, 5, 60])
def test_draws_are_a_function_of_the_position(cut):
    whole = draws(1, (5, 3), (0, 1, 0), 0, 60)
    parts = [draws(1, (5, 3), (0, 1, 0), start, cut) for start in range(0, 60, cut)]
    assert list(itertools.chain(*parts)) == whole
    assert draws(2, (5, 3), (0, 1, 0), 0, 60) != whole


def test_draws_of_several_kinds_take_turns():
    drawn = draws(0, (10, 4), (0, 1, 0, 0), 0, 400)
    assert [kind for kind, _ in drawn[:8]] == [0, 1, 0, 0] * 2
    counts = collections.Counter(drawn)
    assert all(counts[0, i] == 30 for i in range(10))
    assert all(counts[1, i] == 25 for i in range(4))


def test_one_epoch_has_no_repeats():
    sizes, pattern = (10, 4), (0, 1, 0, 0)
    length = one_epoch(sizes, pattern)
    assert length == 12  # three of kind 0 a cycle: after three cycles one is left
    assert len(set(draws(5, sizes, pattern, 0, length))) == length
    assert len(set(draws(5, sizes, pattern, 0, length + len(pattern)))) < length + len(pattern)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3 + 4?", "What is 3 - 4?"),
        ("What is 3 * 4?", "What is 3 / 4?"),
        ("What is 3 × 4?", "What is 3 ÷ 4?"),
        ("What is 3 \u2212 4?", "What is 3 ^ 4?"),
        ("Is 3 < 4?", "Is 3 > 4?"),
        ("What is x - 4?", "What is x + 4?"),
        ("Solve x = -5.", "Solve x = 5."),
        ("What is 5% of 20?", "What is 5 of 20?"),
        ("What is (3 + 4) * 2?", "What is 3 + (4 * 2)?"),
        ("What is 2.5 times 2?", "What is 25 times 2?"),
        ("What is 2.5 times 2?", "What is 2 5 times 2?"),
    ],
)
def test_drop_repeats_keeps_questions_that_differ_in_an_operator(one, other):
    assert drop_repeats([(one, 1), (other, 2)], set())[1] == 0
    minus = one.replace("-", "\u2212").upper()
    assert drop_repeats([(one, 1), (f"  {minus} ", 2)], set())[1] == 1


def test_normalize_keeps_letters_and_digits():
    assert normalize(" She has  70 sea-shells .\nHow MANY ?") == "she has 70 sea shells how many"
    assert normalize("Ça_va") == "ça va"


def test_drop_repeats_keeps_the_first_unless_seen():
    seen = {"already here"}
    pairs = [("A b?", 1), ("a  B .", 2), ("Already, here!", 3), ("c", 4)]
    assert drop_repeats(pairs, seen) == ([("A b?", 1), ("c", 4)], 2)
    assert seen == {"already here", "a b", "c"}
    assert drop_repeats([("C", 5)], seen) == ([], 1)
