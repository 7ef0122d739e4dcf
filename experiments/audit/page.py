"""The audit's page, table and picture, from the measurements of all frameworks."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from experiments import figures
from experiments.audit.measures import GROUP_SIZE, SOLVE_RATES

_AT = (0.1, 0.5, 0.9)


def write_page(out: Path) -> Path:
    """Writes `audit.md`, `audit.csv` with every curve, `audit.png` and `audit.pdf`.

    Args:
      out: holds one JSON file for each measured framework.

    Returns:
      the path of `audit.md`.

    Raises:
      ValueError: if there is no measurement.
    """
    measured = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    if not measured:
        raise ValueError(f"--out must have measurements, FRAMEWORK.json; found none in {out}")
    curves(measured).to_csv(out / "audit.csv", index=False)
    plot_weights(measured, out / "audit")
    versions = ", ".join(f"{each['framework']} {each['version']}" for each in measured)
    sections = [
        f"# Audit of advantages\n\n{versions}; groups of {GROUP_SIZE}.",
        "## Masses and objectives\n\n" + _markdown(summary(measured)),
        "## Hard cases\n\n" + _markdown(cases(measured)),
    ]
    if len(estimates := pass_at_k(measured)):
        sections.append("## Estimates of pass@k from 16 samples\n\n" + _markdown(estimates))
    if len(differences := statements(measured)):
        sections.append("## Documentation and code\n\n" + _markdown(differences))
    page = out / "audit.md"
    page.write_text("\n\n".join([*sections, "![expected weights](audit.png)"]) + "\n")
    return page


def summary(measured: list[dict[str, Any]]) -> pd.DataFrame:
    """One row for each estimator: h and masses at some solve rates, F(1), and the gap."""
    rows = []
    for framework, estimator in _estimators(measured):
        of = {name: np.asarray(value) for name, value in estimator["curves"].items()}
        at = {p: int(np.argmin(np.abs(SOLVE_RATES - p))) for p in _AT}
        rows.append(
            {"framework": framework, "estimator": estimator["name"], "claims": estimator["claim"]}
            | {f"h({p})": of["weight"][at[p]] for p in _AT}
            | {f"m_S({p})": of["success_mass"][at[p]] for p in _AT}
            | {f"m_F({p})": of["failure_mass"][at[p]] for p in _AT}
            | {"F(1)": of["objective"][-1], "gap": of["gap"]}
        )
    return pd.DataFrame(rows)


def cases(measured: list[dict[str, Any]]) -> pd.DataFrame:
    """One row for each estimator, one column for each hard case."""
    return pd.DataFrame(
        [
            {"framework": framework, "estimator": estimator["name"]}
            | {name: _short(result) for name, result in estimator["cases"].items()}
            for framework, estimator in _estimators(measured)
        ]
    )


def pass_at_k(measured: list[dict[str, Any]]) -> pd.DataFrame:
    """One row for each estimate, solve rate and k, with the bias."""
    rows = [
        {"framework": each["framework"], "estimate of": name} | row
        for each in measured
        for name, found in each["pass_at_k"].items()
        for row in found
    ]
    table = pd.DataFrame(rows)
    return table.assign(bias=table["estimate"] - table["pass_at_k"]) if rows else table


def statements(measured: list[dict[str, Any]]) -> pd.DataFrame:
    """One row for each statement of a documentation, and what the code gives."""
    return pd.DataFrame(
        [
            {"framework": each["framework"], "documentation": said, "code": found}
            for each in measured
            for said, found in each["statements"]
        ]
    )


def curves(measured: list[dict[str, Any]]) -> pd.DataFrame:
    """Every curve at every solve rate, in long form."""
    names = ("success_mass", "failure_mass", "weight", "objective", "claimed")
    return pd.concat(
        [
            pd.DataFrame({name: estimator["curves"][name] for name in names}).assign(
                framework=framework, estimator=estimator["name"], p=SOLVE_RATES
            )
            for framework, estimator in _estimators(measured)
        ]
    )


def plot_weights(measured: list[dict[str, Any]], path: Path) -> None:
    """Draws h(p), a panel for each framework and a line for estimators that have the same.

    Args:
      measured: of each framework.
      path: of the PNG and the PDF, without a suffix.
    """
    entries = [_names_by_weight(each) for each in measured]
    rows = [max(1.8, 0.5 + 0.15 * sum(name.count("\n") + 1 for name in x)) for x in entries]
    with rc_context(figures.STYLE):
        figure = Figure(figsize=(figures.PAGE_WIDTH, sum(rows)), layout="constrained")
        grid = figure.subplots(len(rows), 2, squeeze=False, height_ratios=rows)
        for (axes, beside), each, weights in zip(grid, measured, entries):
            styles = figures.line_styles(dict.fromkeys(weights, ""))
            for name, weight in weights.items():
                axes.plot(SOLVE_RATES, weight, label=name, **styles[name])
            title = f"{each['framework']} {each['version']}"
            axes.set(title=title, xlabel="solve rate p, 0–1", ylabel="weight h(p), of ∇p")
            axes.set(xlim=(0, 1), ylim=(0, 4))
            marked = figures.mark_coincident(axes)
            beside.set_axis_off()
            handles = figures.line_handles(styles, marked)
            beside.legend(handles=handles, loc="center left", borderpad=0)
        figures.save(figure, path)


def _names_by_weight(each: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """Returns the curves of a framework by the names of the estimators that have them."""
    found: dict[tuple[float, ...], list[str]] = {}
    for estimator in each["estimators"]:
        weight = tuple(np.round(estimator["curves"]["weight"], 2))
        found.setdefault(weight, []).append(estimator["name"])
    return {"\n".join(textwrap.wrap("; ".join(x), 30)): weight for weight, x in found.items()}


def _estimators(measured: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(each["framework"], estimator) for each in measured for estimator in each["estimators"]]


def _short(result: Any) -> str:
    if isinstance(result, str):
        return result[:60].replace("|", "\\|")
    return ", ".join(f"{value:.3g}" for value in np.ravel(result))


def _markdown(table: pd.DataFrame) -> str:
    return table.to_markdown(index=False, floatfmt=".3g")
