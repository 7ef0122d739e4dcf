"""What the audit calls of each framework, against formulas: live, by `make trl`, `verl`, `tunix`."""

from importlib import import_module

import numpy as np
import pytest

from tests.fade_jax import reference


def grpo(eps):
    return lambda r: reference.grpo(r, eps=eps)


def std_of_best(r):
    return reference.leave_one_out_pass_at_g(r) / (np.std(r, ddof=1) + 1e-6)


EXPECTED = {
    "trl": {
        "GRPO, scale_rewards=group": grpo(1e-4),
        "GRPO, scale_rewards=none": reference.dr_grpo,
        "RLOO": reference.rloo,
    },
    "verl": {
        "grpo, norm_adv_by_std_in_grpo=True": grpo(1e-6),
        "grpo, norm_adv_by_std_in_grpo=False": reference.dr_grpo,
        "grpo_vectorized, norm_adv_by_std_in_grpo=True": grpo(1e-6),
        "grpo_passk, norm_adv_by_std_in_grpo=True": std_of_best,
        "grpo_passk, norm_adv_by_std_in_grpo=False": reference.leave_one_out_pass_at_g,
        "rloo": reference.rloo,
        "rloo_vectorized": reference.rloo,
    },
    "tunix": {"grpo": grpo(1e-6), "rloo": reference.rloo, "drgrpo": reference.dr_grpo},
    "openrlhf": {
        "rloo": reference.rloo,
        "group_norm": grpo(1e-9),
        "dr_grpo": reference.dr_grpo,
    },
}


@pytest.mark.parametrize(
    "framework",
    [
        pytest.param("trl", marks=pytest.mark.trl),
        pytest.param("verl", marks=pytest.mark.verl),
        pytest.param("tunix", marks=pytest.mark.tunix),
        pytest.param("openrlhf", marks=pytest.mark.verl),
    ],
)
def test_estimators_agree_with_references(framework):
    report = import_module(f"experiments.audit.{framework}_estimators").report()
    estimators = {estimator.name: estimator for estimator in report.estimators}
    assert EXPECTED[framework].keys() <= estimators.keys()
    rewards = np.random.default_rng(0).random((3, 8)).astype(np.float32)
    index = np.repeat(np.arange(3), 8)
    for name, formula in EXPECTED[framework].items():
        found = estimators[name].advantages(rewards.ravel(), index, np.full(24, 4))
        expected = [formula(group.astype(np.float64)) for group in rewards]
        np.testing.assert_allclose(found, np.ravel(expected), 1e-4, 1e-5, err_msg=name)
