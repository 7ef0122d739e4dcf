"""Every file that we read, damaged: refused in one line that names it, or read and usable.

Damage is missing, empty, truncated, one flipped byte, another JSON type, a missing field; drawn with
a fixed seed, and the number of the draw is in the test's name. Nothing is written.
"""

import json
import shutil

import numpy as np
import pytest

from experiments.config import saved_config
from experiments.metric_writer import read_lines
from experiments.models import gguf, huggingface, tokenizer
from experiments.report.runs import load_runs
from experiments.report.write import main_table
from experiments.results import sweep_runs, write_results
from experiments.tasks import word_problems
from experiments.validation import validate
from experiments.workdir import as_json, check, finished_result
from tests.experiments.models import chats
from tests.experiments.models.checkpoints import write_gguf
from tests.experiments.models.common import FIXTURES
from tests.experiments.report.conftest import write_sweep
from tests.experiments.tasks.byte_tokenizer import ByteTokenizer
from tests.experiments.tiny_config import get_config as tiny_config

OTHER = (None, "x", -1, 0, True, [], {}, [1], float("nan"), 1e300, 10**12)


def usable(model):
    config, params = model
    assert all(np.all(np.isfinite(leaf)) for leaf in params["layers"].values())
    assert params["embedding"].shape == (config.vocab_size, config.d_model)


def use_tokenizer(path):
    found = tokenizer.load(path)
    found.decode([*found.encode("hello 12")[:2], found.eos_id, found.pad_id])


def use_chat(path):
    found = tokenizer.load(path.parent)
    found.decode(found.encode_chat([{"role": "user", "content": "hello <|pad|>"}]))


def use_run(path):
    validate(saved_config(path.parent))
    check(tiny_config(), path.parent)


def use_sweep(path):
    workdir = path.parent if path.name == "sweep.json" else path.parents[2]
    before = {p.name for p in workdir.iterdir()}
    sweep_runs(workdir)
    assert len(write_results(workdir).read_text().splitlines()) >= 7
    (workdir / "results.csv").unlink()
    main_table(workdir)
    assert {p.name for p in workdir.iterdir()} == before


FORMATS = {
    "config.json of a model": (
        "hf/config.json",
        lambda p: usable(huggingface.load_model(p.parent)),
    ),
    "safetensors": ("hf/model.safetensors", lambda p: usable(huggingface.load_model(p.parent))),
    "index": (
        "sharded/model.safetensors.index.json",
        lambda p: usable(huggingface.load_model(p.parent)),
    ),
    "shard": (
        "sharded/model-00001-of-00002.safetensors",
        lambda p: usable(huggingface.load_model(p.parent)),
    ),
    "tokenizer.json": ("tokens/tokenizer.json", lambda p: use_tokenizer(p.parent)),
    "tokenizer_config.json": ("tokens/tokenizer_config.json", lambda p: use_tokenizer(p.parent)),
    "turns in chat_template.jinja": ("chat/chat_template.jinja", use_chat),
    "turns in generation_config.json": ("chat/generation_config.json", use_chat),
    "turns in tokenizer_config.json": ("chat/tokenizer_config.json", use_chat),
    "GGUF model": ("model.gguf", lambda p: usable(huggingface.load_model(p))),
    "GGUF tokenizer": ("model.gguf", use_tokenizer),
    "config.json of a run": ("run/config.json", use_run),
    "result.json": ("run/result.json", lambda p: finished_result(tiny_config(), p.parent)),
    "metrics.jsonl": ("sweep/runs/grpo-seed0/metrics.jsonl", use_sweep),
    "result.json in a sweep": ("sweep/runs/grpo-seed0/result.json", use_sweep),
    "config.json in a sweep": ("sweep/runs/grpo-seed0/config.json", use_sweep),
    "sweep.json": ("sweep/sweep.json", use_sweep),
    **{
        f"{name}.jsonl": (
            f"words/{name}.jsonl",
            lambda p: word_problems.make(ByteTokenizer(), directory=str(p.parent)),
        )
        for name in ("asdiv", "svamp", "mawps_addsub")
    },
}
DAMAGES = (
    ["missing", "empty", "a folder", "other text"]
    + [f"truncated {i}" for i in range(8)]
    + [f"flipped {i}" for i in range(16)]
)
JSON_DAMAGES = [f"other {i}" for i in range(16)] + [f"without {i}" for i in range(4)]


def damages(name):
    no_json = (
        "safetensors",
        "shard",
        "GGUF model",
        "GGUF tokenizer",
        "turns in chat_template.jinja",
    )
    return DAMAGES if name in no_json else DAMAGES + JSON_DAMAGES


CASES = [(name, damage) for name in FORMATS for damage in damages(name)]
assert len(CASES) >= 500


@pytest.fixture(scope="module", name="good")
def good_fixture(tmp_path_factory):
    """A directory with every file, all good."""
    root = tmp_path_factory.mktemp("good")
    for name, fixture in (("hf", "llama_tied"), ("sharded", "qwen2_sharded")):
        ignored = shutil.ignore_patterns("reference.npz")
        shutil.copytree(FIXTURES / fixture, root / name, ignore=ignored)
    write_gguf(root / "model.gguf", "llama", *huggingface.load_model(FIXTURES / "llama_tied"))
    tokenizer.load(root / "model.gguf").save(root / "tokens")
    template = [("tokenizer.chat_template", chats.template("smollm2").replace("im_end", "pad"))]
    chat_model = (root / "chat.gguf", "llama", *huggingface.load_model(FIXTURES / "llama_tied"))
    write_gguf(*chat_model, metadata=template)
    tokenizer.load(root / "chat.gguf").save(root / "chat")
    (root / "run").mkdir()
    (root / "run" / "config.json").write_text(json.dumps(as_json(tiny_config())))
    (root / "run" / "result.json").write_text('{"step": 4, "params_sha256": "00"}')
    write_sweep(root / "sweep", seeds=2, steps=20)  # few lines are read faster
    (root / "words").mkdir()
    lines = {
        "asdiv": {"body": "Ann has 3.", "question": "4 more?", "answer": "7", "formula": "3+4=7"},
        "svamp": {"Body": "Pam had 9", "Question": "2 less?", "Answer": 7.0},
        "mawps_addsub": {"input": "Two and two ?", "target": 4},
    }
    for name, line in lines.items():
        (root / "words" / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    return root


def places(value, path=()):
    """The path of every value in a tree of JSON."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items if isinstance(value, (dict, list)) else ():
        if isinstance(part, (dict, list)):
            yield from places(part, (*path, key))
        else:
            yield (*path, key)


def change_json(text, rng, damage):
    """Puts another type in the place of a random value, or takes it away."""
    line, *rest = text.splitlines() if text.count("\n{") else [text]
    tree = [json.loads(line)]
    every = [place for place in places(tree) if place][:60]
    *path, last = every[rng.integers(len(every))]
    node = tree
    for key in path:
        node = node[key]
    if damage == "without":
        del node[last]
    else:
        node[last] = OTHER[rng.integers(len(OTHER))]
    return "\n".join([json.dumps(tree[0]) if tree else "", *rest]) + "\n"


def break_file(path, damage, seed):
    kind, _, number = damage.partition(" ")
    rng, content = np.random.default_rng([seed, int(number) if number.isdigit() else 0]), b""
    if path.is_file():
        content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage == "other text":
        path.write_text("\x00\x01 no such format \ud83d\n".encode("utf-8", "replace").decode())
    elif kind == "truncated":
        path.write_bytes(content[: rng.integers(1, len(content))])
    elif kind == "flipped":
        flipped = bytearray(content)
        # Half of them in the head of a large file, where its structure is.
        span = min(len(content), 2000) if int(number) % 2 else len(content)
        flipped[rng.integers(span)] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
    elif kind in ("other", "without"):
        path.write_text(change_json(content.decode(), rng, kind))
    elif kind == "empty":
        path.write_bytes(b"")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "damage"), CASES, ids=[f"{n}-{d}" for n, d in CASES])
def test_a_damaged_file_is_refused_or_can_be_used(name, damage, good, tmp_path):
    inside, use = FORMATS[name]
    top = inside.split("/")[0]
    (shutil.copytree if (good / top).is_dir() else shutil.copy)(good / top, tmp_path / top)
    path = tmp_path / inside
    break_file(path, damage, sorted(FORMATS).index(name))
    before = sorted(tmp_path.rglob("*"))
    try:
        use(path)
    except (OSError, ValueError) as error:  # ConfigError and FileNotFoundError too
        text = str(error)
        assert "\n" not in text
        assert len(text) < 1000
        assert str(tmp_path) in text or text.startswith("config."), text
    after = [p for p in sorted(tmp_path.rglob("*")) if p.name != "results.csv"]
    assert after == before


@pytest.mark.parametrize("name", FORMATS)
def test_the_good_file_can_be_used(name, good, tmp_path):
    shutil.copytree(good, tmp_path / "copy")
    inside, use = FORMATS[name]
    use(tmp_path / "copy" / inside)


def test_read_lines_leaves_out_what_is_no_line(tmp_path):
    lines = [{"step": 1}, 3, None, [1], {"step": "2"}, {}, {"step": 2.5}, {"step": 4}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [line["step"] for line in read_lines(path)] == [1, 4]
    assert [run.last_step for run in load_runs(tmp_path)] == [4]


def test_open_file_names_a_file_that_is_no_gguf(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"x\.gguf cannot be read"):
        gguf.open_file(tmp_path / "x.gguf")
