"""Every field of a config and of the command line with values that cannot be.

Each is refused in one line that names the field, or accepted and can be built. Nothing is written.
"""

import math
import sys

import jax
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import experiment
from experiments.command import parse_flags
from experiments.config import ConfigError, default_config, saved_config
from experiments.experiment import build_experiment
from experiments.learner import hyperparameters
from experiments.perf.plan import with_mesh
from experiments.validation import CHECKS, validate
from experiments.workdir import as_json, claim
from tests.experiments.test_config import changed
from tests.experiments.tiny_config import get_config as tiny_config

VALUES = {
    "none": None,
    "string": "3",
    "word": "yes",
    "empty": "",
    "null_byte": "a\0b",
    "long": "x" * 10_000,
    "list": [1],
    "dict": ConfigDict({"a": 1}),
    "tuple": (),
    "true": True,
    "minus_two": -2,
    "zero": 0,
    "half": 0.5,
    "one": 1,
    "one_point": 1.0,
    "nan": math.nan,
    "infinity": math.inf,
    "minus_infinity": -math.inf,
    "two_to_32": 2**32,
    "huge": 10**5000,
    "huge_float": 1e300,
}
CASES = [(field, name) for field in CHECKS for name in VALUES]

# What each kind of field takes of VALUES in the tiny config; the seeds take 0 and 1, and so on.
COUNT, INDEX, FRACTION = {"one"}, {"zero", "one"}, {"half", "one", "one_point"}
POSITIVE = {*FRACTION, "two_to_32"}
TEXT = {"string", "word", "empty"}
TAKES = {
    "seed": INDEX, "steps": set(), "prompts": COUNT, "group_size": COUNT, "steps_per_call": COUNT,
    "quick_compile": {"true"},
    "task.name": {"string", "word"}, "task.kwargs": {"dict"},
    "model.path": {"empty"}, "model.num_layers": COUNT, "model.d_model": set(),
    "model.num_heads": COUNT, "model.num_kv_heads": COUNT, "model.d_ff": COUNT,
    "model.tied_head": {"true"}, "model.dtype": set(), "model.remat": {"true"},
    "model.remat_keeps": set(), "model.attention": set(), "lora.rank": INDEX, "lora.alpha": POSITIVE, "lora.targets": set(),
    "sampling.temperature": FRACTION,
    "sampling.top_p": FRACTION, "sampling.top_k": INDEX,
    "sampling.slots": INDEX, "sampling.loops": COUNT,
    "sampling.end_tokens": {"tuple"}, "advantage.name": {"string", "word"},
    "advantage.kwargs": {"dict"}, "learner.epochs": COUNT, "learner.minibatches": COUNT,
    "learner.microbatches": COUNT, "learner.packed_tokens": INDEX, "learner.clip_low": FRACTION,
    "learner.clip_high": POSITIVE | {"zero"}, "learner.reduction": set(),
    "learner.loss.name": {"string", "word"}, "learner.loss.kwargs": {"dict"},
    "learner.importance_cap": POSITIVE | {"zero"},
    "learner.kl.coefficient": POSITIVE | {"zero"}, "learner.kl.measured": {"true"},
    "learner.kl.estimator": set(), "learner.kl.place": set(), "learner.kl.reference": set(),
    "learner.kl.refresh_every": INDEX, "learner.kl.schedule.name": {"string", "word"},
    "learner.kl.schedule.kwargs": {"dict"},
    "learner.entropy.coefficient": POSITIVE | {"zero", "minus_two"},
    "learner.entropy.schedule.name": {"string", "word"},
    "learner.entropy.schedule.kwargs": {"dict"},
    "learner.staleness": INDEX, "learner.equalize_mass": {"true"}, "learner.head_rank": {"true"},
    "learner.resample_rounds": INDEX, "learner.mask_truncated": {"true"},
    "learner.overlong_buffer": INDEX, "learner.overlong_penalty": POSITIVE | {"zero"},
    "evaluation.shown_prompts": INDEX,
    "optimizer.name": {"string", "word"}, "optimizer.kwargs": {"dict"},
    "optimizer.schedule.name": {"string", "word"}, "optimizer.schedule.kwargs": {"dict"},
    "optimizer.moments_dtype": set(), "optimizer.learning_rate": POSITIVE,
    "optimizer.warmup_updates": INDEX, "optimizer.momentum": {"zero", "half"},
    "optimizer.b1": {"zero", "half"}, "optimizer.b2": {"zero", "half"},
    "optimizer.eps": POSITIVE, "optimizer.weight_decay": POSITIVE | {"zero"},
    "optimizer.max_gradient_norm": POSITIVE | {"zero"}, "warm_start.workdir": TEXT,
    "warm_start.steps": INDEX, "warm_start.batch": COUNT, "warm_start.learning_rate": POSITIVE,
    "warm_start.seed": INDEX, "evaluation.every": set(), "evaluation.prompts": set(),
    "evaluation.samples": set(), "evaluation.prompts_per_call": COUNT, "evaluation.ks": {"list"},
    "evaluation.seed": INDEX, "checkpoint.every": set(), "checkpoint.keep": COUNT,
    "profile.start": INDEX, "profile.steps": INDEX, "tracking": {"tuple"}, "mesh.data": COUNT, "mesh.fsdp": COUNT,
    "mesh.tensor": COUNT, "mesh.samplers": {"zero"}, "verification.workers": INDEX,
    "verification.timeout_seconds": FRACTION, "sweep.mode": set(), "sweep.workers": INDEX,
    "sweep.runs_together": INDEX, "sweep.seeds": COUNT, "sweep.reuse": TEXT,
    "curriculum.low": FRACTION | {"zero"}, "curriculum.high": FRACTION | {"zero"},
    "curriculum.explore": FRACTION | {"zero"}, "curriculum.decay": FRACTION | {"zero"},
    "launcher.jobs": INDEX, "launcher.at_once": INDEX, "launcher.partition": TEXT,
    "launcher.account": TEXT, "launcher.gpus": INDEX, "launcher.cpus": INDEX,
    "launcher.memory_gb": INDEX, "launcher.minutes": COUNT, "launcher.requeues": INDEX,
    "launcher.parameters": {"dict"},
}  # fmt: skip


# Fields of which no value above can be built: names and arguments of what is not there.
REFUSED_BY_BUILD = (
    "group_size", "task.name", "task.kwargs", "advantage.name", "advantage.kwargs",
    "optimizer.name", "optimizer.kwargs", "optimizer.schedule.name", "optimizer.schedule.kwargs",
    "learner.loss.name", "learner.loss.kwargs", "learner.kl.schedule.name",
    "learner.kl.schedule.kwargs", "learner.entropy.schedule.name",
    "learner.entropy.schedule.kwargs",
)  # fmt: skip
# Values that turn a curriculum on, which the tiny config's task cannot have.
CURRICULUM = {("curriculum.low", name) for name in FRACTION}
CURRICULUM |= {("curriculum.high", name) for name in ("zero", "half")}


def fields_of(config, prefix=""):
    """The dotted fields; an empty section, the kwargs, counts as one."""
    for name, value in config.items():
        if isinstance(value, ConfigDict) and len(value):
            yield from fields_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def assert_one_line(error, *names):
    text = str(error)
    assert "\n" not in text
    assert 10 < len(text) < 1000
    assert any(name in text for name in names), text


@pytest.fixture(scope="module", name="shared")
def shared_fixture():
    """The tiny experiment, whose task the others borrow."""
    return build_experiment(tiny_config())


def test_validate_has_a_check_for_every_field():
    assert CHECKS.keys() == set(fields_of(default_config()))
    assert CHECKS.keys() == TAKES.keys()
    assert len(CASES) >= 500


@pytest.mark.parametrize(("field", "name"), CASES, ids=[f"{field}={name}" for field, name in CASES])
def test_validate_refuses_or_the_config_can_be_built(field, name, shared, monkeypatch):
    config, (section, _, last) = tiny_config(), field.rpartition(".")
    vars(config[section] if section else config)["_fields"][last] = VALUES[name]  # as it is
    if name not in TAKES[field]:
        with pytest.raises(ConfigError) as caught:
            validate(config)
        assert_one_line(caught.value, f"config.{section}", f"config.{last}")
        return
    validate(config)
    if field in REFUSED_BY_BUILD or (field, name) in CURRICULUM:
        with pytest.raises(ConfigError) as caught:
            build_experiment(config)
        assert_one_line(caught.value, f"config.{field}")
        return
    model = experiment._fresh_model(config.model, shared.task)
    monkeypatch.setattr(experiment, "_task_and_model", lambda _: (shared.task, model, None))
    monkeypatch.setattr(experiment.advantages, "check_gradient", lambda _: None)
    built = build_experiment(config)
    hyperparameters(config, built.methods)
    jax.random.key(config.seed)
    as_json(config)


@pytest.mark.parametrize("section", sorted({f.split(".")[0] for f in CHECKS if "." in f}))
@pytest.mark.parametrize("value", [None, 3, [], "x", ConfigDict()], ids=repr)
def test_validate_refuses_a_section_that_is_none(section, value):
    config = tiny_config()
    with config.unlocked(), config.ignore_type():
        del config[section]
        config[section] = value
    with pytest.raises(ConfigError) as caught:
        validate(config)
    assert_one_line(caught.value, f"config.{section}.")


GRAPH = ("seed", "nodes", "degree", "forbidden", "min_distance", "max_distance", "max_path",
         "min_walk", "max_walk", "held_out")  # fmt: skip
COUNTDOWN = ("seed", "numbers", "max_number", "max_target", "held_out")
WRONG = ["none", "string", "list", "true", "minus_two", "nan", "infinity", "two_to_32", "huge"]


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize(
    ("task", "argument"),
    [("graph", a) for a in GRAPH] + [("countdown", a) for a in COUNTDOWN],
)
def test_build_experiment_refuses_arguments_of_a_task(task, argument, name):
    config = changed("task.name", task)
    config.task.kwargs = ConfigDict({argument: VALUES[name]})
    with pytest.raises(ValueError) as caught:
        build_experiment(config)
    assert_one_line(caught.value, argument)


def raises_at_once(rewards, kind: str = "ZeroDivisionError"):
    raise {"ZeroDivisionError": ZeroDivisionError, "KeyError": KeyError}[kind]("no\nluck")


def raises_when_made(kind: str = "AssertionError"):
    raise {"AssertionError": AssertionError, "OSError": OSError}[kind]("no luck")


@pytest.mark.parametrize(
    ("advantage", "kwargs"),
    [
        ("raises_at_once", {}),
        ("raises_at_once", {"kind": "KeyError"}),
        ("raises_at_once", {"kind": 3}),
        ("raises_when_made", {}),
        ("raises_when_made", {"kind": "OSError"}),
        ("no_such_function", {}),
        ("VALUES", {}),
    ],
)
def test_build_experiment_refuses_an_advantage_that_raises(advantage, kwargs):
    config = tiny_config()
    config.advantage = ConfigDict({"name": f"{__name__}.{advantage}", "kwargs": kwargs})
    with pytest.raises(ConfigError) as caught:
        build_experiment(config)
    assert_one_line(caught.value, "config.advantage")


@pytest.mark.parametrize("name", ["fade", "power"])
@pytest.mark.parametrize("value", ["none", "string", "true", "nan", "infinity", "huge", "dict"])
def test_build_experiment_refuses_arguments_of_an_advantage(name, value):
    config = tiny_config()
    argument = {"fade": "target_fraction", "power": "alpha"}[name]
    config.advantage = ConfigDict({"name": name, "kwargs": {argument: VALUES[value]}})
    with pytest.raises(ConfigError) as caught:
        build_experiment(config)
    assert_one_line(caught.value, "config.advantage.kwargs")


FILES = {
    "good": "from tests.experiments.tiny_config import get_config",
    "syntax": "def get_config(:\n",
    "without": "x = 1\n",
    "raises": "def get_config(mode=''):\n    return no_such_name\n",
    "imports": "import no_such_module\n",
    "value_error": "def get_config():\n    raise ValueError('no\\nluck')\n",
    "number": "def get_config():\n    return 3\n",
    "binary": "\x01\x02",
}
ARGUMENTS = [
    ("good", ["--config.optimizer.learning_rat=1"], "config.optimizer.learning_rate"),
    ("good", ["--config.optimiser.learning_rate=1"], "config.optimizer.learning_rate"),
    ("good", ["--config.step=1"], "config.steps"),
    ("good", ["--config.sead=1"], "config.seed"),
    ("good", ["--config.task.kwargs.knots=1"], "config.task.kwargs.knots"),
    ("good", ["--config.task.kwargs.knots=1"], """--config.task.kwargs="{'knots': ...}\""""),
    ("good", ["--config.advantage.kwargs.beta=1"], """.advantage.kwargs="{'beta': ...}\""""),
    ("good", ["--config.steps=many"], "config.steps"),
    ("good", ["--config.steps="], "config.steps"),
    ("good", ["--config.steps=1.5"], "config.steps"),
    ("good", ["--config.learner.head_rank=maybe"], "config.learner.head_rank"),
    ("good", ["--config.optimizer.b1=x"], "config.optimizer.b1"),
    ("good", ["--config.evaluation.ks=(1,"], "config.evaluation.ks"),
    ("good", ["--config.evaluation=3"], "config.evaluation"),
    ("good", ["--config.steps.more=3"], "config.steps"),
    ("good", ["--confg.steps=3"], "confg"),
    ("good", ["--workdi=x"], "workdir"),
    ("good", ["extra"], "extra"),
    ("syntax", [], "syntax.py, line 1"),
    ("without", [], "get_config"),
    ("raises", [], "raises.py, line 2"),
    ("imports", [], "imports.py, line 1"),
    ("value_error", [], "value_error.py, line 2"),
    ("number", [], "--config"),
    ("binary", [], "binary.py"),
    ("missing", [], "missing.py"),
    ("", [], "--config"),
]


@pytest.mark.parametrize(
    ("file", "arguments", "named"), ARGUMENTS, ids=[f"{f}{a}" for f, a, _ in ARGUMENTS]
)
def test_parse_flags_refuses(file, arguments, named, tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
    argv = ["run", f"--config={tmp_path / file}.py" if file else "--config=", *arguments]
    monkeypatch.setattr("sys.argv", argv)  # where ml_collections looks for fields
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    with pytest.raises(ConfigError) as caught:
        parse_flags(argv, values)
    assert_one_line(caught.value, named)
    assert sorted(p.stem for p in tmp_path.glob("*.*")) == sorted(FILES)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--out=x"], "--workdir must be a directory, got None"),
        (["--workdir=x"], "--out must be a directory, got None"),
        (["--workdir=x", "--out=x", "--step=last"], "--step"),
        (["--workdir=x", "--out=experiments"], "--out must be a new or empty directory, got"),
        (["--workdir=x", "--out=x", "--dtype=int8"], "--dtype must be one of"),
        (["--workdir=no_such_run", "--out=x"], "there is no run in no_such_run"),
    ],
)
def test_export_command_refuses(arguments, named, command):
    out, errors = command("experiments.export", *arguments).communicate(timeout=120)
    assert out == ""
    assert errors.startswith("error: ")
    assert_one_line(errors.strip(), named)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--suite=maths"], "--suite must name"),
        (["--suite=math500", "--model=x"], "does not exist; give --data_dir"),
        (["--suite=math500", "--samples=0"], "--samples"),
        (["--suite=math500", "--template=chatty"], "--template"),
        (["--rescore=x"], "--rescore and --out need --suite"),
    ],
)
def test_evaluate_command_refuses(arguments, named, command, tmp_path):
    process = command("experiments.evaluate", *arguments, FADE_JAX_DATA=str(tmp_path))
    out, errors = process.communicate(timeout=120)
    assert (out, process.returncode) == ("", 2)
    assert errors.startswith("error: ")
    assert_one_line(errors.strip(), named, named.removeprefix("--"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "mesh",
    ["", "data", "data=", "data=0", "data=-1", "data=1.5", "data=True", "data=x", "data=10**9",
     "data=2**31", "data=1000000000", "data=65536,fsdp=2", "date=1", "task=3", "task.nam=1",
     "task.name=1", "learner.=1", ".=1", "data=1,,fsdp=2", "data=None", "data=[", "a.b.c=1"],
)  # fmt: skip
def test_with_mesh_refuses(mesh):
    with pytest.raises(ConfigError) as caught:
        with_mesh(default_config(), mesh)
    assert_one_line(caught.value, "--mesh")


def test_saved_config_is_the_config_claimed(tmp_path):
    claim(tiny_config(), tmp_path)
    saved = saved_config(tmp_path)
    validate(saved)
    assert saved.to_dict() == tiny_config().to_dict()
