import csv

import pytest

from experiments.claims import theory


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.9, "right"), (-0.9, -0.1, "wrong"), (-0.1, 0.5, "undecided"), (0.3, 0.3, "undecided")],
)
def test_the_verdict_on_an_order(low, high, verdict, tmp_path, monkeypatch):
    row = {"level": 0.353, "predicted": "x", "measured": "y", "kendall_tau": 0.2, "methods": 5}

    def compared(results, out):
        with (out / "order.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*row, "low", "high"])
            writer.writeheader()
            writer.writerow(row | {"low": low, "high": high})

    monkeypatch.setattr(theory, "write_comparison", compared)
    for name, folder in (("core", ""), ("methods", "methods")):
        for path in (f"data/{name}/evaluations.csv", f"{folder}/prediction.csv".lstrip("/")):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
        _, table, picture = theory.section(name, tmp_path / "data", tmp_path)
        assert table.body.rows[0][-1] == verdict
        assert picture.body.name == f"{folder}/prediction_and_measurement".lstrip("/")
    assert table.body.rows[0][0] == "35.3%"


def test_without_a_prediction_it_says_so(tmp_path):
    (section,) = theory.section("core", tmp_path / "data", tmp_path)
    assert "not run" in section.body.paragraphs[0]
