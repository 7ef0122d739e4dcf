"""Problems of a user: prompts, the split, rewards, and every bad argument in one line."""

import gzip
import json
from contextlib import closing

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.tasks.problems import make
from experiments.tasks.verifier import Verifier, sum_parts
from tests.experiments.tasks.byte_tokenizer import ByteTokenizer

USER = "tests.experiments.tasks.user_rewards"
ROWS = [
    {"question": f"What is {a} + {b}?", "answer": str(a + b), "unit": "apples", "solution": "So."}
    for a in range(8)
    for b in range(8)
]


def write(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return str(path)


@pytest.fixture(name="file")
def file_fixture(tmp_path):
    return write(tmp_path / "mine.jsonl", ROWS)


def prompts_of(kind):
    tokenizer = ByteTokenizer()
    return [tokenizer.decode(row[:n].tolist()) for row, n in zip(kind.tokens, kind.length)]


def test_make_fills_the_prompt(file):
    task = make(ByteTokenizer(), path=file, prompt="{question} In {unit}: {{}}", template="plain")
    prompts = {*prompts_of(task.train[0]), *prompts_of(task.evaluation[0])}
    assert prompts == {f"{row['question']} In apples: {{}}" for row in ROWS}


def test_make_writes_chats(file):
    task = make(ByteTokenizer(), path=file, system="Be brief.")
    chat = prompts_of(task.train[0])[0]
    assert chat.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is ")
    assert chat.endswith("?<|im_end|>\n<|im_start|>assistant\n")
    assert r"\boxed{}" in prompts_of(make(ByteTokenizer(), path=file).train[0])[0]


def test_make_holds_out_the_same_problems_always(file, tmp_path):
    """Of any order of the file, and of a longer file; none is on both sides."""

    def split(rows, **kwargs):
        path = write(tmp_path / "other.jsonl.gz", rows)
        task = make(ByteTokenizer(), path=path, template="plain", held_out=0.3, **kwargs)
        return {*prompts_of(task.train[0])}, {*prompts_of(task.evaluation[0])}

    train, held = split(ROWS)
    assert not train & held
    assert len(train | held) == 64
    assert 8 <= len(held) <= 32
    assert split(ROWS[::-1], seed=5) == (train, held)
    fewer_train, fewer_held = split(ROWS[:40])
    assert fewer_train <= train
    assert fewer_held <= held


def test_make_takes_evaluation_problems_of_a_file_of_their_own(file, tmp_path):
    other = write(tmp_path / "held.jsonl", ROWS[:5] + ROWS[:1])
    task = make(ByteTokenizer(), path=file, evaluation_path=other, template="plain")
    assert sorted(prompts_of(task.evaluation[0])) == sorted(row["question"] for row in ROWS[:5])
    assert len(task.train[0].length) == 59
    assert task.dropped == {
        "training problems that repeat or are evaluated": 5,
        "evaluation problems that repeat": 1,
    }


def test_make_leaves_problems_without_an_answer_out(tmp_path):
    rows = [*ROWS, {"question": "Why?", "answer": ""}, {"question": "When?", "answer": None}]
    task = make(ByteTokenizer(), path=write(tmp_path / "a.jsonl", rows), template="plain")
    assert task.dropped == {"problems without an answer": 2}
    alone = {"path": write(tmp_path / "b.jsonl", rows), "answer": "", "reward": f"{USER}.brief"}
    task = make(ByteTokenizer(), template="plain", **alone)
    assert task.dropped == {}


def test_make_demonstrates_a_field(file):
    task = make(ByteTokenizer(), path=file, template="plain", demonstration="solution")
    _, tokens, mask = task.demonstrations(0, 0, 4)
    assert {
        ByteTokenizer().decode(row[: int(n) - 1].tolist()) for row, n in zip(tokens, mask.sum(1))
    } == {"So."}


def test_make_opens_weighted_rewards_whose_parts_are_summed(file):
    rewards = ConfigDict({"rewards": (("math", 3), (f"{USER}.brief", 1))}).to_dict()["rewards"]
    task = make(ByteTokenizer(), path=file, template="plain", rewards=rewards, solved_at=0.7)
    assert task.solved_at == 0.7
    prompts = task.train_prompts(0, 0, 2)
    answers = [row["answer"] for row in prompts.verifier_inputs]
    tokenizer = ByteTokenizer()
    width = task.max_completion
    rows = [[*tokenizer.encode(rf"\boxed{{{a}}}"), tokenizer.eos_id] for a in answers]
    tokens = np.full((2, 1, width), tokenizer.pad_id, np.int32)
    for i, row in enumerate(rows):
        tokens[i, 0, : len(row)] = row
    mask = np.arange(width) < np.array([[len(row)] for row in rows])[:, None]
    with closing(Verifier(task, workers=1)) as verifier:
        verified = verifier.verify(prompts.verifier_inputs, tokens, mask)
    lengths = [len(row) - 1 for row in rows]
    brief = [max(0, 1 - n / 10) for n in lengths]
    expected = [[0.75 + 0.25 * b] for b in brief]
    np.testing.assert_allclose(verified.rewards, expected, rtol=1e-6)
    assert sum_parts(verified) == {
        "math": (2.0, 2),
        f"{USER}.brief": (pytest.approx(sum(brief)), 2),
    }
    assert {group[0].kind for group in verified.verdicts} == {"right"}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"path": ""}, r"config\.task\.kwargs\.path must be a file, got ''"),
        ({"path": "no/such.jsonl"}, r"kwargs\.path must be a file, got 'no/such\.jsonl'"),
        ({"evaluation_path": "no/such"}, r"kwargs\.evaluation_path must be a file, got 'no/such'"),
        ({"prompt": "{quest}"}, r"line 1 must have the field 'quest', got question, answer"),
        ({"prompt": "{}"}, "prompt must name fields alone"),
        ({"prompt": "{0}"}, "prompt must name fields alone"),
        ({"prompt": "{question.__class__}"}, "prompt must name fields alone"),
        ({"prompt": "{question[0]}"}, "prompt must name fields alone"),
        ({"prompt": "{question:{width}}"}, "prompt must name fields alone"),
        ({"prompt": "{question"}, "prompt must be a format string, got '{question'"),
        ({"prompt": "question}"}, "prompt must be a format string, got 'question}'"),
        ({"prompt": "Hello"}, "prompt must name a field, as in '{question}', got 'Hello'"),
        ({"prompt": "{question:d}"}, r"line 1 does not fill prompt = '\{question:d\}'"),
        ({"answer": "result"}, "line 1 must have the field 'result'"),
        ({"answer": ""}, "line 1 must have the field ''"),
        ({"answer": "unit", "reward": "number"}, "line 1: unit must be a number, got 'apples'"),
        ({"answer": "unit", "reward": "integer"}, "line 1: unit must be a number, got 'apples'"),
        ({"demonstration": "proof"}, "line 1 must have the field 'proof'"),
        ({"reward": "maths"}, r"rewards\['maths'\]: it must be one of number, integer, math, text"),
        ({"rewards": {}}, "rewards must name at least one reward, got none"),
        ({"solved_at": 0.0}, r"solved_at must lie in \(0, 1\], got 0.0"),
        ({"solved_at": 1.5}, r"solved_at must lie in \(0, 1\], got 1.5"),
        ({"held_out": 0.0}, "held_out must lie strictly between 0 and 1, got 0.0"),
        ({"held_out": 1e-9}, "held_out must leave problems on both sides, got 1e-09 of 64"),
        ({"seed": -1}, "seed must lie in"),
        ({"max_completion": 1}, "max_completion must be at least 2, got 1"),
        ({"max_prompt": 3}, "max_prompt keeps none of"),
        ({"template": "chatty"}, "template must be one of plain, chat, got 'chatty'"),
    ],
)
def test_make_refuses_bad_values(file, kwargs, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        make(ByteTokenizer(), **{"path": file, **kwargs})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no lines"),
        ("[1]\n", "line 1 must be a JSON object"),
        ('{"question": "a"\n', "line 1 is not JSON"),
        ('{"question": null, "answer": 1}\n', "line 1: question must have a value for the prompt"),
        ('{"question": "a", "answer": 1}\n{"question": "b"}\n', "line 2 must have the field 'answer'"),
    ],
)  # fmt: skip
def test_make_names_the_line_of_a_bad_file(text, message, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        make(ByteTokenizer(), path=str(path))
    assert str(path) in str(caught.value)


def test_make_refuses_a_file_that_is_wholly_evaluated(file):
    with pytest.raises(ValueError, match="path must have problems that evaluation_path has not"):
        make(ByteTokenizer(), path=file, evaluation_path=file)


def test_make_needs_a_tokenizer(file):
    with pytest.raises(ValueError, match=r"'problems' needs a model with a tokenizer"):
        make(None, path=file)
