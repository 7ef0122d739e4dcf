"""Configs that cannot run end at once, with one line that names field, value and what is allowed."""

import importlib
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from ml_collections import ConfigDict

from experiments import sweep
from experiments.config import ConfigError, default_config, with_added_fields
from experiments.experiment import build_experiment, host_rewards
from experiments.grid import seeds
from experiments.metric_writer import Silent
from experiments.optimizers import make_optimizer
from experiments.train import train
from experiments.validation import validate
from experiments.workdir import claim
from tests.experiments.conftest import REPOSITORY
from tests.experiments.tiny_config import get_config as tiny_config

CONFIGS = sorted(p.stem for p in (REPOSITORY / "configs").glob("*.py") if p.stem != "__init__")


def changed(field, value):
    config = tiny_config()
    *path, last = field.split(".")
    node = config
    for part in path:
        node = node[part]
    with node.ignore_type():
        node[last] = value
    return config


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 0, "config.steps must be a whole number >= 1, got 0"),
        ("steps", True, "config.steps must be a whole number >= 1, got True"),
        ("prompts", -4, "config.prompts must be a whole number >= 1, got -4"),
        ("group_size", 0, "config.group_size must be a whole number >= 1, got 0"),
        ("seed", -1, "config.seed must be a whole number >= 0, got -1"),
        ("seed", 2**32, "config.seed must be a whole number <= 4294967295, got 4294967296"),
        ("evaluation.seed", 2**32 + 5, "config.evaluation.seed must be a whole number <= 4294967295, got 4294967301"),
        ("warm_start.seed", 2**40, "config.warm_start.seed must be a whole number <= 4294967295, got"),
        ("steps_per_call", 3, "config.steps_per_call must be a divisor of config.steps = 4, got 3"),
        ("sampling.temperature", 0.0, "config.sampling.temperature must be > 0, got 0.0"),
        ("sampling.top_p", 1.5, "config.sampling.top_p must be in (0, 1], got 1.5"),
        ("sampling.slots", -1, "config.sampling.slots must be a whole number >= 0, got -1"),
        ("sampling.loops", 0, "config.sampling.loops must be a whole number >= 1, got 0"),
        ("sampling.loops", 7, "config.sampling.loops must be a whole number <= 6, got 7"),
        ("sampling.end_tokens", ("a", 3), "config.sampling.end_tokens must be a tuple of texts of tokens, got ('a', 3)"),
        ("sampling.end_tokens", ("a",), "config.sampling.end_tokens must be empty without config.model.path"),
        ("learner.minibatches", 3, "config.learner.minibatches must be a divisor of config.prompts = 8, got 3"),
        ("learner.microbatches", 3, "must be a divisor of the minibatch of 8 prompts, got 3"),
        ("learner.reduction", "mean", "must be one of sequence_sum, token_mean, sequence_mean, constant_length_mean, got 'mean'"),
        ("learner.clip_low", 0.0, "config.learner.clip_low must be in (0, 1], got 0.0"),
        ("optimizer.moments_dtype", "float16",
         "config.optimizer.moments_dtype must be one of float32, bfloat16, got 'float16'"),
        ("optimizer.learning_rate", 0.0, "config.optimizer.learning_rate must be > 0, got 0.0"),
        ("optimizer.momentum", 1.0, "config.optimizer.momentum must be in [0, 1), got 1.0"),
        ("learner.staleness", -1, "config.learner.staleness must be a whole number >= 0, got -1"),
        ("learner.head_rank", "no", "config.learner.head_rank must be one of True, False, got 'no'"),
        ("sweep.seeds", 0, "config.sweep.seeds must be a whole number >= 1, got 0"),
        ("optimizer.b2", 1.0, "config.optimizer.b2 must be in [0, 1), got 1.0"),
        ("model.dtype", "float16", "config.model.dtype must be one of float32, bfloat16"),
        ("model.remat_keeps", "all", "config.model.remat_keeps must be one of nothing, products"),
        ("model.attention", "flash", "config.model.attention must be one of auto, plain, blocks, cudnn, pallas"),
        ("model.attention", "cudnn", 'config.model.attention = "cudnn" needs a gpu; the backend is "cpu"'),
        ("evaluation.ks", (1, 9), "config.evaluation.ks must be numbers in 1..config.evaluation.samples = 8"),
        ("evaluation.prompts_per_call", 3, "must be a divisor of config.evaluation.prompts = 8, got 3"),
        ("lora.rank", -1, "config.lora.rank must be a whole number >= 0, got -1"),
        ("lora.alpha", 0.0, "config.lora.alpha must be > 0, got 0.0"),
        ("lora.targets", ("query", "head"), "config.lora.targets must be a tuple of one or more of"
         " query, key, value, output, gate, up, down, each once, got ('query', 'head')"),
        ("lora.targets", (), "config.lora.targets must be a tuple of one or more of query, key"),
        ("lora.targets", ("up", "up"), "each once, got ('up', 'up')"),
        ("model.path", "/nowhere.gguf", "config.model.path must be an existing GGUF file"),
        ("sweep.mode", "threads", "config.sweep.mode must be one of auto, processes, serial, vmap, got 'threads'"),
    ],
)  # fmt: skip
def test_impossible_values(field, value, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_experiment(changed(field, value))


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("grop", {}, "config.advantage.name must be one of"),
        ("chain", {}, "config.advantage.name must be one of"),
        ("power", {}, "config.advantage.kwargs lacks alpha"),
        (
            "power",
            {"alfa": 2.0},
            "config.advantage.kwargs has no field 'alfa' (got 2.0); allowed: alpha, scale",
        ),
        ("power", {"alpha": -1.0}, "alpha must be"),
        ("fade", {"rate": 0.0}, "rate must be"),
    ],
)
def test_impossible_advantages(name, kwargs, message):
    config = changed("advantage", ConfigDict({"name": name, "kwargs": kwargs}))
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_experiment(config)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "fade"])
def test_group_of_one_with_a_group_baseline(name):
    config = changed("advantage", ConfigDict({"name": name, "kwargs": {}}))
    config.group_size = 1
    with pytest.raises(ConfigError, match=r"config.group_size"):
        build_experiment(config)


@pytest.mark.parametrize("name", ["experiments.tasks.graph", "experiments.tasks.graph.make"])
def test_task_of_a_dotted_path(name):
    build_experiment(changed("task.name", name))


@pytest.mark.parametrize("name", ["reinforce", "nsr"])
def test_group_of_one_without_a_group_baseline(name):
    config = changed("advantage", ConfigDict({"name": name, "kwargs": {}}))
    config.group_size = 1
    build_experiment(config)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("task.name", "chess", "there is no module experiments.tasks.chess"),
        ("task.name", "base", "is no task"),
        ("task.name", "no_such.letters", "No module named 'no_such'"),
        ("task.name", "experiments.tasks.base", "is no task"),
        ("task.name", "experiments.tasks.graph.no_make", "has no attribute 'no_make'"),
        ("task.kwargs", {"knots": 3}, "knots"),
        ("task.kwargs", {"degree": 1}, "degree must be"),
        ("model.num_heads", 3, "config.model.num_heads must divide config.model.d_model = 16 into heads of even width, got 3"),
        ("mesh.data", 3, "config.prompts must be a multiple of"),
        ("mesh.fsdp", 16, "config.mesh needs 16 devices, there are 8"),
        ("task.name", "arithmetic", "set model.path"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit(field, value, message):
    config = changed(field, ConfigDict(value) if isinstance(value, dict) else value)
    if (field, value) == ("task.name", "arithmetic"):
        config.task.kwargs = ConfigDict({})
    with pytest.raises(ValueError, match=re.escape(message)):
        build_experiment(config)


def test_unknown_fields_are_refused():
    with pytest.raises(AttributeError, match="learning_rat"):
        default_config().optimizer.learning_rat = 1.0


def test_workdir_of_another_config_is_refused(tiny, tmp_path):
    claim(tiny, tmp_path)
    tiny.seed = 1
    with pytest.raises(ConfigError, match=r"seed: 0 there, 1 here.*choose another --workdir"):
        train(tiny, tmp_path, progress=Silent())


def test_a_field_of_which_an_old_config_says_nothing_has_its_default(tiny, tmp_path):
    claim(tiny, tmp_path)
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    del old["model"]["remat_keeps"]
    path.write_text(json.dumps(old))
    claim(tiny, tmp_path)
    path.write_text(json.dumps(old))
    tiny.model.remat_keeps = "products"
    with pytest.raises(ConfigError, match=r"remat_keeps: 'nothing' there, 'products' here"):
        train(tiny, tmp_path, progress=Silent())


def test_added_fields_are_those_of_the_part_alone():
    now = {"model": {"dtype": "bfloat16", "remat_keeps": "products"}, "task": {"name": "graph"}}
    saved = {"model": {"dtype": "float32"}, "task": {"name": "countdown", "kwargs": {"a": 1}}}
    assert with_added_fields(saved, now) == {
        "model": {"dtype": "float32", "remat_keeps": "nothing"},
        "task": {"name": "countdown", "kwargs": {"a": 1}},
    }


def leaves(config, prefix=""):
    for name in config:
        value = config[name]
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def read_by_the_program(monkeypatch):
    """The set that fills with the fields, by (section's id, name), that running code reads.

    Not counted is what reads every field alike: the checks of config.py, copies and dumps.
    """
    seen = set()
    original = ConfigDict.__getitem__

    def record(self, name):
        frame = sys._getframe(1)
        while frame.f_globals["__name__"].startswith("ml_collections"):
            if frame.f_code.co_name in (
                "to_dict",
                "copy_and_resolve_references",
                "eq_as_configdict",
            ):
                return original(self, name)
            frame = frame.f_back
        if frame.f_globals["__name__"] not in ("experiments.config", __name__):
            seen.add((id(self), name))
        return original(self, name)

    monkeypatch.setattr(ConfigDict, "__getitem__", record)
    return seen


class HostTask(NamedTuple):
    on_device: bool = False


def test_every_field_is_read_by_a_running_program(monkeypatch, tiny, tmp_path):
    monkeypatch.setattr(
        sweep, "_run_in_processes", lambda jobs, _, board: sweep._run_serially(jobs, board)
    )
    shared = {}  # run_configs copies the config for each run: the copy is what the run reads
    copy = ConfigDict.copy_and_resolve_references

    def copy_once(self, *args, **kwargs):
        return shared.setdefault(id(self), self) if self is tiny else copy(self, *args, **kwargs)

    monkeypatch.setattr(ConfigDict, "copy_and_resolve_references", copy_once)
    seen = read_by_the_program(monkeypatch)
    for tiny.sweep.mode in ("auto", "vmap"):  # the second finds the run finished
        sweep.run_sweep(tiny, seeds(tiny), tmp_path)
    tiny.optimizer.name = "sgd"
    make_optimizer(tiny.optimizer, 1.0)
    from_file = build_experiment(tiny)
    from_file = from_file._replace(task=HostTask())
    with host_rewards(from_file):
        pass
    unread = []
    for field in leaves(default_config()):
        *path, last = field.split(".")
        section = tiny
        for part in path:
            section = section[part]
        if (id(section), last) not in seen:
            unread.append(field)
    assert unread == []


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_valid(name):
    module = importlib.import_module(f"configs.{name}")
    for mode in ("", "smoke"):
        config = module.get_config(mode)
        config.model.path = ""  # the weights may not be here
        validate(config)
    with pytest.raises(ConfigError, match="no mode 'smok'"):
        module.get_config("smok")
    assert set(leaves(config)) >= set(leaves(default_config()))


def test_paths_are_not_of_this_machine():
    for folder in ("experiments", "configs", "fade_jax"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            assert str(Path.home()) not in path.read_text()
