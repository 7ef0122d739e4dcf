"""Executes every cell of the notebooks, in their fast mode, and checks the numbers they compute."""

import csv
import itertools
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import roots_jacobi

from fade_jax import transforms
from fade_jax.dynamics import simulate
from tests.experiments.conftest import REPOSITORY
from tests.notebooks.execute import code_cells

NAMES = (
    "01_decomposition",
    "02_fade_quickstart",
    "03_bring_your_own_advantage",
    "04_replication",
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
    checks = (decomposition, fade_quickstart, bring_your_own_advantage, replication)
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


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_setup_cell_on_colab(name, tmp_path, monkeypatch):
    setup, asked = code_cells(PATHS[name])[0], []

    def run(command, check):
        asked.append(command)
        clone = tmp_path / "fade_jax_clone"
        (clone / "experiments").mkdir(parents=True, exist_ok=True)
        (clone / "experiments" / "train.py").touch()
        (clone / "docs" / "replication" / "data").mkdir(parents=True, exist_ok=True)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ValueError, match="set REPOSITORY"):
        exec(setup, {})
    assert asked == []
    here = setup.replace('REPOSITORY = ""', 'REPOSITORY = "https://example.org/it.git"')
    namespace = {}
    exec(here, namespace)
    clone, *install = asked
    assert clone == ["git", "clone", "--depth=1", "https://example.org/it.git", "fade_jax_clone"]
    if name == "04_replication":  # reads data, and imports nothing of the project
        assert install == []
        assert tmp_path / "fade_jax_clone" / "docs" / "replication" == namespace["REPLICATION"]
    else:
        assert "fade_jax_clone[experiments]" in install[0]
        assert sys.path[0] == str(tmp_path / "fade_jax_clone")
    exec(here, {})  # again, as after a restart: nothing is fetched twice
    assert asked == [clone, *install]


@pytest.mark.parametrize("name", NAMES)
def test_committed_outputs(name):
    assert PATHS[name].stat().st_size < 300_000
    notebook = json.loads(PATHS[name].read_text(encoding="utf-8"))
    cells = notebook["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert notebook["nbformat"] == 4


@pytest.mark.slow
@pytest.mark.parametrize(("sweep", "counts"), [("core", "tuning"), ("methods", "methods")])
def test_registered_predictions_are_reproduced(sweep, counts):
    """The rows of prediction.csv follow from h(p) and the counts before training."""
    with np.load(DATA / counts / "counts.npz") as file:
        correct, samples = file["correct"][0, 0].astype(int), int(file["num_samples"])
    with (DATA / sweep / "prediction.csv").open() as file:
        rows = list(csv.DictReader(file))
    a, b = float(rows[0]["prior_a"]), float(rows[0]["prior_b"])
    solve_rates, weights = [], []
    # p given the count is Beta(a + K, b + N - K). The share on solved prompts has a threshold, so
    # that it depends on the number of nodes: 32, as registered.
    for count, prompts in zip(*np.unique(correct, return_counts=True), strict=True):
        nodes, weight = roots_jacobi(32, b + samples - count - 1, a + count - 1)
        solve_rates.append((1 + nodes) / 2)
        weights.append(weight / weight.sum() * prompts / len(correct))
    start = np.clip(np.concatenate(solve_rates), 1e-7, 1 - 1e-7), np.concatenate(weights)
    methods = {"asym0.5": transforms.asym_grpo(delta=0.5), "power3": transforms.power(alpha=3.0)}
    for name, transformation in methods.items():
        row = next(row for row in rows if row["method"] == name)
        path = simulate(
            transformation, *start, group_size=16, step_size=float(row["step_size"]), steps=400
        )
        step = np.interp(float(row["level"]), path.pass_at_1, np.arange(401))
        assert step == pytest.approx(float(row["steps_to_level"]), abs=0.3)
        for column in ("pass_at_100", "solved_share"):
            value = np.interp(step, np.arange(401), getattr(path, column))
            assert value == pytest.approx(float(row[column]), abs=5e-4)
