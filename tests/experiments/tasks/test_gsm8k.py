import json
import subprocess
import sys

import numpy as np
import pytest

from experiments.models import tokenizer as model_tokenizer
from experiments.tasks.answers import parse_number
from experiments.tasks.gsm8k import make, score
from experiments.tasks.questions import normalize
from tests.experiments.models import chats
from tests.experiments.models.test_chat import write_tokenizer
from tests.experiments.tasks import gsm8k_files
from tests.experiments.tasks.byte_tokenizer import ByteTokenizer
from tests.experiments.tasks.real_data import ROOT, needs

TRAIN = [
    ("How much is 2 and 3?", "It is 2+3=<<2+3=5>>5.\n#### 5"),
    (
        "Tom’s fee is $20 for each of 50 days. How much is it?",
        "50*20=$<<50*20=1000>>1000\n#### 1,000",
    ),
    ("How far is half of 3 km?", "Half is 3/2=<<3/2=1.5>>1.5 km.\n#### 1.5"),
    ("Which is the shared question?", "It is this.\n#### 1"),
    ("how far is HALF of 3 km", "Again.\n#### 1.5"),
]
TEST = [("Which is the shared question ?", "Yes.\n#### 2"), ("How cold is it?", "Cold.\n#### -4")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    gsm8k_files.write(root, train=TRAIN, test=TEST)
    return str(root)


def texts(rows, tokenizer):
    return [tokenizer.decode(row[:n].tolist()) for row, n in zip(rows.tokens, rows.length)]


def test_make_writes_plain_prompts_and_demonstrations(folder):
    tokenizer = ByteTokenizer()
    task = make(tokenizer, data_dir=folder, template="plain")
    (train,), (evaluation,) = task.train, task.evaluation
    assert dict(zip(texts(train, tokenizer), train.answer)) == {
        f"Question: {TRAIN[i][0]}\nAnswer:": answer for i, answer in ((0, 5), (1, 1000), (2, 1.5))
    }
    assert dict(zip(texts(evaluation, tokenizer), evaluation.answer)) == {
        "Question: Which is the shared question ?\nAnswer:": 2,
        "Question: How cold is it?\nAnswer:": -4,
    }
    assert task.dropped == {"training questions that repeat or are evaluated": 2}
    prompts, tokens, mask = task.demonstrations(0, 0, 3)
    demonstrations = {
        answer: tokenizer.decode(row[: int(n) - 1].tolist())
        for row, n, answer in zip(tokens, mask.sum(axis=1), prompts.verifier_inputs)
    }
    assert demonstrations == {
        5: " It is 2+3=5.\n#### 5",
        1000: " 50*20=$1000\n#### 1,000",
        1.5: " Half is 3/2=1.5 km.\n#### 1.5",
    }
    assert {row[int(n) - 1] for row, n in zip(tokens, mask.sum(axis=1))} == {tokenizer.eos_id}
    np.testing.assert_array_equal(
        task.verify(prompts.verifier_inputs, tokens[:, None], mask[:, None]), 1
    )


def test_make_writes_chat_turns_and_shots(folder):
    tokenizer = ByteTokenizer()
    task = make(tokenizer, data_dir=folder, template="chat", shots=1, max_prompt=1000)
    assert sorted(task.train[0].answer) == [1.5, 1000]  # the shot is the shortest, and left out
    prompt = next(t for t in texts(task.evaluation[0], tokenizer) if "cold" in t)
    assert prompt == (
        "<|im_start|>system\nSolve the problem step by step. End with a line '#### ' and the "
        "number.<|im_end|>\n"
        "<|im_start|>user\nHow much is 2 and 3?<|im_end|>\n"
        "<|im_start|>assistant\nIt is 2+3=5.\n#### 5<|im_end|>\n"
        "<|im_start|>user\nHow cold is it?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    tokens = task.demonstrations(0, 0, 2).tokens
    assert all(tokenizer.decode(row.tolist())[0] in "5H" for row in tokens)


def test_make_asks_the_tokenizer_for_a_chat(folder):
    tokenizer = ByteTokenizer()
    variables = {"lead": "So: "}
    task = make(tokenizer, data_dir=folder, system="", template_kwargs=variables)
    prompt = next(t for t in texts(task.evaluation[0], tokenizer) if "cold" in t)
    assert prompt == ("<|im_start|>user\nHow cold is it?<|im_end|>\n<|im_start|>assistant\nSo: ")
    task = make(tokenizer, data_dir=folder, system="Hm.")
    prompt = next(t for t in texts(task.evaluation[0], tokenizer) if "cold" in t)
    assert prompt.startswith("<|im_start|>system\nHm.<|im_end|>\n<|im_start|>user\nHow cold")


def test_make_switches_thinking_of_qwen3_off(folder, tmp_path):
    """By the template's variable; demonstrations end as the template ends an answer."""
    found = model_tokenizer.load(write_tokenizer(tmp_path, chats.template("qwen3")))
    start = "<|im_start|>user\nHow cold is it?<|im_end|>\n<|im_start|>assistant\n"
    for variables, lead in (({}, ""), ({"enable_thinking": False}, "<think>\n\n</think>\n\n")):
        task = make(found, data_dir=folder, system="", template_kwargs=variables)
        assert any(text == start + lead for text in texts(task.evaluation[0], found))
        _, tokens, mask = task.demonstrations(0, 0, 3)
        ends = {found.decode([row[int(n) - 1]]) for row, n in zip(tokens, mask.sum(axis=1))}
        assert ends == {"<|im_end|>"}


def test_make_names_the_model_whose_template_refuses(folder, tmp_path):
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    found = model_tokenizer.load(write_tokenizer(tmp_path, template))
    with pytest.raises(ValueError, match=f"{tmp_path}: its chat template .*: no system$"):
        make(found, data_dir=folder)
    assert make(found, data_dir=folder, system="").max_prompt == 1


def test_make_puts_plain_shots_before_the_question(folder):
    tokenizer = ByteTokenizer()
    task = make(tokenizer, data_dir=folder, template="plain", shots=1)
    prompt = next(t for t in texts(task.evaluation[0], tokenizer) if "cold" in t)
    shot = "Question: How much is 2 and 3?\nAnswer: It is 2+3=5.\n#### 5\n\n"
    assert prompt == f"{shot}Question: How cold is it?\nAnswer:"


@pytest.mark.parametrize(
    ("text", "answer", "reward"),
    [
        ("It is 3.\n#### 72", 72.0, 1), ("#### 72 dollars.", 72.0, 1),
        ("The answer is $1,000.", 1000.0, 1), (r"\boxed{\frac{3}{2}}", 1.5, 1),
        ("so 0.3333", 0.333, 1), ("#### −4", -4.0, 1), ("#### 4", -4.0, 0),
        ("#### 73 and 72", 72.0, 0), ("72 first, then #### 73", 72.0, 0), ("", 0.0, 0),
        ("#### 5/0", 0.0, 0), ("#### 9**9**9**9", 9.0, 0),
    ],
)  # fmt: skip
def test_score(text, answer, reward):
    assert score(text, answer) == reward


def test_make_reads_data_dir_from_the_environment(folder, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", folder)
    assert make(ByteTokenizer()).max_prompt > 0


def test_make_names_missing_data_and_downloads_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "")
    for kwargs in ({}, {"data_dir": str(tmp_path)}):
        with pytest.raises(FileNotFoundError, match=r"gsm8k.*config\.task\.kwargs\.data_dir"):
            make(ByteTokenizer(), **kwargs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"template": "chatty"}, "template must be one of plain, chat, got 'chatty'"),
        ({"shots": -1}, "shots must be at least 0, got -1"),
        ({"max_completion": 1}, "max_completion must be at least 2, got 1"),
        ({"seed": -1}, "seed must lie in .*, got -1"),
        ({"template_kwargs": {"messages": 1}}, r"template_kwargs must .* got \{'messages': 1\}"),
        ({"template_kwargs": {3: 1}}, r"template_kwargs must be variables .* got \{3: 1\}"),
        ({"template_kwargs": "x"}, "template_kwargs must be variables .* got 'x'"),
    ],
)
def test_make_refuses_bad_values(folder, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(ByteTokenizer(), data_dir=folder, **kwargs)


def test_a_chat_ends_with_the_end_of_the_turn(folder):
    """Also for a base model, whose tokenizer names <|endoftext|> alone."""
    tokenizer = ByteTokenizer()
    im_end = tokenizer.encode("<|im_end|>")
    task = make(tokenizer, data_dir=folder, template="chat")
    assert task.eos_ids == (*im_end, tokenizer.eos_id)
    _, tokens, mask = task.demonstrations(0, 0, 3)
    assert [row[int(n) - 1] for row, n in zip(tokens, mask.sum(axis=1))] == 3 * im_end
    plain = make(tokenizer, data_dir=folder, template="plain")
    assert plain.eos_ids == (tokenizer.eos_id,)


def test_make_refuses_the_chat_template_without_its_tokens(folder):
    with pytest.raises(ValueError, match="template must be 'plain' for a tokenizer without"):
        make(ByteTokenizer(("<|eos|>", "<|pad|>")), data_dir=folder, template="chat")


def test_make_does_not_import_tensorflow(folder):
    program = (
        "import sys\n"
        "from tests.experiments.tasks.byte_tokenizer import ByteTokenizer\n"
        "from experiments.tasks import gsm8k\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"gsm8k.make(ByteTokenizer(), data_dir={folder!r})\n"
        "assert 'tensorflow_datasets' in sys.modules and 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@needs("tfds/gsm8k")
def test_make_reads_the_real_data():
    tokenizer = ByteTokenizer()
    task = make(
        tokenizer, data_dir=str(ROOT / "tfds"), template="plain", max_prompt=2000,
        max_completion=1500,
    )  # fmt: skip
    (train,), (evaluation,) = task.train, task.evaluation
    questions = [{normalize(t) for t in texts(kind, tokenizer)} for kind in (train, evaluation)]
    assert not questions[0] & questions[1]
    assert [len(names) for names in questions] == [7473, 1319]
    # Every worked answer earns the reward; the references agree with the JSON lines beside.
    prompts, tokens, mask = task.demonstrations(0, 0, 1000)
    np.testing.assert_array_equal(
        task.verify(prompts.verifier_inputs, tokens[:, None], mask[:, None]), 1
    )
    path = ROOT / "gsm8k" / "test.jsonl"
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        expected = {
            f"Question: {row['question']}\nAnswer:": parse_number(row["answer"].split("#### ")[1])
            for row in rows
        }
        assert dict(zip(texts(evaluation, tokenizer), evaluation.answer)) == expected
