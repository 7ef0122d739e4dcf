"""The loop of a stage: its profiler window, and the warning where there is no reward."""

from contextlib import closing

import pytest

from experiments.experiment import build_experiment
from experiments.loop import Paused, RunWriter
from experiments.metric_writer import Silent
from experiments.train import train


def test_profile_traces_the_steps_in_its_window(tiny, tmp_path):
    tiny.warm_start.steps = 0
    tiny.evaluation.every = tiny.checkpoint.every = tiny.steps
    experiment = build_experiment(tiny)
    for tiny.profile.start, tiny.profile.steps, traces in ((2, 2, 1), (1, 0, 0), (100, 2, 0)):
        workdir = tmp_path / str(tiny.profile.start)
        train(tiny, workdir, progress=Silent(), experiment=experiment)
        assert len(list(workdir.glob("profile/plugins/profile/*/*.xplane.pb"))) == traces


def test_train_in_parts_ends_with_the_same_bits(tiny, warm, tmp_path):
    tiny.warm_start.workdir = warm
    same = {"progress": Silent(), "experiment": build_experiment(tiny)}
    whole = train(tiny, tmp_path / "whole", **same)
    with pytest.raises(Paused, match="paused at step 2 of 4; checkpoint written"):
        train(tiny, tmp_path / "parts", **same, most_steps=1)  # two steps a call
    parts = train(tiny, tmp_path / "parts", **same, most_steps=2)
    assert parts["params_sha256"] == whole["params_sha256"]


def test_log_evaluation_warns_where_all_rewards_were_zero(tmp_path, caplog):
    nothing = {"loss": 0.0, "gradient_norm": 0.0, "reward": 0.0}
    failed = nothing | {"verification/cut_off": 3, "verification/wrong": 1}
    with closing(RunWriter(tmp_path, 1, Silent())) as writer:
        writer.log(0, [failed, failed], 1.0)
        writer.log_evaluation(2, {})
        (tmp_path / "samples").mkdir()
        (tmp_path / "samples" / "3.jsonl").touch()
        writer.log(2, [nothing | {"truncated_fraction": 0.5}], 1.0)
        writer.log_evaluation(3, {})
        writer.log(3, [nothing | {"reward": 0.1}], 1.0)
        writer.log_evaluation(4, {})
    first, second = (record.getMessage() for record in caplog.records)
    assert first == (
        f"{tmp_path}: all rewards of the last 2 steps were 0; of the completions 6 were cut off,"
        " 2 were wrong"
    )
    assert second == (
        f"{tmp_path}: all rewards of the last 1 steps were 0; of the completions 50% were cut off;"
        f" some are in {tmp_path / 'samples' / '3.jsonl'}"
    )
