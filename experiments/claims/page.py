"""What the claims page says, in order."""

from collections.abc import Sequence
from pathlib import Path

from experiments.claims import tables, theory
from experiments.claims.claim import CLAIMS, TITLES, Claim
from experiments.claims.finding import NOT_RUN, Finding
from experiments.claims.pictures import along, arms, curves, front, rows
from experiments.claims.study import Study, decide
from experiments.claims.sweep_data import SweepData
from experiments.report.page import Page, Section, Text
from experiments.report.picture import Picture, to_png
from experiments.report.pictures.masses import masses
from experiments.report.pictures.solve_rates import solve_rates
from experiments.report.table import Table

STATIC = ("reinforce", "grpo_no_std", "asym0.5", "asym2", "power2", "power3")
FADES = ("fade", "fade0.5", "fade0.25")
_ROW_INCHES = 0.19
_LEAD = (
    "Every criterion was written into the docstring of configs/sweeps/*.py before its runs. Values "
    "are means over seeds; brackets are 95% bootstrap intervals that draw seeds and held-out "
    "prompts again together, and differences are paired by seed and prompt. Entropy and rank are "
    "one number for each run, so their intervals are over seeds alone; with five seeds such an "
    "interval excludes 0 whenever all five differences have one sign."
)
_RULES = (
    "A verdict needs 5 finished seeds of every method it reads (3 in the sweeps isolate_delta and "
    "arithmetic, planned so); otherwise the row says what there is, and its verdict is `not run`. "
    "Where a criterion says only when a claim holds, it fails (`does not`) if an interval excludes "
    "0 on the other side, and is `undecided` otherwise.",
    "The plainest reading was taken where a criterion leaves room. Claim 3 on core: the file says "
    "what is read and not what decides; the verdict is on pass@100 at the matched pass@1 of 35.3% "
    "(the level that prediction.md fixed before the runs), which must be above that of GRPO "
    "without std by an interval that excludes 0 for both exponents. The final pass@1 "
    "stands beside it.",
    "Claim 4: it fails if another cell is ahead of the named one by an interval that excludes 0.",
    "Claim 5: the level is, in each seed, the best static method's own final pass@1 in that seed. "
    "'The best of them' is by mean pass@1 for the steps, and by each pass@k for that pass@k. "
    "'Within the interval or above': FADE's mean is not below the lower end of that method's "
    "interval. It fails if FADE is earlier in no seed, or below in one pass@k, and is undecided if "
    "it is earlier in some seeds only.",
    "Where the evaluation has no pass@100, it is the largest k there is, and step 50 is the "
    "nearest evaluation. In isolate_delta something is a cause if it is one for REINFORCE or for "
    "NSR; a method that misses the level in a seed leaves its arm without D.",
)

Drawn = tuple[Picture, dict]


def claims_page(study: Study, data: Path, out: Path) -> tuple[Page, dict[str, bytes]]:
    """The page, and its pictures by name.

    Args:
      study: all sweeps.
      data: directory of their tidy data.
      out: where the page goes; the comparison with the prediction is written there.
    """
    findings = [(claim, decide(claim.decide, study)) for claim in CLAIMS]
    images: dict[str, bytes] = {}

    def picture(drawn: Drawn | None, title: str = "") -> list[Section]:
        if drawn is None:
            return []
        body, look = drawn
        images[body.name] = to_png(body, **look)
        return [Section(title, body)]

    sections = [
        Section("Verdicts", tables.verdicts(findings)),
        Section("How to read a verdict", Text(_RULES)),
        *picture(_plain(front.trade_offs(dict(tables.shown_sweeps(study)))), "The trade-off"),
    ]
    for group, title in TITLES.items():
        members = [(claim, finding) for claim, finding in findings if claim.group == group]
        sections += _claim_sections(title, members)
        sections += [s for drawn in _drawn(group, members, study) for s in picture(drawn)]
    for name in ("core", "methods"):
        sections += theory.section(name, data, out)
    shown = tables.shown_sweeps(study)
    for name, sweep in shown.items():
        sections += _sweep_sections(name, sweep)
        sections += [s for drawn in _sweep_pictures(name, sweep) for s in picture(drawn)]
    sections.append(Section("What was run, and what was not", tables.coverage_table(study)))
    command = f"python -m experiments.report --workdir={data} --out={out}"
    page = Page("The paper's claims at laptop scale", _LEAD, tuple(sections), command)
    return page, images


def _claim_sections(title: str, members: Sequence[tuple[Claim, Finding]]) -> list[Section]:
    table = Table(
        ("statement", "sweep", "criterion", "verdict", "what came out"),
        tuple(
            (
                claim.statement,
                claim.sweep,
                claim.criterion,
                tables.said(claim, finding),
                tables.outcome(finding),
            )
            for claim, finding in members
        ),
        _commands(members),
        figures=False,
    )
    sections = [Section(title, table)]
    if any(finding.figures for _, finding in members):
        sections.append(Section("", tables.figures_table(members)))
    return sections


def _commands(members: Sequence[tuple[Claim, Finding]]) -> str:
    sweeps = dict.fromkeys(claim.sweep for claim, _ in members)
    commands = "; ".join(
        f"`python -m experiments.run --config=configs/sweeps/{name}.py --workdir=DIR/{name}`"
        for name in sweeps
    )
    return f"To run it again: {commands}. The figures and the picture: the command below this page."


def _drawn(
    group: str, members: Sequence[tuple[Claim, Finding]], study: Study
) -> list[Drawn | None]:
    """The pictures of a group of claims."""
    core, there = study.get("core"), [m for m in members if m[1].verdict != NOT_RUN]
    found = (
        []
        if group in ("settings", "carry")
        else [_rows(rows.differences(group, TITLES[group], there))]
    )
    if group == "claim6" and core is not None:
        ablations = [m for m in core.methods if m.startswith("fade")]
        title = "FADE and its ablations over steps"
        picture = curves.over_steps(core, "ablations", title, ablations, schedules=True)
        found.append(_plain(picture, columns=4))
    if group == "claim4" and "delta" in study:
        found.append(_plain(along.delta(study["delta"])))
    if group == "claim3" and "alpha" in study:
        found.append(_plain(along.alpha(study["alpha"])))
    if group == "target" and "target_entropy" in study:
        found.append(_plain(along.target(study["target_entropy"])))
    if group == "isolate":
        drawn = arms.gaps(study)
        found.append(None if drawn is None else (drawn, {"inches": (8.6, 3.6)}))
    return found


def _sweep_sections(name: str, sweep: SweepData) -> list[Section]:
    sections = [Section(f"Sweep {name}", tables.methods_table(sweep))]
    if name in ("core", "methods", "countdown", "arithmetic", "beyond"):
        for table in (tables.matched_table(sweep), tables.steps_table(sweep)):
            sections += [] if table is None else [Section("", table)]
    return sections


def _sweep_pictures(name: str, sweep: SweepData) -> list[Drawn | None]:
    if name == "methods":
        height = 0.9 + 0.2 * len(sweep.methods)
        return [(rows.finals(sweep, "methods"), {"inches": (9.6, height)})]
    if name not in ("core", "countdown", "arithmetic"):
        return []
    methods = [m for m in (*STATIC, *FADES) if m in sweep.methods]
    runs = [run for run in sweep.finished if run.method in methods]
    title = f"{name}: static weights and FADE over steps"
    drawn = [_plain(curves.over_steps(sweep, f"{name}_steps", title, methods, schedules=False))]
    if name == "core" and runs:
        drawn += [_plain(masses(runs)), _plain(solve_rates(runs), columns=4)]
    return drawn


def _plain(picture: Picture | None, **look: int) -> Drawn | None:
    return None if picture is None else (picture, look)


def _rows(found: tuple[Picture, int] | None) -> Drawn | None:
    if found is None:
        return None
    picture, count = found
    height = 0.65 * len(picture.panels) + _ROW_INCHES * count
    return picture, {"columns": 1, "inches": (8.6, height)}
