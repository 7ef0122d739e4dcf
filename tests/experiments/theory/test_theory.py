"""The theory against closed forms, brute force and orders written out by hand."""

import csv
import itertools

import numpy as np
import pytest

from experiments.theory.__main__ import main
from experiments.theory.comparison import compare, kendall_tau, measure, read_results
from experiments.theory.dynamics import simulate
from experiments.theory.prediction import crossing, mean_ranks, prediction_table
from experiments.theory.start import distinct_methods, read_counts, start_from_counts
from fade_jax import transforms
from fade_jax.transforms import stateless

GROUP, STEPS = 4, 60
SOLVE_RATES = np.array([0.02, 0.1, 0.3, 0.7])
WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])


def path_of(transformation, p=SOLVE_RATES, w=WEIGHTS, **changed):
    settings = {"group_size": GROUP, "step_size": 0.05, "steps": STEPS} | changed
    return simulate(transformation, p, w, **settings)


def clock(p):
    """τ(p) with dτ = dp/(pq)², so that h = 1 moves every prompt by the same τ."""
    return -1 / p + 1 / (1 - p) + 2 * np.log(p / (1 - p))


def test_one_prompt_moves_its_logit_at_the_step_size():
    path = path_of(transforms.nsr(), np.array([0.1]), np.ones(1))
    logit = np.log(0.1 / 0.9) + 0.05 * np.arange(STEPS + 1)
    p = 1 / (1 + np.exp(-logit))
    np.testing.assert_allclose(path.pass_at_1, p, rtol=1e-4)
    np.testing.assert_allclose(path.pass_at_100, 1 - (1 - p) ** 100, rtol=1e-4)
    np.testing.assert_array_equal(path.solved_share, p > 0.5)


def test_equal_h_moves_all_prompts_by_one_clock():
    """Two prompts: from pass@1 alone the closed form gives both solve rates, so pass@100 too."""
    start, w = np.array([0.05, 0.4]), np.array([0.5, 0.5])
    path = path_of(transforms.reinforce(), start, w, step_size=0.002, steps=600)
    mean = float(path.pass_at_1[-1])
    low, high = start[0], min(2 * mean - start[1], 0.999)
    for _ in range(60):  # the p of the first prompt at which both clocks have moved alike
        first = (low + high) / 2
        moved = clock(np.array([first, 2 * mean - first])) - clock(start)
        low, high = (first, high) if moved[0] < moved[1] else (low, first)
    expected = np.mean(1 - (1 - np.array([first, 2 * mean - first])) ** 100)
    np.testing.assert_allclose(path.pass_at_100[-1], expected, rtol=2e-4)


def test_a_constant_factor_and_the_sign_ratio_change_nothing():
    reference = path_of(transforms.rloo())
    tripled = stateless(lambda rewards: 3.0 * rewards - 1.0)
    for other in (tripled, transforms.reinforce(), transforms.nsr(), transforms.dr_grpo()):
        for name in ("pass_at_1", "pass_at_100", "solved_share"):
            expected, found = getattr(reference, name), getattr(path_of(other), name)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["power", "asym_grpo", "fade"])
def test_one_step_is_that_of_the_enumerated_expected_gradient(name):
    """Float64, over every group of rewards: E ĝ of a two-outcome softmax is E[Σ A_i (r_i-p)]/G."""
    kwargs = {"power": {"alpha": 2.0}, "asym_grpo": {"delta": 2.0}, "fade": {"rate": 1.0}}[name]
    p = SOLVE_RATES
    alpha = {"power": 2.0, "asym_grpo": 1.0}.get(name)
    if alpha is None:
        mean = np.sum(WEIGHTS * p)
        alpha = np.clip(1.5 * (1 - mean) / mean, 1, 3)
    gradient = np.zeros_like(p)
    for rewards in itertools.product((0.0, 1.0), repeat=GROUP):
        r, solved = np.array(rewards), np.mean(rewards)
        a = (1 - solved) ** (alpha - 1) * (r - solved)
        a = np.where(a < 0, a / kwargs.get("delta", 1.0), a)
        likelihood = np.prod(np.where(r[:, None] > 0, p, 1 - p), axis=0)
        gradient += likelihood * np.mean(a[:, None] * (r[:, None] - p), axis=0)
    step = 0.05 * gradient / np.sqrt(np.sum(WEIGHTS * gradient**2))
    after = 1 / (1 + np.exp(-np.log(p / (1 - p)) - step))
    path = path_of(getattr(transforms, name)(**kwargs), steps=1)
    np.testing.assert_allclose(path.pass_at_1[1], np.sum(WEIGHTS * after), rtol=1e-5)
    share = np.sum((WEIGHTS * gradient)[p > 0.5]) / np.sum(WEIGHTS * gradient)
    np.testing.assert_allclose(path.solved_share[0], share, rtol=1e-4)


def test_pass_rates_never_fall_and_an_entropy_moves_delta():
    falling = path_of(
        transforms.fade(rate=1.0, target_entropy=1.0), entropy=lambda p, w: 1 - (w * p).sum()
    )
    for path in (falling, path_of(transforms.power(alpha=3.0)), path_of(transforms.asym_grpo(0.5))):
        assert np.all(np.diff(path.pass_at_1) > 0)
        assert np.all(np.diff(path.pass_at_100) >= 0)
    np.testing.assert_allclose(falling.delta, np.clip(1 - falling.pass_at_1, 0.3, 1), rtol=1e-5)
    assert np.all(path_of(transforms.fade()).delta == 1)
    assert np.all(np.isnan(path.alpha))


def test_an_advantage_of_the_whole_batch_is_refused():
    with pytest.raises(ValueError, match="treat groups apart"):
        path_of(transforms.gpg())


def test_the_start_is_the_posterior_of_the_counts():
    counts = np.array([0, 0, 1, 3, 10])
    start = start_from_counts(counts, 10)
    a, b = start.prior
    np.testing.assert_allclose(np.sum(start.weight), 1, rtol=1e-6)
    posterior = (a + counts) / (a + b + 10)
    np.testing.assert_allclose(np.sum(start.weight * start.solve_rate), posterior.mean(), rtol=1e-4)
    assert np.all((start.solve_rate > 0) & (start.solve_rate < 1))
    with pytest.raises(ValueError, match=r"num_correct must be in \[0, 9\]"):
        start_from_counts(counts, 9)
    with pytest.raises(ValueError, match="num_samples must be at least 2"):
        start_from_counts(counts, 1)


def test_crossings_ranks_and_names():
    assert crossing([0, 10, 20], [0.1, 0.3, 0.2], 0.2) == pytest.approx(5)
    assert crossing([0, 10], [0.3, 0.4], 0.2) == 0
    assert np.isnan(crossing([0, 10], [0.1, 0.2], 0.5))
    assert mean_ranks([3.0, 1.0, 3.0, np.nan], largest_first=False) == [2.5, 1, 2.5, 4]
    assert mean_ranks([3.0, 1.0, 3.0, np.nan], largest_first=True) == [1.5, 3, 1.5, 4]
    power = {"advantage": {"name": "power", "kwargs": {"alpha": 2.0}}}
    assert distinct_methods({"p-seed0": power, "p-seed1": power}) == {
        "p": ("power", {"alpha": 2.0})
    }


def test_the_table_ranks_a_harder_focus_first_in_pass_at_100():
    paths = {
        "power": path_of(transforms.power(alpha=3.0)),
        "plain": path_of(transforms.dr_grpo()),
        "same": path_of(transforms.rloo()),
    }
    rows = prediction_table(paths, (0.3, 0.99))
    assert [row["rank_pass_at_100"] for row in rows[:3]] == [1, 2.5, 2.5]
    assert [row["rank_solved_share"] for row in rows[:3]] == [1, 2.5, 2.5]
    assert all(np.isnan(row["steps_to_level"]) for row in rows[3:])


@pytest.mark.parametrize(
    ("x", "y", "tau"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1),
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6),
        ([1, 1, 2, 3], [1, 2, 3, 4], 5 / np.sqrt(5 * 6)),
        ([1, 1, 1], [1, 2, 3], np.nan),
    ],
)
def test_kendall_tau_by_hand(x, y, tau):
    np.testing.assert_allclose(kendall_tau(x, y), tau, rtol=1e-12)


def test_the_commands_from_counts_to_orders(tmp_path, sweep_of_counts):
    workdir, config = sweep_of_counts
    out = tmp_path / "out"
    arguments = ["--workdir", str(workdir), "--config", str(config), "--out", str(out)]
    main(["predict", *arguments, "--steps", "700"])
    with (out / "prediction.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["plain", "power"] * 2
    assert {row["group_size"] for row in rows} == {"4"}
    assert rows[0]["counts_sha256"] == read_counts(workdir)[2]
    needed = {
        "level",
        "steps_to_level",
        "pass_at_100",
        "solved_share",
        "rank_pass_at_100",
        "anchor",
    }
    assert needed <= set(rows[0])

    level = float(rows[0]["level"])
    table = ["run,method,optimizer.learning_rate,step,pass@1,pass@100"]
    for method, rate, hundred in (("plain", 1e-3, 0.8), ("power", 5e-4, 0.9)):
        for seed in range(2):
            run = f"{method}-seed{seed},{method},{rate}"
            table += [f"{run},0,0,0.9", f"{run},100,{2 * level},{2 * hundred - 0.9}"]
    (tmp_path / "results.csv").write_text("\n".join(table))
    main(["compare", "--results", str(tmp_path / "results.csv"), "--out", str(out)])
    with (out / "comparison.csv").open() as file:
        measured = list(csv.DictReader(file))
    plain = measured[0]
    assert float(plain["measured_steps_to_level"]) == pytest.approx(50)
    assert float(plain["measured_way_to_level"]) == pytest.approx(0.05)
    assert float(plain["measured_pass_at_100"]) == pytest.approx(0.8)
    with (out / "order.csv").open() as file:
        orders = list(csv.DictReader(file))
    by_name = {
        (row["predicted"], row["measured"]): row for row in orders if row["level"] == str(level)
    }
    assert float(by_name["pass_at_100", "pass_at_100"]["kendall_tau"]) == 1
    assert float(by_name["-solved_share", "pass_at_100"]["low"]) == 1
    assert {path.suffix for path in out.iterdir()} == {".csv", ".png"}


def test_a_run_that_stays_below_the_level_and_a_table_that_lacks_a_column(tmp_path):
    assert np.isnan(measure(np.array([[0, 0.1, 0.9, 0], [9, 0.2, 0.9, 9]]), 0.5)["pass_at_100"])
    predicted = [{"level": 0.5, "method": "fade"}]
    with pytest.raises(ValueError, match="need two methods of"):
        compare(predicted, {})
    path = tmp_path / "results.csv"
    path.write_text("run,method,step,pass@1\na,a,0,0.1\n")
    with pytest.raises(ValueError, match=r"lacks \['pass@100'\]"):
        read_results(path)


@pytest.fixture(name="sweep_of_counts")
def sweep_of_counts_fixture(tmp_path):
    counts = tmp_path / "sweep" / "runs" / "a" / "evaluations"
    counts.mkdir(parents=True)
    correct = np.random.default_rng(0).binomial(16, 0.1, size=20)
    np.savez(counts / "0.npz", num_correct=correct, num_samples=16)
    config = tmp_path / "sweep.py"
    config.write_text(
        "from experiments.config import default_config\n"
        "from experiments.grid import methods, product, axis\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.group_size = 4\n"
        "    return config\n"
        "def sweep(config):\n"
        "    named = {'plain': ('dr_grpo', {}), 'power': ('power', {'alpha': 3.0})}\n"
        "    return product(methods(named), axis('seed', (0, 1)))\n"
    )
    return tmp_path / "sweep", config
