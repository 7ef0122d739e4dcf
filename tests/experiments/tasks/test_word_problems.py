import json

import numpy as np
import pytest

from experiments.tasks.answers import evaluate, is_close
from experiments.tasks.questions import normalize
from experiments.tasks.word_problems import make, score
from tests.experiments.tasks.byte_tokenizer import ByteTokenizer
from tests.experiments.tasks.real_data import ROOT, needs

ASDIV = [
    ("Ann has 3 pens. ", "How many has she after buying 4?", "7 (pens)", "3+4=7"),
    ("Tom runs 2.5 km a day.", "How far in 4 days?", "10 (km)", "2.5 * 4 = 10"),
    ("Sue had $1,000.", "How much after spending half ?", "500 (dollars)", "1000/2=500"),
    ("Ben has 17 eggs.", "How many boxes of 5 can he fill?", "3 (boxes)", "17/5=3 r2"),
    ("Who is taller?", "Tom is 3 m, Sue 2 m.", "Tom", "3 > 2"),
    ("Mia is 3 times as old as 4.", "How old is she?", "12", "x:age; x=3*4"),
    ("Joe has 2 dogs.", "How many legs?", "8 (legs)", "2*5=10"),
    ("A bus holds 9.", "How many hold 3 buses?", "27", "3*9=27"),
]
SVAMP = [
    ("Pam had 9 nuts and ate 2", "How many are left?", 7.0),
    ("A bus holds 9.", "how many hold 3 buses ?", 27.0),
    ("Pam had 9 nuts. She ate 2.", "Why?", -1.5),
]
MAWPS = [("Lee has 5 cats . He gets $ 6 . How much is it ?", 11.0), ("One and two ?", 3)]


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")


@pytest.fixture
def folder(tmp_path):
    write(
        tmp_path / "asdiv.jsonl",
        [
            {"body": b, "question": q, "solution_type": "?", "answer": a, "formula": f, "idx": i}
            for i, (b, q, a, f) in enumerate(ASDIV)
        ],
    )
    write(
        tmp_path / "svamp.jsonl",
        [{"Body": b, "Question": q, "Answer": a, "Equation": "", "ID": "?"} for b, q, a in SVAMP],
    )
    write(tmp_path / "mawps_addsub.jsonl", [{"input": q, "target": a} for q, a in MAWPS[:1]])
    write(tmp_path / "mawps_other.jsonl", [{"input": q, "target": a} for q, a in MAWPS * 2])
    return tmp_path


def texts(rows):
    return [
        ByteTokenizer().decode(tokens[:length].tolist())
        for tokens, length in zip(rows.tokens, rows.length)
    ]


def test_make_reads_files_of_different_fields(folder):
    task = make(ByteTokenizer(), directory=str(folder))
    (train,), (svamp, mawps) = task.train, task.evaluation
    assert dict(zip(texts(train), train.answer)) == {
        "Question: Ann has 3 pens. How many has she after buying 4?\nEquation:": 7,
        "Question: Tom runs 2.5 km a day. How far in 4 days?\nEquation:": 10,
        "Question: Sue had $1,000. How much after spending half?\nEquation:": 500,
    }
    assert dict(zip(texts(svamp), svamp.answer)) == {
        "Question: Pam had 9 nuts and ate 2, How many are left?\nEquation:": 7,
        "Question: A bus holds 9. how many hold 3 buses?\nEquation:": 27,
        "Question: Pam had 9 nuts. She ate 2. Why?\nEquation:": -1.5,
    }
    assert dict(zip(texts(mawps), mawps.answer)) == {
        "Question: Lee has 5 cats. He gets $6. How much is it?\nEquation:": 11,
        "Question: One and two?\nEquation:": 3,
    }
    assert task.dropped == {
        "training problems without a formula of + - * /": 4,
        "training questions that repeat or are evaluated": 1,
        "evaluation questions that repeat": 3,
    }


def test_demonstrations_are_the_formulas(folder):
    task = make(ByteTokenizer(), directory=str(folder))
    prompts, tokens, mask = task.demonstrations(0, 0, 3)
    demonstrations = {
        ByteTokenizer().decode(row[: int(n)].tolist()) for row, n in zip(tokens, mask.sum(axis=1))
    }
    assert demonstrations == {" 3+4\n", " 2.5*4\n", " 1000/2\n"}
    np.testing.assert_array_equal(
        task.verify(prompts.verifier_inputs, tokens[:, None], mask[:, None]), 1
    )


def test_eval_prompts_alternate_between_the_data_sets(folder):
    prompts = make(ByteTokenizer(), directory=str(folder)).eval_prompts(4)
    assert set(prompts.verifier_inputs[1::2]) == {11, 3}
    assert set(prompts.verifier_inputs[0::2]) <= {7, 27, -1.5}


@pytest.mark.parametrize(
    ("text", "answer", "reward"),
    [
        (" 7+2", 9.0, 1), ("7+2=9", 9.0, 1), ("7+2=10", 9.0, 0), ("7+2=10", 10.0, 0), ("9", 9.0, 1),
        ("10/3", 3.333, 1), ("$1,000 − $400", 600.0, 1), ("", 0.0, 0), ("5/0", 0.0, 0),
        ("9**9**9**9", 9.0, 0), ("7+2 apples", 9.0, 0), ("The answer is 9", 9.0, 0),
        ("7+2\n7+2", 9.0, 0),
    ],
)  # fmt: skip
def test_score(text, answer, reward):
    assert score(text, answer) == reward


def test_make_names_missing_data(folder, tmp_path):
    for name in ("asdiv.jsonl", "svamp.jsonl", "mawps_addsub.jsonl"):
        missing = tmp_path / "elsewhere"
        missing.mkdir(exist_ok=True)
        for path in folder.glob("*.jsonl"):
            if path.name != name and not path.name.startswith(name[:5]):
                (missing / path.name).write_text(path.read_text())
        with pytest.raises(FileNotFoundError, match=rf"{name} .*config\.task\.kwargs\.directory"):
            make(ByteTokenizer(), directory=str(missing))
        for path in missing.iterdir():
            path.unlink()
    with pytest.raises(FileNotFoundError, match="got ''"):
        make(ByteTokenizer())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_completion": 3}, "max_completion must be at least 4, got 3"),
        ({"max_prompt": 9}, "max_prompt keeps none of 3 training prompts, got 9"),
        ({"seed": 2**31}, "seed must lie in .*, got 2147483648"),
    ],
)
def test_make_refuses_bad_values(folder, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(ByteTokenizer(), directory=str(folder), **kwargs)


@needs("math_eval")
def test_make_reads_the_real_data():
    folder = ROOT / "math_eval"
    task = make(ByteTokenizer(), directory=str(folder), max_prompt=600)
    (train,), evaluation = task.train, task.evaluation
    questions = [{normalize(text) for text in texts(kind)} for kind in (train, *evaluation)]
    assert not questions[0] & (questions[1] | questions[2])
    assert not questions[1] & questions[2]
    assert [len(names) for names in questions] == [len(k.length) for k in (train, *evaluation)]
    assert len(questions[0]) > 1200
    assert len(questions[1]) == 1000
    assert len(questions[2]) > 1800
    # Every demonstration earns the reward; SVAMP's own equations do but for one misprinted answer.
    prompts, tokens, mask = task.demonstrations(0, 0, len(train.length))
    np.testing.assert_array_equal(
        task.verify(prompts.verifier_inputs, tokens[:, None], mask[:, None]), 1
    )
    wrong = 0
    for line in (folder / "svamp.jsonl").read_text().splitlines():
        row = json.loads(line)
        wrong += not is_close(evaluate(row["Equation"]), row["Answer"])
    assert wrong == 1
