"""Exports of runs, read again by our own loader and by transformers."""

import json
from contextlib import closing

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from experiments import learner
from experiments.checkpoints import Checkpoints
from experiments.config import ConfigError
from experiments.experiment import build_experiment
from experiments.export import export
from experiments.learner import hyperparameters
from experiments.models import huggingface, tokenizer
from experiments.models.config import ModelConfig, RopeScaling
from experiments.tasks.text_task import Problem, text_task
from experiments.workdir import claim
from tests.experiments.models.checkpoints import write_gguf
from tests.experiments.models.common import random_params
from tests.experiments.models.test_chat import ARROW, ASK, END, EOS, write_tokenizer
from tests.experiments.tiny_config import get_config

SIZES = ModelConfig(
    vocab_size=264, num_layers=2, d_model=16, num_heads=4, num_kv_heads=2, head_dim=4, d_ff=24,
    max_positions=128, norm_eps=1e-6,
)  # fmt: skip
LLAMA3 = RopeScaling("llama3", 4.0, 1.0, 4.0, 16)
MODELS = {
    "llama": {"rope_scaling": LLAMA3, "rope_theta": 500.0, "tied_head": False},
    "qwen2": {"qkv_bias": True, "tied_head": True},
    "qwen3": {"qk_norm": True, "head_dim": 6, "tied_head": False},
}


def make(tokenizer):
    """A task of chats, which `config.task.name` names by its import path."""
    prompt = tokenizer.encode_chat(ASK)
    problems = [Problem([*prompt, i], i, "x") for i in range(8)]
    return text_task(
        tokenizer, train=[problems], evaluation=[problems], pattern=(0,), evaluation_pattern=(0,),
        score=float, eos_id=tokenizer.turn_end_id or tokenizer.eos_id, eos_ids=tokenizer.eos_ids,
        max_prompt=60, max_completion=4, seed=0, dropped={},
    )  # fmt: skip


def write_run(workdir, config, params, step=3):
    """The files of a run whose policy at `step` is `params`."""
    claim(config, workdir)
    experiment = build_experiment(config)
    hyper = hyperparameters(config, experiment.methods)
    state = learner.init_state(
        experiment.model, config, experiment.methods, hyper, jax.tree.map(jax.numpy.array, params)
    )
    with closing(Checkpoints(workdir / "checkpoints", keep=2)) as checkpoints:
        checkpoints.save(step, learner.to_checkpoint(state, hyper))
    return experiment.model


def chat_config(path):
    config = get_config()
    config.task = {"name": f"{__name__}.make", "kwargs": {}}
    config.model.path = str(path)
    config.warm_start.steps = 0
    config.sampling.end_tokens = ("→",)
    config.learner.head_rank = False
    return config


@pytest.fixture(scope="module", params=MODELS)
def chat_run(request, tmp_path_factory):
    """(workdir, ModelConfig, params, directory of the model that it began with)."""
    root = tmp_path_factory.mktemp(request.param)
    model = ModelConfig(**(vars(SIZES) | MODELS[request.param]))
    source = root / "source"
    huggingface.save(source, model, random_params(model, 0))
    write_tokenizer(source)
    generation = {"temperature": 0.7, "eos_token_id": EOS}
    (source / "generation_config.json").write_text(json.dumps(generation))
    params = random_params(model, 1)
    write_run(root / "run", chat_config(source), params)
    return root / "run", model, params, source


def below(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


def test_export_is_read_again_bit_for_bit(chat_run, tmp_path):
    workdir, model, params, source = chat_run
    before = below(workdir)
    assert export(workdir, tmp_path / "new" / "out") == 3
    config, found = huggingface.load_model(tmp_path / "new" / "out")
    assert config == model
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert (below(workdir), below(tmp_path / "new")[0]) == (before, "out")
    assert below(tmp_path / "new" / "out") == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    modes = {path.stat().st_mode for path in (tmp_path / "new" / "out").iterdir()}
    assert modes == {(source / "config.json").stat().st_mode}  # readable as any file
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "new" / "out" / name).read_bytes() == (source / name).read_bytes()


def test_export_keeps_the_tokenizer_and_every_end_token(chat_run, tmp_path):
    workdir, _, _, source = chat_run
    export(workdir, tmp_path)
    ours, theirs = tokenizer.load(tmp_path), tokenizer.load(source)
    assert ours.encode_chat(ASK) == theirs.encode_chat(ASK)
    assert set(ours.eos_ids) == {EOS, END, ARROW}  # the end of the turn, and config.sampling's
    assert (ours.eos_id, ours.pad_id) == (theirs.eos_id, theirs.pad_id) == (EOS, EOS)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation == {
        "temperature": 0.7, "eos_token_id": [EOS, END, ARROW], "pad_token_id": EOS,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype"), [("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)]
)
def test_export_rounds_to_the_dtype(chat_run, tmp_path, dtype, numpy_dtype):
    workdir, _, params, _ = chat_run
    export(workdir, tmp_path, step=3, dtype=dtype)
    _, found = huggingface.load_model(tmp_path)
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x, y.astype(numpy_dtype).astype(np.float32)),
        found,
        params,
    )
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        names = file.keys()
        stored = {file.get_slice(name).get_dtype() for name in names}
    assert stored == {{"bfloat16": "BF16", "float16": "F16"}[dtype]}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == dtype


def test_export_of_a_gguf_model_writes_its_tokenizer(tmp_path):
    model = ModelConfig(**(vars(SIZES) | {"vocab_size": 80, "tied_head": True}))
    path = tmp_path / "model.gguf"
    template = "{% for m in messages %}{{ m.content + '<|pad|>' }}{% endfor %}"
    write_gguf(
        path, "llama", model, random_params(model), metadata=[("tokenizer.chat_template", template)]
    )
    config = chat_config(path)
    config.sampling.end_tokens = ()
    params = random_params(model, 1)
    write_run(tmp_path / "run", config, params)
    export(tmp_path / "run", tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, huggingface.load_model(tmp_path / "out")[1], params)
    ours, theirs = tokenizer.load(tmp_path / "out"), tokenizer.load(path)
    assert ours.encode_chat(ASK) == theirs.encode_chat(ASK)
    assert (ours.eos_ids, ours.pad_id) == (theirs.eos_ids, theirs.pad_id) == ((0, 1), 1)


@pytest.fixture(scope="module")
def graph_run(tmp_path_factory):
    """(workdir, params) of a run from scratch on a task without a tokenizer."""
    workdir = tmp_path_factory.mktemp("graph")
    config = get_config()
    params = random_params(build_experiment(config).model, 2)
    write_run(workdir, config, params, step=2)
    write_run(workdir, config, jax.tree.map(lambda x: 2 * x, params), step=4)
    return workdir, params


def test_export_without_tokenizer_writes_the_model_alone(graph_run, tmp_path):
    workdir, params = graph_run
    assert export(workdir, tmp_path / "newest") == 4
    assert export(workdir, tmp_path / "out", step=2) == 2
    jax.tree.map(np.testing.assert_array_equal, huggingface.load_model(tmp_path / "out")[1], params)
    assert below(tmp_path / "out") == ["config.json", "generation_config.json", "model.safetensors"]
    task = build_experiment(get_config()).task
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [task.eos_id], "pad_token_id": task.pad_id}


def test_export_refuses(graph_run, tmp_path):
    workdir, _ = graph_run
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    before = below(tmp_path)
    for error, arguments, message in (
        (ConfigError, {"out": full}, "--out must be a new or empty directory, got .*full"),
        (ConfigError, {"out": full / "file"}, "--out must be a new or empty directory, got .*file"),
        (ConfigError, {"out": full / "file" / "x"}, "--out must lie in a directory"),
        (ConfigError, {"dtype": "int8"}, "--dtype must be one of bfloat16, float16, float32, got"),
        (ConfigError, {"dtype": None}, "--dtype must be one of bfloat16, .*got None"),
        (FileNotFoundError, {"step": 3}, r"no checkpoint of step 3 in .*; there are \[2, 4\]"),
        (FileNotFoundError, {"workdir": tmp_path / "empty"}, r"there is no run in .*config\.json"),
        (ConfigError, {"workdir": "a*b"}, "--workdir must be a path without"),
    ):
        with pytest.raises(error, match=message) as caught:
            export(**({"workdir": workdir, "out": tmp_path / "out"} | arguments))
        assert "\n" not in str(caught.value)
    assert below(tmp_path) == before


def test_export_refuses_a_run_without_checkpoint(tmp_path):
    claim(get_config(), tmp_path / "run")
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*; there are \[\]"):
            export(tmp_path / "run", tmp_path / "out")
        (tmp_path / "run" / "checkpoints").mkdir(exist_ok=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_export_leaves_nothing_half_written(graph_run, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("experiments.export._save_tokenizer", fail)
    with pytest.raises(type(error)):
        export(graph_run[0], tmp_path / "out")
    assert below(tmp_path) == []


def test_export_refuses_weights_beyond_the_dtype(tmp_path):
    config = get_config()
    params = random_params(build_experiment(config).model)
    params["final_norm"][0] = 1e5
    write_run(tmp_path / "run", config, params)
    with pytest.raises(ValueError, match=r"model\.norm\.weight must .* finite in float16"):
        export(tmp_path / "run", tmp_path / "out", dtype="float16")
    assert below(tmp_path)[0] == "run"
    assert not any(path.startswith(("out", ".out")) for path in below(tmp_path))


@pytest.mark.parametrize("shard_bytes", [1, 3000, 10**9])
def test_save_splits_into_shards(tmp_path, shard_bytes):
    params = random_params(SIZES)
    huggingface.save(tmp_path, SIZES, params, shard_bytes=10**4)  # what is replaced
    huggingface.save(tmp_path, SIZES, params, shard_bytes=shard_bytes)
    files = sorted(tmp_path.glob("*.safetensors"))
    sizes = {path.name: [x.nbytes for x in load_file(path).values()] for path in files}
    assert all(sum(parts) <= shard_bytes or len(parts) == 1 for parts in sizes.values())
    index = tmp_path / "model.safetensors.index.json"
    if shard_bytes == 10**9:
        assert (list(sizes), index.exists()) == (["model.safetensors"], False)
    else:
        count = len(files)
        assert list(sizes) == [
            f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)
        ]
        found = json.loads(index.read_text())
        assert found["metadata"]["total_size"] == sum(map(sum, sizes.values()))
        stored = {name: path.name for path in files for name in load_file(path)}
        assert found["weight_map"] == stored
    jax.tree.map(np.testing.assert_array_equal, huggingface.load_model(tmp_path)[1], params)


@pytest.mark.slow
def test_command_exports_the_checkpoints_of_a_run(command, graph_run, tmp_path):
    workdir, _ = graph_run
    for step, arguments in ((4, []), (2, ["--step=2", "--dtype=bfloat16"])):
        out = tmp_path / f"out{step}"
        done = command("experiments.export", f"--workdir={workdir}", f"--out={out}", *arguments)
        said, errors = done.communicate(timeout=280)
        assert done.returncode == 0, errors
        assert said == f"checkpoint {step} of {workdir} is in {out}\n"
        huggingface.load_model(out)


@pytest.fixture(scope="module")
def torch_models():
    from tests.experiments.models import torch_models

    return torch_models


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_export_has_the_same_logits_in_transformers(chat_run, torch_models, tmp_path, dtype):
    from transformers import AutoTokenizer, GenerationConfig

    from tests.experiments.models.test_parity import our_logits

    workdir, _, _, source = chat_run
    export(workdir, tmp_path, dtype=dtype)
    config, params = huggingface.load_model(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.load(source).encode_chat(ASK)
    assert theirs.apply_chat_template(ASK, add_generation_prompt=True, return_dict=False) == ids
    expected = torch_models.logits(torch_models.load(tmp_path), ids)
    np.testing.assert_allclose(our_logits(config, params, ids), expected, rtol=0, atol=5e-5)
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == [EOS, END, ARROW]


@pytest.mark.parity
def test_export_from_scratch_has_the_same_logits(graph_run, torch_models, tmp_path):
    from tests.experiments.models.test_parity import our_logits

    export(graph_run[0], tmp_path, step=2)
    config, params = huggingface.load_model(tmp_path)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, config.max_positions)
    expected = torch_models.logits(torch_models.load(tmp_path), ids)
    np.testing.assert_allclose(our_logits(config, params, ids), expected, rtol=0, atol=5e-5)


@pytest.mark.parity
def test_shards_are_read_by_transformers(torch_models, tmp_path):
    for name, limit in (("one", 10**9), ("many", 3000)):
        huggingface.save(tmp_path / name, SIZES, random_params(SIZES), shard_bytes=limit)
    one, many = (
        torch_models.logits(torch_models.load(tmp_path / n), range(9)) for n in ("one", "many")
    )
    np.testing.assert_array_equal(one, many)
