"""The loop of a stage: its profiler window."""

import pytest

from experiments.metric_writer import Silent
from experiments.train import train


@pytest.mark.parametrize(("start", "steps", "traces"), [(2, 2, 1), (1, 0, 0), (100, 2, 0)])
def test_profile_traces_the_steps_in_its_window(tiny, tmp_path, start, steps, traces):
    tiny.warm_start.steps = 0
    tiny.profile.start, tiny.profile.steps = start, steps
    train(tiny, tmp_path, progress=Silent())
    assert len(list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))) == traces
