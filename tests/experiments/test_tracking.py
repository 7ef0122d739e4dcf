"""MLflow in a local store and W&B offline: what they have of a run, also of one that was killed."""

import json
import subprocess
import sys
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import tracking, validation
from experiments import workdir as workdirs
from experiments.config import ConfigError
from experiments.loop import RunWriter, Stage, run_loop
from experiments.metric_writer import Silent, read_lines, write_json
from experiments.tracking import send_pictures, sweep_name, tracked
from experiments.validation import validate

STEPS = 6
SHOWN = [
    {"prompt": "2+3", "completion": "5", "reward": 1.0, "sample": 0},
    {"prompt": "2+3", "completion": "6", "reward": 0.0, "sample": 1, "detail": ["wrong"]},
]
# Every 2 steps an evaluation, every 3 a checkpoint.
LOSSES = {step: step / 2 for step in range(1, STEPS + 1)}
PASS = {step: 10.0 + step for step in range(0, STEPS + 1, 2)}


class Killed(Exception):
    pass


def stage(workdir, killed_before):
    """State x counts the steps; loss x / 2, pass@1 x + 10; samples of every evaluation."""

    def train_steps(state, step, count):
        assert count == 1
        if step + 1 == killed_before:
            raise Killed
        x = int(state["x"]) + 1
        return {"x": jnp.asarray(x)}, [[{"loss": x / 2, "gradient_norm": 1.0, "alpha": None}]]

    def evaluate(state, step):
        (workdir / "samples").mkdir(exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in SHOWN)
        (workdir / "samples" / f"{step}.jsonl").write_text(text)
        return [{"eval/pass@1": 10.0 + int(state["x"])}]

    return Stage("tiny", STEPS, 1, train_steps, evaluate, lambda state: [state], 2, 3)


def run(config, workdir, killed_before=0):
    """Makes or goes on with the run in `workdir`."""
    workdirs.claim(config, workdir)
    with tracked(config, workdir) as trackers:
        with closing(RunWriter(workdir, 2, Silent(), False, trackers)) as writer:
            like = {"x": jax.ShapeDtypeStruct((), np.int32)}
            step, state = writer.restore(like) or (0, {"x": jnp.asarray(0)})
            run_loop(stage(workdir, killed_before), [writer], step, state)
        write_json(workdir / "result.json", {"step": STEPS})


def run_killed_and_resumed(config, workdir):
    """Killed after step 5, with a checkpoint of step 3: steps 4 and 5 come again."""
    with pytest.raises(Killed):
        run(config, workdir, killed_before=6)
    ids = json.loads((workdir / "tracking.json").read_text())
    run(config, workdir)
    assert json.loads((workdir / "tracking.json").read_text()) == ids
    return ids


@pytest.fixture(name="config")
def config_fixture(tiny):
    tiny.steps = STEPS
    return tiny


@pytest.fixture(name="client")
def client_fixture(monkeypatch, tmp_path):
    """A client of a store in tmp_path."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return mlflow.MlflowClient()


def history(client, run_id, name):
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def test_mlflow_has_each_step_once_after_a_kill(client, config, tmp_path):
    config.tracking = ("mlflow",)
    workdir = tmp_path / "run"
    run_id = run_killed_and_resumed(config, workdir)["mlflow"]
    assert history(client, run_id, "loss") == list(LOSSES.items())
    assert history(client, run_id, "eval/pass_at_1") == list(PASS.items())
    found = client.get_run(run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params["learner.clip_low"] == "0.2"
    assert found.data.params["task.name"] == "graph"
    assert client.get_experiment(found.info.experiment_id).name == "tests"
    samples = {artifact.path for artifact in client.list_artifacts(run_id, "samples")}
    assert samples == {f"samples/{step}.jsonl" for step in PASS}
    assert "config.json" in {artifact.path for artifact in client.list_artifacts(run_id)}


def test_mlflow_of_a_killed_run_is_not_finished(client, config, tmp_path):
    config.tracking = ("mlflow",)
    with pytest.raises(Killed):
        run(config, tmp_path / "run", killed_before=2)
    (run_id,) = json.loads((tmp_path / "run" / "tracking.json").read_text()).values()
    assert client.get_run(run_id).info.status == "KILLED"
    assert history(client, run_id, "loss") == [(1, 0.5)]


def test_service_that_is_added_on_resumption_gets_the_earlier_lines(client, config, tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(Killed):
        run(config, workdir, killed_before=6)
    assert not (workdir / "tracking.json").exists()
    config.tracking = ("mlflow",)
    run(config, workdir)
    (run_id,) = json.loads((workdir / "tracking.json").read_text()).values()
    assert history(client, run_id, "loss") == list(LOSSES.items())
    assert history(client, run_id, "eval/pass_at_1") == list(PASS.items())


def wandb_records(workdir):
    """All records of the offline files of a run, in order: a log as of LevelDB, of protobufs."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # the process that writes the files ends
    for path in sorted(workdir.glob("wandb/offline-run-*/run-*.wandb")):
        content, at, whole = path.read_bytes(), 7, b""  # after the file's header
        while at + 7 <= len(content):
            if 2**15 - at % 2**15 < 7:  # the rest of a block
                at += 2**15 - at % 2**15
            size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
            whole += content[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # a record, or the last part of one
                yield Record.FromString(whole)
                whole = b""


def wandb_history(workdir):
    """(step, key, value) of all numbers in order."""
    for record in wandb_records(workdir):
        if record.WhichOneof("record_type") == "history":
            for item in record.history.item:
                key = item.key or "/".join(item.nested_key)
                yield record.history.step.num, key, json.loads(item.value_json)


def test_wandb_offline_has_each_step_once_after_a_kill(config, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config.tracking = ("wandb",)
    workdir = tmp_path / "core" / "runs" / "seed0"
    workdir.mkdir(parents=True)
    (tmp_path / "core" / "sweep.json").touch()
    run_id = run_killed_and_resumed(config, workdir)["wandb"]
    history = list(wandb_history(workdir))
    assert [(step, value) for step, key, value in history if key == "loss"] == list(LOSSES.items())
    passes = [(step, value) for step, key, value in history if key == "eval/pass@1"]
    assert passes == list(PASS.items())
    samples = [(step, value) for step, key, value in history if key == "samples/nrows"]
    assert samples == [(step, len(SHOWN)) for step in PASS]
    runs = [r.run for r in wandb_records(workdir) if r.WhichOneof("record_type") == "run"]
    assert {(one.run_id, one.run_group, one.display_name) for one in runs} == {
        (run_id, "core", "seed0")
    }
    assert {one.project for one in runs} == {"fade_jax"}
    configs = [{u.key: json.loads(u.value_json) for u in one.config.update} for one in runs]
    assert configs[0]["learner"]["clip_low"] == 0.2
    exits = [r.exit.exit_code for r in wandb_records(workdir) if r.HasField("exit")]
    assert exits == [1, 0]


def test_wandb_pictures_go_to_the_same_run(config, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config.tracking = ("wandb",)
    run(config, tmp_path)
    (tmp_path / "report").mkdir()
    image.new("RGB", (4, 3)).save(tmp_path / "report" / "overview.png")
    send_pictures(config, tmp_path, tmp_path / "report")
    picture = {key: value for step, key, value in wandb_history(tmp_path) if step == STEPS + 1}
    assert picture["report/overview/_type"] == "image-file"
    assert (picture["report/overview/width"], picture["report/overview/height"]) == (4, 3)
    runs = [r.run.run_id for r in wandb_records(tmp_path) if r.WhichOneof("record_type") == "run"]
    assert len(set(runs)) == 1


def test_runs_of_a_sweep_are_grouped(client, config, tmp_path):
    config.tracking = ("mlflow",)
    sweep = tmp_path / "core"
    for name in ("seed0", "seed1"):
        (sweep / "runs" / name).mkdir(parents=True)
        (sweep / "sweep.json").touch()
        run(config, sweep / "runs" / name)
    experiment = client.get_experiment_by_name("tests")
    found = client.search_runs([experiment.experiment_id], "tags.sweep = 'core'")
    assert {one.info.run_name for one in found} == {"seed0", "seed1"}
    assert sweep_name(tmp_path / "run") is None


def test_pictures_of_a_report_go_to_the_same_run(client, config, tmp_path):
    config.tracking = ("mlflow",)
    workdir = tmp_path / "run"
    run(config, workdir)
    (workdir / "report").mkdir()
    (workdir / "report" / "overview.png").write_bytes(b"a picture")
    send_pictures(config, workdir, workdir / "report")
    (run_id,) = json.loads((workdir / "tracking.json").read_text()).values()
    assert [a.path for a in client.list_artifacts(run_id, "report")] == ["report/overview.png"]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_error_of_a_service_is_a_warning_and_the_run_goes_on(
    client, config, tmp_path, monkeypatch, caplog
):
    config.tracking = ("mlflow",)

    def fail(*_):
        raise OSError("the server is gone")

    monkeypatch.setattr(tracking.Mlflow, "flush", fail)
    run(config, tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert {line["step"]: line["loss"] for line in lines if "loss" in line} == LOSSES
    messages = [r.getMessage() for r in caplog.records if r.name == "experiments.tracking"]
    assert messages == ["nothing more is sent to mlflow: OSError: the server is gone"]


def test_service_that_does_not_start_is_one_line_before_any_work(config, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no\nkey")

    monkeypatch.setitem(tracking.SERVICES, "wandb", fail)
    config.tracking = ("wandb",)
    with pytest.raises(ConfigError, match=r"config.tracking: wandb does not start: .*: no key"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("service", ["wandb", "mlflow"])
def test_validate_names_the_extra_of_a_missing_library(config, monkeypatch, service):
    found = validation.importlib.util.find_spec
    monkeypatch.setattr(
        validation.importlib.util,
        "find_spec",
        lambda name: None if name == service else found(name),
    )
    validate(config)
    config.tracking = ("tensorboard", service)
    with pytest.raises(ConfigError) as error:
        validate(config)
    assert f"config.tracking must be without {service}, or pip install" in str(error.value)


@pytest.mark.parametrize("value", ["wandb", ("wandb", "wandb"), ("tensorboards",), (1,)])
def test_validate_refuses_what_is_no_tuple_of_services(config, value):
    with config.ignore_type():
        config.tracking = value
    with pytest.raises(ConfigError, match=r"config.tracking must be a tuple of none or more of"):
        validate(config)


def test_no_tracking_library_is_imported_unless_asked_for():
    code = "import sys, experiments.train; print({'wandb', 'mlflow'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_run_without_tensorboard_writes_no_events(config, tmp_path):
    run(config, tmp_path)
    assert not (tmp_path / "tensorboard").exists()
    assert {line["step"] for line in read_lines(tmp_path / "metrics.jsonl")} == set(range(7))
