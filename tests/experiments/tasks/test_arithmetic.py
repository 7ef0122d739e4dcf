import re

import numpy as np
import pytest

from experiments.tasks.arithmetic import make, score
from experiments.tasks.base import token_mask
from tests.experiments.tasks.byte_tokenizer import ByteTokenizer

SHOTS = "3 + 4 = 7\n58 + 27 = 85\n81 - 36 = 45\n23 x 4 = 92\n"


@pytest.fixture(scope="module")
def task():
    return make(ByteTokenizer())


def problems(kinds):
    """(a, symbol, b, answer) of every prompt, the shots checked and removed."""
    found = []
    for kind in kinds:
        rows = []
        for tokens, length, answer in zip(kind.tokens, kind.length, kind.answer):
            text = ByteTokenizer().decode(tokens[:length].tolist())
            assert text.startswith(SHOTS)
            a, symbol, b = re.fullmatch(r"(\d+) ([+x-]) (\d+) =", text[len(SHOTS) :]).groups()
            rows.append((int(a), symbol, int(b), answer))
        found.append(rows)
    return found


def test_make_enumerates_every_problem_once(task):
    train, held_out = problems(task.train), problems(task.evaluation)
    sizes = [len(a) + len(b) for a, b in zip(train, held_out)]
    # Less those of the four worked lines: 3+4 and 4+3; 58+27 and 27+58; 81-36; 23x4.
    assert sizes == [100 + 55 + 100 - 2, 90 * 90 - 2, 90 * 91 // 2 - 1, 90 * 8 - 1]
    for i, kind in enumerate([a + b for a, b in zip(train, held_out)]):
        assert len(set(kind)) == len(kind)
        for a, symbol, b, answer in kind:
            assert answer == {"+": a + b, "-": a - b, "x": a * b}[symbol] >= 0
            if i == 0:
                assert max(a, b) <= 9
            else:
                assert symbol == ["+", "-", "x"][i - 1]
                assert 10 <= a <= 99
                assert (2 <= b <= 9) if symbol == "x" else (10 <= b <= 99)


def test_make_separates_training_evaluation_and_shots(task):
    def names(kinds):
        return {
            (symbol, *(sorted((a, b)) if symbol != "-" else (a, b)))
            for kind in problems(kinds)
            for a, symbol, b, _ in kind
        }

    train, held_out = names(task.train), names(task.evaluation)
    shots = {("+", 3, 4), ("+", 27, 58), ("-", 81, 36), ("x", 4, 23)}
    assert not train & held_out
    assert not shots & (train | held_out)
    assert 0.22 < len(held_out) / len(train | held_out) < 0.28


def test_train_prompts_have_a_quarter_of_each_kind(task):
    batches = [task.train_prompts(0, step, 16) for step in range(3)]
    for prompts in batches:
        questions = [
            ByteTokenizer().decode(row[:n].tolist()).split("\n")[-1]
            for row, n in zip(prompts.tokens, prompts.length)
        ]
        assert sum(bool(re.match(r"\d \S \d =", a)) for a in questions) == 4
        for symbol in "+-x":
            assert sum(bool(re.match(rf"\d\d [{symbol}]", a)) for a in questions) == 4


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (" 42", 1), ("42", 1), ("42 ", 1), ("", 0), (" ", 0), ("042", 0), ("+42", 0), ("42.", 0),
        ("42.0", 0), ("4 2", 0), ("43", 0), ("-42", 0), ("4２", 0), ("\t42", 0), ("= 42", 0),
        ("42 apples", 0), ("4" * 5000, 0),
    ],
)  # fmt: skip
def test_score_is_exact(text, reward):
    assert score(text, 42.0) == reward


def test_demonstrations_are_correct_and_end_with_a_newline(task):
    prompts, tokens, mask = task.demonstrations(0, 0, 64)
    assert tokens.shape == (64, task.max_completion)
    np.testing.assert_array_equal(
        task.verify(prompts.verifier_inputs, tokens[:, None], mask[:, None]), 1
    )
    for row, n, answer in zip(tokens, mask.sum(axis=1).astype(int), prompts.verifier_inputs):
        assert ByteTokenizer().decode(row[:n].tolist()) == f" {int(answer)}\n"
    # The same answers to other problems are wrong.
    wrong = task.verify(prompts.verifier_inputs + 1, tokens[:, None], mask[:, None])
    np.testing.assert_array_equal(wrong, 0)
    # Without its newline an answer is cut off.
    cut = np.where(tokens == 10, ord("0"), tokens)
    assert (
        task.verify(prompts.verifier_inputs, cut[:, None], token_mask(cut, 10)[:, None]).sum() == 0
    )


def test_make_is_deterministic(task):
    assert (task.eos_id, task.pad_id, task.vocab_size, task.max_completion) == (10, 257, 260, 6)
    assert not task.on_device
    again = make(ByteTokenizer())
    for name in ("train_prompts", "demonstrations"):
        a, b = getattr(task, name)(3, 9, 8), getattr(again, name)(3, 9, 8)
        np.testing.assert_array_equal(a[0][0], b[0][0])
    np.testing.assert_array_equal(task.eval_prompts(200).tokens, again.eval_prompts(200).tokens)
    other = make(ByteTokenizer(), seed=1)
    assert {len(k.length) for k in other.train} != {len(k.length) for k in task.train}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_completion": 4}, "max_completion must be at least 5, got 4"),
        ({"held_out": 2}, "held_out must lie strictly between 0 and 1, got 2"),
    ],
)
def test_make_refuses_bad_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(ByteTokenizer(), **kwargs)
