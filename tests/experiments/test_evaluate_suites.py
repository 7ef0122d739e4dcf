"""Suites: samples that go on after a kill, and pass@k against all subsets."""

import csv
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.config import ConfigError, default_config
from experiments.evaluate import evaluate_suites
from experiments.evaluate_suites import Settings, check_claim
from experiments.models import huggingface
from experiments.models.config import ModelConfig
from experiments.tasks.suites import SUITES, read_suite
from tests.experiments.models.common import random_params
from tests.experiments.models.test_chat import write_tokenizer
from tests.experiments.tasks.real_data import ROOT, needs

SIZES = ModelConfig(
    vocab_size=264, num_layers=1, d_model=16, num_heads=2, num_kv_heads=1, head_dim=8, d_ff=24,
    max_positions=256, norm_eps=1e-6, tied_head=True,
)  # fmt: skip
QUESTIONS = [{"id": f"q{i}", "question": f"What is {i} + 1?", "answer": i + 1} for i in range(10)]


@pytest.fixture(scope="module", name="model")
def model_fixture(tmp_path_factory):
    """A directory of a random model with a chat template."""
    directory = tmp_path_factory.mktemp("model")
    huggingface.save(directory, SIZES, random_params(SIZES, 0))
    return str(write_tokenizer(directory))


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(name="suite")
def suite_fixture(tmp_path):
    return f"questions:{write_lines(tmp_path / 'small.jsonl', QUESTIONS)}"


def values(*suites, **changes):
    """The flags of the command, with the defaults that a test needs."""
    config = default_config()
    config.mesh.data = 1
    flags = {
        "suite": list(suites), "data_dir": "", "out": None, "rescore": None, "samples": 4,
        "samples_per_call": 2, "prompts_per_call": 4, "max_tokens": 6, "max_prompt": 100,
        "system": "", "template": "chat", "temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 0,
        "sandbox": "bubblewrap", "workers": 1, "check_seconds": 5.0, "config": config, "workdir": None,
        "model": None, "step": None,
    }  # fmt: skip
    return SimpleNamespace(**flags | changes)


def lines_of(directory):
    """The samples without the seconds of their checks."""
    lines = [json.loads(line) for line in (directory / "samples.jsonl").read_text().splitlines()]
    return [{name: v for name, v in line.items() if name != "seconds"} for line in lines]


def summary_of(directory):
    return json.loads((directory / "summary.json").read_text())


def test_evaluate_suites_samples_and_goes_on_after_a_kill(model, suite, tmp_path):
    whole = tmp_path / "whole" / "questions-small"
    table = evaluate_suites(values(suite, model=model, out=str(tmp_path / "whole")))
    lines = lines_of(whole)
    assert "| questions |" in table.replace("  ", "")
    assert {(line["id"], line["sample"]) for line in lines} == {
        (row["id"], i) for row in QUESTIONS for i in range(4)
    }
    assert len(lines) == 40
    assert all(line["ended"] == (line["verdict"] != "cut off") for line in lines)
    assert all(0 < line["tokens"] <= 6 for line in lines)
    assert {line["tokens"] for line in lines if not line["ended"]} <= {6}
    assert len({line["completion"] for line in lines}) > 10  # samples differ
    settings = json.loads((whole / "settings.json").read_text())
    assert settings["suite"] == suite
    assert (settings["samples"], settings["model"]) == (4, model)
    with (whole / "counts.csv").open() as file:
        counts = list(csv.DictReader(file))
    assert {(row["id"], row["samples"]) for row in counts} == {(q["id"], "4") for q in QUESTIONS}
    summary = summary_of(whole)
    assert (summary["problems"], summary["left_out"], summary["completions"]) == (10, 0, 40)
    assert summary["mean_tokens"] == pytest.approx(np.mean([line["tokens"] for line in lines]))
    assert {"pass@1", "pass@2", "pass@4"} <= summary.keys()
    assert "pass@8" not in summary

    data = (whole / "samples.jsonl").read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    # In the middle of a line of a batch, and after a line without its newline.
    for part, cut in enumerate((ends[4] + 20, ends[20] - 1)):
        out = tmp_path / f"part{part}"
        (out / "questions-small").mkdir(parents=True)
        (out / "questions-small" / "samples.jsonl").write_bytes(data[:cut])
        (out / "questions-small" / "settings.json").write_bytes(
            (whole / "settings.json").read_bytes()
        )
        evaluate_suites(values(suite, model=model, out=str(out)))
        assert lines_of(out / "questions-small") == lines

    before = (whole / "samples.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"holds samples with seed = 0, got 1: choose another"):
        evaluate_suites(values(suite, model=model, out=str(whole.parent), seed=1))
    assert (whole / "samples.jsonl").read_bytes() == before
    kept = Settings(**{name: settings[name] for name in Settings._fields})
    read = read_suite(suite, "")
    check_claim(whole, read, kept)
    for name, value in kept._asdict().items():
        other = f"{value}x" if isinstance(value, str) else value + 1
        with pytest.raises(ConfigError, match=f"holds samples with {name} = "):
            check_claim(whole, read, kept._replace(**{name: other}))

    # Scored again they are the same, and cut off completions stay that.
    evaluate_suites(values(suite, rescore=str(whole.parent)))
    assert lines_of(whole) == lines
    assert summary_of(whole)["pass@2"] == summary["pass@2"]


def subset_rate(right, k):
    """The part of all subsets of k samples that hold a right one."""
    return np.mean([any(subset) for subset in itertools.combinations(right, k)])


def test_rescore_takes_completions_of_another_program(suite, tmp_path):
    """With the fields id and completion alone, and no newline at the end."""
    rng = np.random.default_rng(0)
    right = {row["id"]: (rng.random(5) < rng.random()).tolist() for row in QUESTIONS[:8]}
    answers = {row["id"]: row["answer"] for row in QUESTIONS}
    rows = [
        {"id": name, "completion": rf"so\u2028 \boxed{{{answers[name] + (not ok)}}}"}
        for name, group in right.items()
        for ok in group
    ]
    path = tmp_path / "out" / "questions-small" / "samples.jsonl"
    write_lines(path, [])
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(text.replace("\\\\u2028", "\u2028"), encoding="utf-8")
    assert "\u2028" in path.read_text(encoding="utf-8")
    table = evaluate_suites(values(suite, rescore=str(tmp_path / "out")))
    summary = summary_of(path.parent)
    assert (summary["problems"], summary["left_out"], summary["completions"]) == (8, 2, 40)
    assert summary["mean_tokens"] is None
    for k in (1, 2, 4):
        expected = np.mean([subset_rate(group, k) for group in right.values()])
        rate = summary[f"pass@{k}"]
        assert rate["mean"] == pytest.approx(expected, abs=1e-6)
        assert rate["low"] <= expected <= rate["high"]
        assert f"{100 * expected:.1f} [" in table
    verdicts = [line["verdict"] for line in lines_of(path.parent)]
    assert verdicts == ["right" if ok else "wrong" for group in right.values() for ok in group]
    with (path.parent / "counts.csv").open() as file:
        counts = {
            row["id"]: (int(row["samples"]), int(row["right"])) for row in csv.DictReader(file)
        }
    assert counts == {name: (5, sum(group)) for name, group in right.items()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no completions"),
        ("{}\n", r"line 1: id must be a text, got \{\}"),
        ('{"id": "q1"}\n', "line 1: completion must be a text"),
        ('{"id": "q1", "completion": 3}\n', "line 1: completion must be a text"),
        ('{"id": "q99", "completion": "x"}\n', "line 1: the suite has no problem 'q99'"),
        ('{"id": "q1", "completion": "x"}\n[1\n{"id"', "line 2 is not JSON"),
        ("[1]\n", "line 1: id must be a text"),
        (b'{"id": "\xff"}\n', "is no UTF-8"),
    ],
)
def test_rescore_refuses_damaged_files(text, message, suite, tmp_path):
    path = write_lines(tmp_path / "out" / "questions-small" / "samples.jsonl", [])
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=message) as caught:
        evaluate_suites(values(suite, rescore=str(tmp_path / "out")))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() in (before, before[:-5])


BAD = [
    ({"samples": 4, "samples_per_call": 3}, r"--samples must be a multiple of --samples_per_call"),
    ({"out": None}, "--suite with --model needs --out=DIR"),
    ({"model": None}, "give --workdir=DIR of a run, or --model=PATH"),
    ({"workdir": "x"}, "give --workdir=DIR of a run, or --model=PATH of a model, not both"),
    ({"model": None, "workdir": "no_such_run", "out": None}, "no_such_run"),
    ({"rescore": "x"}, "--rescore samples nothing"),
    ({"rescore": "no_such", "model": None, "out": None}, "--rescore needs no_such"),
    ({"max_prompt": 200, "max_tokens": 100}, r"--max_prompt = 200 and --max_tokens = 100 do not fit"),
    ({"max_prompt": 3}, "--max_prompt keeps no problem of questions:.*; the shortest prompt has"),
    ({"top_p": 2.0}, r"config\.sampling\.top_p"),
    ({"temperature": -1.0}, r"config\.sampling\.temperature"),
    ({"data_dir": "no_such", "suite": ["math500"]}, r"no_such/.* does not exist; give --data_dir"),
    ({"suite": ["maths500"]}, r"--suite must name humaneval, .*, got 'maths500'"),
    ({"suite": ["livecodebench"]}, "--suite=livecodebench needs a file: --suite=livecodebench:FILE"),
    ({"suite": ["questions:no_such"]}, "--suite=questions: no_such does not exist"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_evaluate_suites_refuses_bad_flags(changes, message, model, suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    changes = {"suite": [suite], "model": model, "out": "out", **changes}
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        evaluate_suites(values(**changes))
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_evaluate_suites_refuses_a_suite_twice(model, suite, tmp_path):
    write_lines(tmp_path / "other" / "small.jsonl", QUESTIONS)
    other = f"questions:{tmp_path / 'other' / 'small.jsonl'}"
    with pytest.raises(ConfigError, match="--suite must name each suite once, got questions-small"):
        evaluate_suites(values(suite, other, model=model, out=str(tmp_path / "out")))


def test_evaluate_suites_needs_a_chat_template(model, suite, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    huggingface.save(plain, SIZES, random_params(SIZES, 0))
    write_tokenizer(plain, chat_template=None)
    with pytest.raises(ConfigError, match="--template must be 'plain' for a tokenizer without"):
        evaluate_suites(values(suite, model=str(plain), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "a"}], "line 1: answer must be a text or a number, got None"),
        ([{"question": "", "answer": 1}], "line 1: question must be a text or a number, got ''"),
        ([{"id": 1, "question": "a", "answer": 1}] * 2, "line 2: id must be unique, got '1'"),
    ],
)
def test_read_suite_refuses_bad_questions(rows, message, tmp_path):
    path = write_lines(tmp_path / "bad.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        read_suite(f"questions:{path}", "")


@needs("math_eval")
@pytest.mark.parametrize(
    ("name", "count"),
    [("math500", 500), ("aime24", 30), ("aime25", 30), ("amc23", 40), ("gsm8k", 1319)],
)
def test_read_suite_of_the_real_data(name, count, tmp_path):
    """Boxed references are right, and so is the count."""
    assert name in SUITES
    suite = read_suite(name, str(ROOT))
    assert len(suite.problems) == count
    rows = [
        {"id": p.id, "completion": rf"Hence $\boxed{{{p.answer['answer']}}}$."}
        for p in suite.problems
    ]
    write_lines(tmp_path / name / "samples.jsonl", rows)
    evaluate_suites(values(name, rescore=str(tmp_path), data_dir=str(ROOT)))
    assert summary_of(tmp_path / name)["verdicts"] == {"right": count}


@needs("humaneval")
@pytest.mark.slow
def test_rescore_finds_the_solutions_of_humaneval_right(tmp_path):
    suite = read_suite("humaneval", str(ROOT))
    rows = [{"id": p.id, "completion": p.solution} for p in suite.problems]
    assert len(rows) == 164
    write_lines(tmp_path / "humaneval" / "samples.jsonl", rows)
    evaluate_suites(values("humaneval", rescore=str(tmp_path), data_dir=str(ROOT), workers=2))
    summary = summary_of(tmp_path / "humaneval")
    assert summary["verdicts"] == {"right": 164}
    assert summary["pass@1"]["mean"] == pytest.approx(1, abs=1e-6)
