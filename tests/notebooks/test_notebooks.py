"""Executes every cell of the notebooks, in their fast mode, and checks the numbers they compute."""

import csv
import itertools
import json
import math
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom

from tests.experiments.conftest import REPOSITORY
from tests.fade_jax import reference

NAMES = (
    "01_decomposition",
    "02_fade_quickstart",
    "03_bring_your_own_advantage",
    "04_replication",
    "05_fade_in_another_trainer",
    "06_read_a_run",
)
PATHS = {name: REPOSITORY / "notebooks" / f"{name}.ipynb" for name in NAMES}
DATA = REPOSITORY / "docs" / "replication" / "data"

# Executed after the cells: prints numbers as JSON.
FIGURES = {
    NAMES[0]: """
import json
def refused(advantage):
    try:
        gradient_masses(advantage, p, GROUP)
    except ValueError:
        return True
pairs = [
    (empirical_masses(mine(drawn), drawn), gradient_masses(mine, rate, GROUP))
    for rate in at
    for drawn in [jax.random.bernoulli(jax.random.key(1), rate, (GROUPS, GROUP)).astype(float)]
]
print("FIGURES", json.dumps({
    "ratio": curves(mine)[2].tolist(),
    "weight": curves(mine)[3].tolist(),
    "flat": curves(fade_jax.dr_grpo)[3].tolist(),
    "scipy": np.asarray(theirs).tolist(),
    "grpo": np.asarray(ours).tolist(),
    "sampled_exact": np.asarray(pairs).tolist(),
    "refused": refused(lambda rewards: rewards - rewards.mean()),
}))
""",
    NAMES[1]: """
import json
import numpy as np
fade = runs["FADE"][0]
advantages = (
    fade_jax.grpo(rewards),
    fade_jax.power(rewards, alpha=2.0),
    fade_jax.fade(rewards, alpha=2.0, delta=0.5),
)
print("FIGURES", json.dumps({
    "advantages": np.concatenate(advantages).tolist(),
    **{name: fade[name].tolist() for name in ("α", "δ", "entropy")},
}))
""",
    NAMES[2]: """
import json
print("FIGURES", json.dumps({
    "masses": np.asarray(gradient_masses(spare_the_hard, p, 512)).tolist(),
    "weight": expected_weight(spare_the_hard, p, 512).tolist(),
}))
""",
    NAMES[3]: """
import json
print("FIGURES", json.dumps({
    "verdicts": verdicts.to_dict(),
    "table": {
        f"{row.claim}: {row.difference}": [row.value, row.low, row.high]
        for row in table.itertuples()
    },
    "taus": {f"{row.sweep} {row.predicted}": row.value for row in taus.itertuples()},
    "outcomes": carried.outcome.value_counts().to_dict(),
    "choices": [[row.sweep, row.difference, row.value, row.low, row.high]
                for row in choices.itertuples()],
}))
""",
    NAMES[4]: """
print("FIGURES", json.dumps({
    "batches": [[np.asarray(x).tolist() for x in batch] for batch in ours.batches],
    "logits": ours.logits.tolist(),
    "resumed": resumed.logits.tolist(),
    "states": [x.state_dict() for x in (fade, resumed_fade, forgetful_fade)],
    "alphas": alphas,
    "trl": [[line["reward"], line["fade_jax/alpha"]] for line in trl_log],
    "trl_states": [trl_states.get(2), trl_resumed.get(2)],
    "verl": None if verl_advantages is None else verl_advantages.tolist(),
}))
""",
    NAMES[5]: """
print("FIGURES", json.dumps({
    "changed": changed,
    "estimates": [[*key, *values] for key, values in estimates.items()],
    "masses": masses.reset_index().to_dict("records"),
    "outcomes": pd.DataFrame(tenths).to_dict(),
    "first_and_last": first_and_last,
}))
""",
}


@pytest.fixture(scope="module", params=NAMES)
def executed(request, tmp_path_factory):
    """A whole notebook, beside a clone, as on Colab."""
    directory = tmp_path_factory.mktemp("notebook")
    (directory / "fade_jax_clone").symlink_to(REPOSITORY, target_is_directory=True)
    name = request.param
    done = subprocess.run(
        [sys.executable, "-m", "tests.notebooks.execute", PATHS[name], FIGURES[name]],
        cwd=directory,
        env={
            **os.environ,
            "FADE_FAST": "1",
            "FADE_PICTURES": str(directory / "pictures"),
            "JAX_PLATFORMS": "cpu",
            "MPLBACKEND": "Agg",
            "PYTHONPATH": str(REPOSITORY),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.split("FIGURES ")[1])
    return SimpleNamespace(name=name, figures=figures, directory=directory)


P = [i / 100 for i in range(1, 100)]


@pytest.mark.slow
def test_notebook_numbers(executed):
    checks = (
        decomposition,
        fade_quickstart,
        bring_your_own_advantage,
        replication,
        fade_in_another_trainer,
        read_a_run,
    )
    checks[NAMES.index(executed.name)](executed)


def decomposition(executed):
    figures = executed.figures
    assert figures["ratio"] == pytest.approx([2.0] * 99, rel=1e-4)
    assert figures["weight"] == pytest.approx([15 / 16 * (1 - x / 2) for x in P], rel=1e-4)
    assert figures["flat"] == pytest.approx([15 / 16] * 99, rel=1e-4)
    for theirs, ours in zip(figures["scipy"], figures["grpo"], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4)
    assert figures["refused"]
    assert len(figures["sampled_exact"]) == 5
    for sampled, (success, failure) in figures["sampled_exact"]:
        # 16000 rollouts: a standard error of each mass below 0.25 / √1000.
        assert sampled == pytest.approx([success, failure], abs=0.03)
        assert success == pytest.approx(2 * failure, rel=1e-4)


def fade_quickstart(executed):
    expected = [
        [1.5, -0.5, -0.5, -0.5],  # (r - 1/4) / (1/2), the standard deviation with n - 1
        [0.5, 0.5, 0.5, -1.5],
        [9 / 16, -3 / 16, -3 / 16, -3 / 16],  # 3/4 · 3/4 and -3/4 · 1/4
        [1 / 16, 1 / 16, 1 / 16, -3 / 16],  # 1/4 · 1/4 and -1/4 · 3/4
        [9 / 16, -3 / 8, -3 / 8, -3 / 8],  # failures twice
        [1 / 16, 1 / 16, 1 / 16, -3 / 8],
    ]
    for row, values in zip(executed.figures["advantages"], expected, strict=True):
        assert row == pytest.approx(values, rel=1e-4)
    alpha, delta, entropy = (executed.figures[name] for name in ("α", "δ", "entropy"))
    assert max(alpha) == 3
    assert alpha[0] < 2
    assert alpha[-1] == 1
    first_suppressed = next(i for i, value in enumerate(delta) if value < 1)
    assert alpha.index(3.0) < first_suppressed
    assert entropy[first_suppressed] < 0.5 * entropy[0]
    assert delta[-1] == pytest.approx(0.3)
    workdir = executed.directory / "runs" / "notebook_fade"
    assert (workdir / "report" / "report.md").exists()
    assert json.loads((workdir / "result.json").read_text())["step"] == 4


def bring_your_own_advantage(executed):
    success, failure = executed.figures["masses"]
    assert success == pytest.approx([x * (1 - x) for x in P], abs=2e-3)
    assert failure == pytest.approx([x**2 * (1 - x) for x in P], abs=2e-3)
    assert executed.figures["weight"] == pytest.approx([1 - x + x**2 for x in P], abs=1e-2)
    workdir = executed.directory / "runs" / "notebook_sweep"
    with (workdir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows if row["step"] == "4"] == ["grpo", "fade", "mine"]
    assert {row["advantage.name"] for row in rows if row["method"] == "mine"} == {
        "my_advantages.spare_the_hard"
    }


def evaluations(sweep, method, column):
    """A column of evaluations.csv, `[seeds, evaluations]`."""
    with (DATA / sweep / "evaluations.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == method]
    seeds = dict.fromkeys(row["run"] for row in rows)
    return np.array([[float(row[column]) for row in rows if row["run"] == run] for run in seeds])


def replication(executed):
    figures = executed.figures
    none, half = "does not reproduce", "undecided"
    expected = {"1": none, "2": none, "3a": "reproduces", "3b": "reproduces", "4": none, "5": none}
    expected |= {"6a": "reproduces", "6b": half, "6c": "reproduces", "6d": "reproduces", "6e": half}
    expected |= {"H* at half is best": "reproduces", "higher H* is earlier": "holds"}
    assert figures["verdicts"] == expected
    table = figures["table"]

    def last(sweep, method, column):
        return evaluations(sweep, method, column)[:, -1]

    # evaluations.csv has four digits.
    for claim, method, other in (("1", "asym2", "grpo_no_std"), ("6d", "fade_log_decay", "fade")):
        gap = last("core", method, "pass@100") - last("core", other, "pass@100")
        value, low, high = table[f"{claim}: {method} - {other}, pass@100"]
        assert value == pytest.approx(100 * gap.mean(), abs=0.02)
        assert low < value < high
    early = [evaluations("core", method, "pass@1")[:, 1] for method in ("asym0.5", "grpo_no_std")]
    value = table["2: asym0.5 - grpo_no_std, pass@1 at step 50"][0]
    assert value == pytest.approx(100 * (early[0] - early[1]).mean(), abs=0.02)
    best = last("alpha", "start140-power4", "pass@1") - last("alpha", "start140-power1.5", "pass@1")
    value = table["3b: start140-power4 - start140-power1.5, pass@1"][0]
    assert value == pytest.approx(100 * best.mean(), abs=0.02)

    # The interval over seeds, by all 5⁵ resamples. The quantiles lie on steps of the means.
    gap = last("core", "asym2", "entropy") - last("core", "grpo_no_std", "entropy")
    means = [np.mean(drawn) for drawn in itertools.product(gap, repeat=5)]
    value, low, high = table["1: asym2 - grpo_no_std, entropy"]
    assert value == pytest.approx(gap.mean(), abs=1e-6)
    assert [low, high] == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=2e-3)

    # Power(3) is ahead of GRPO without std where pass@1 crosses 35.3%, on straight lines.
    def crossing(method):
        at_level = []
        for ones, hundreds in zip(
            evaluations("core", method, "pass@1"),
            evaluations("core", method, "pass@100"),
            strict=True,
        ):
            i = next(i for i, value in enumerate(ones) if value >= 0.353)
            at_level.append(np.interp(0.353, ones[i - 1 : i + 1], hundreds[i - 1 : i + 1]))
        return np.mean(at_level)

    value = table["3a: power3 - grpo_no_std, pass@100 at a pass@1 of 35.3%"][0]
    assert value == pytest.approx(100 * (crossing("power3") - crossing("grpo_no_std")), abs=0.1)

    fade, power = (evaluations("core", method, "pass@1") for method in ("fade", "power2"))
    earlier = sum(
        np.argmax(f >= p[-1]) < np.argmax(p >= p[-1])
        for f, p in zip(fade, power, strict=True)
        if f.max() >= p[-1]
    )
    assert table["5: seeds in which fade is earlier than power2"][0] == earlier
    with (DATA / "target_entropy" / "runs.csv").open() as file:
        first = [
            int(row["first_suppressed"])
            for row in csv.DictReader(file)
            if row["method"] == "fraction0.75"
        ]
    assert table["higher H* is earlier: first step, fraction0.75"][0] == np.mean(first)

    assert figures["outcomes"] == {
        "keeps its sign": 198,
        "includes 0": 41,
        "changes its sign": 29,
    }
    assert figures["taus"]["methods solved_share"] == pytest.approx(0.936, abs=5e-4)

    assert choosing_table() == [
        [f"{value:.1f} [{low:.1f}, {high:.1f}]" for *_, value, low, high in four]
        for four in zip(*[iter(figures["choices"][:32])] * 4, strict=True)
    ]

    page = (REPOSITORY / "docs" / "replication.md").read_text(encoding="utf-8")
    pictures = set(re.findall(r"\(replication/(\w+\.png)\)", page))
    pictures.remove("smollm2_code.png")  # the report of its runs draws it
    assert {path.name for path in (executed.directory / "pictures").iterdir()} == pictures


def choosing_table():
    """The figures of docs/choosing.md: methods by pass@1 and pass@100 of both tasks."""
    page = (REPOSITORY / "docs" / "choosing.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[1:] for line in page.splitlines() if line.count("[") == 4]
    return [[cell.removesuffix(" |") for cell in row] for row in rows]


def fade_in_another_trainer(executed):
    figures = executed.figures
    p, average, initial = 0.5, None, None
    for rewards, prompts, entropy, advantages in figures["batches"]:
        rewards, prompts, advantages = map(np.array, (rewards, prompts, advantages))
        initial = entropy if initial is None else initial
        average = entropy if average is None else average + 0.02 * (entropy - average)
        p += 0.02 * (rewards.mean() - p)
        alpha, delta = np.clip(1.5 * (1 - p) / p, 1, 3), np.clip(1 + average - initial / 2, 0.3, 1)
        for prompt in range(16):
            rows = prompts == prompt
            assert rows.sum() == 8
            expected = reference.fade(rewards[rows], alpha, delta)
            assert advantages[rows] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    solved = [np.mean(rewards) for rewards, *_ in figures["batches"]]
    assert solved[0] < 0.2
    assert solved[-1] > 0.9
    assert delta < 1

    # A restored run has the bits of one that never stopped; one that forgot starts from 1/2.
    assert figures["resumed"] == figures["logits"]
    whole, resumed, forgetful = figures["states"]
    assert resumed == whole != forgetful
    p = 0.5 + 0.02 * (solved[60] - 0.5)
    assert figures["alphas"][1] == pytest.approx(1.5 * (1 - p) / p, rel=1e-4)
    assert abs(figures["alphas"][0] - figures["alphas"][1]) > 0.05

    assert bool(figures["trl"]) == bool(find_spec("trl"))
    if figures["trl"]:
        p = 0.5
        for reward, alpha in figures["trl"]:
            p += 0.3 * (reward - p)
            assert alpha == pytest.approx(np.clip(1.5 * (1 - p) / p, 1, 3), rel=1e-4)
        assert len(figures["trl"]) == 4
        saved, restored = figures["trl_states"]
        assert restored == saved
    if figures["verl"]:
        # Half of the rollouts are right: α = 1.5. The entropy is the first: δ = 1.
        groups = np.array([[1, 0, 0, 0], [0, 1, 1, 1]], np.float64)
        expected = np.ravel([reference.fade(group, 1.5, 1.0) for group in groups])
        assert np.array(figures["verl"]) == pytest.approx(np.repeat(expected, 3).reshape(8, 3))


def read_a_run(executed):
    figures, run = executed.figures, executed.directory / "runs" / "notebook_small" / "run"
    lines = list(map(json.loads, (run / "metrics.jsonl").read_text().splitlines()))
    train = {line["step"]: line for line in lines if "loss" in line}
    assert list(train) == list(range(1, 41))
    changed = figures["changed"]
    assert (changed["steps"], changed["task.name"]) == (40, "problems")
    assert "seed" not in changed

    # pass@k from the completions themselves, of which all are kept.
    found = {(step, k): values for step, k, *values in figures["estimates"]}
    assert list(found) == [(step, k) for step in (0, 20, 40) for k in (1, 8)]
    for step in (0, 20, 40):
        right = dict.fromkeys(range(16), 0)
        for sample in map(json.loads, (run / f"samples/{step}.jsonl").read_text().splitlines()):
            a, b = sample["prompt"].rstrip("=").split("+")
            if sample["completion"].isdigit() and sample["verdict"] != "cut off":
                assert sample["reward"] == (int(sample["completion"]) == int(a) + int(b))
            right[sample["index"]] += int(sample["reward"])
        for k in (1, 8):
            missed = [math.comb(32 - count, k) / math.comb(32, k) for count in right.values()]
            mean, low, high = found[step, k]
            assert mean == pytest.approx(1 - np.mean(missed), abs=1e-5)
            (logged,) = (x for x in lines if x["step"] == step and "eval/pass@1" in x)
            sides = logged[f"eval/pass@{k}_low"], logged[f"eval/pass@{k}_high"]
            assert (low, high) == pytest.approx(sides, abs=1e-5)

    # In a group with k of 8 right, FADE gives successes k/8 (1 - k/8)^α, and failures 1/δ of that.
    rate = np.arange(9) / 8
    assert [row["step"] for row in figures["masses"]] == list(range(1, 41, 5))
    for row in figures["masses"]:
        line = train[row["step"]]
        share = np.array(line["solve_rate_histogram"]) / 16
        success = rate * (1 - rate) ** line["alpha"]
        p = share @ rate
        expected = share @ success, binom.pmf(np.arange(9), 8, p) @ success
        assert row["p"] == pytest.approx(p)
        assert (row["m_S"], row["m_S(p)"]) == pytest.approx(expected, rel=1e-4)
        failures = row["m_F"] * line["delta"], row["m_F(p)"] * line["delta"]
        assert failures == pytest.approx(expected, rel=1e-4)
        logged = row["m_S logged"], row["m_F logged"]
        assert logged == pytest.approx((row["m_S"], row["m_F"]), rel=1e-3)
    assert train[40]["delta"] < 1

    for part, steps in (("first tenth", range(1, 5)), ("last tenth", range(37, 41))):
        for kind, name in (("cut off", "cut_off"), ("no answer", "no_answer"), ("wrong", "wrong")):
            counts = [train[step][f"verification/{name}"] for step in steps]
            assert figures["outcomes"][part][kind] == pytest.approx(np.mean(counts) / 128)
        solved = [train[step]["solve_rate_histogram"] @ rate / 16 for step in steps]
        assert figures["outcomes"][part]["right"] == pytest.approx(np.mean(solved))
    for at, step in enumerate((1, 40)):
        histogram = np.array(train[step]["solve_rate_histogram"]) / 16
        ends = {name: values[at] for name, values in figures["first_and_last"].items()}
        assert ends["solve rate, training"] == pytest.approx(histogram @ rate)
        assert ends["groups without signal"] == pytest.approx(histogram[0] + histogram[8])
        cut_off = train[step]["verification/cut_off"] / 128
        assert ends["cut off, training"] == pytest.approx(cut_off)
    assert (run / "report" / "training.png").exists()
