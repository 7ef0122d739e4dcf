"""The explorer's mathematics: its golden values are the library's, and its JavaScript keeps to them."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from explorer import golden
from fade_jax import advantages

REPOSITORY = Path(__file__).resolve().parents[2]


def assert_same(committed, now, where="golden"):
    if isinstance(now, dict):
        assert committed.keys() == now.keys(), where
        for key, value in now.items():
            assert_same(committed[key], value, f"{where}.{key}")
    elif isinstance(now, list) and now and isinstance(now[0], dict):
        assert len(committed) == len(now), where
        for i, value in enumerate(now):
            assert_same(committed[i], value, f"{where}[{i}]")
    elif isinstance(now, str):
        assert committed == now, where
    else:
        found, expected = (np.array(x, np.float64) for x in (committed, now))  # None is NaN
        # A ratio of two float32 masses near 0 is inexact.
        loose = where.endswith("ratio")
        np.testing.assert_allclose(
            found, expected, rtol=2e-3 if loose else 1e-4, atol=1e-5, err_msg=where
        )


@pytest.mark.slow
def test_golden_json_is_what_the_library_computes():
    assert_same(json.loads(golden.PATH.read_text()), json.loads(json.dumps(golden.golden())))


def test_golden_has_every_advantage_of_the_reward_and_the_successes():
    blocks = {"center", "focal_weight", "likelihood_weight", "standardize", "suppress_negatives"}
    whole_batch = {"gpg", "reinforce_plus_plus"}
    wanted = set(advantages.__all__) - blocks - whole_batch - {"varied_groups"}
    assert wanted <= golden.PARAMETERS.keys()


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node 18 or newer")
def test_modules_equal_golden_values_in_node():
    command = ["node", "--test", "tests/explorer/weights.test.mjs"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
