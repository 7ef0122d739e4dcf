"""Every field of a config and of the command line with values that cannot be.

Each is refused in one line that names the field, or accepted and can be built. Nothing is written.
"""

import math
import sys
from functools import cache

import jax
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import experiment
from experiments.command import parse_flags
from experiments.config import ConfigError, default_config, saved_config
from experiments.experiment import build_experiment
from experiments.learner import hyperparameters
from experiments.models import transformer
from experiments.perf.plan import with_mesh
from experiments.validation import CHECKS, validate
from experiments.workdir import as_json, claim
from tests.experiments.conftest import REPOSITORY
from tests.experiments.forked import run_commands
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


@pytest.fixture(scope="module", name="task")
def task_fixture():
    """The task of the tiny config, which all borrow."""
    return build_experiment(tiny_config()).task


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    """Keeps the shapes of a model's parameters, whose tracing is most of a build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer, "abstract_params", cache(transformer.abstract_params))
        yield


def test_validate_has_a_check_for_every_field():
    assert CHECKS.keys() == set(fields_of(default_config()))
    assert CHECKS.keys() == TAKES.keys()


@pytest.mark.parametrize("field", CHECKS)
def test_validate_refuses_or_the_config_can_be_built(field, task, monkeypatch):
    config, (section, _, last) = tiny_config(), field.rpartition(".")
    fields = vars(config[section] if section else config)["_fields"]
    for name, value in VALUES.items():
        fields[last] = value  # as it is
        if name not in TAKES[field]:
            with pytest.raises(ConfigError) as caught:
                validate(config)
            assert_one_line(caught.value, f"config.{section}", f"config.{last}")
            continue
        validate(config)
        if field in REFUSED_BY_BUILD or (field, name) in CURRICULUM:
            with pytest.raises(ConfigError) as caught:
                build_experiment(config)
            assert_one_line(caught.value, f"config.{field}")
            continue
        with monkeypatch.context() as patch:
            model = experiment._fresh_model(config.model, task)
            patch.setattr(experiment, "_task_and_model", lambda _, m=model: (task, m, None))
            patch.setattr(experiment.advantages, "check_gradient", lambda _: None)
            built = build_experiment(config)
        hyperparameters(config, built.methods)
        jax.random.key(config.seed)
        as_json(config)


@pytest.mark.parametrize("section", sorted({f.split(".")[0] for f in CHECKS if "." in f}))
def test_validate_refuses_a_section_that_is_none(section):
    config = tiny_config()
    for value in (None, 3, [], "x", ConfigDict()):
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


@pytest.mark.parametrize(
    ("name", "argument"),
    [("graph", a) for a in GRAPH] + [("countdown", a) for a in COUNTDOWN],
)
def test_build_experiment_refuses_arguments_of_a_task(name, argument):
    config = changed("task.name", name)
    for wrong in WRONG:
        config.task.kwargs = ConfigDict({argument: VALUES[wrong]})
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


RUN, EXPORT, EVALUATE, REPORT = (
    f"experiments.{name}" for name in ("run", "export", "evaluate", "report")
)
COMMANDS = [
    (RUN, ["--workdir=x", "--config=configs/fade.py:smoke", "--config.group_size=1"], "group_size"),
    (EXPORT, ["--out=x"], "--workdir must be a directory, got None"),
    (EXPORT, ["--workdir=x"], "--out must be a directory, got None"),
    (EXPORT, ["--workdir=x", "--out=x", "--step=last"], "--step"),
    (EXPORT, ["--workdir=x", "--out=experiments"], "--out must be a new or empty directory, got"),
    (EXPORT, ["--workdir=x", "--out=x", "--dtype=int8"], "--dtype must be one of"),
    (EXPORT, ["--workdir=no_such_run", "--out=x"], "there is no run in no_such_run"),
    (EVALUATE, ["--suite=maths"], "--suite must name"),
    (EVALUATE, ["--suite=math500", "--model=x"], "does not exist; give --data_dir"),
    (EVALUATE, ["--suite=math500", "--samples=0"], "samples"),
    (EVALUATE, ["--suite=math500", "--template=chatty"], "template"),
    (EVALUATE, ["--rescore=x"], "--rescore and --out need --suite"),
    (REPORT, ["--workdir=no_such_run"], "no metrics in"),
]


@pytest.fixture(scope="module", name="refusals")
def refusals_fixture(tmp_path_factory):
    """By index of COMMANDS: what the command prints, and its status."""
    empty = tmp_path_factory.mktemp("data")
    commands = [(module, arguments) for module, arguments, _ in COMMANDS]
    outcomes = run_commands(REPOSITORY, commands, FADE_JAX_DATA=str(empty))
    assert list(empty.iterdir()) == []
    return outcomes


@pytest.mark.parametrize("index", range(len(COMMANDS)), ids=[f"{m}{a}" for m, a, _ in COMMANDS])
def test_command_refuses(index, refusals):
    out, errors, status = refusals[index]
    assert (out, status) == ("", 2)
    errors = errors.removeprefix("reading the task and the model\n")
    assert errors.startswith("error: ")
    assert_one_line(errors.strip(), COMMANDS[index][2])
    assert not (REPOSITORY / "x").exists()


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
