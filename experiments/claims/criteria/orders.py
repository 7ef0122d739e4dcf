"""The criteria on the order of methods, by what it may depend on.

All but those on the entropy and the lag read the differences of the final pass@1 and pass@100 of
every pair of methods. A run's name has the method as one of its parts, and the rest says the
setting.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

from experiments.claims import measures
from experiments.claims.finding import (
    DOES_NOT,
    REPRODUCES,
    UNDECIDED,
    Figure,
    Finding,
    all_of,
    side,
)
from experiments.claims.study import Study, need
from experiments.claims.sweep_data import SweepData

METHODS = ("grpo_no_std", "asym0.5", "power2", "power3", "fade")
Settings = dict[str, dict[str, str]]  # the name of a method in each setting


def starts(study: Study) -> Finding:
    """Two methods' difference excludes 0 from two warm starts with different signs."""
    data, seeds, settings = _grid(study, "countdown_starts")
    return _order(data, seeds, settings)


def group_size(study: Study) -> Finding:
    """Two methods' difference excludes 0 at two group sizes with different signs."""
    data, seeds, settings = _grid(study, "group_size")
    return _order(data, seeds, settings)


def reuse(study: Study) -> Finding:
    """Two methods' difference excludes 0 with and without reuse, with different signs."""
    data, seeds, settings = _grid(study, "reuse")
    return _order(data, seeds, settings)


def optimizer(study: Study) -> Finding:
    """Two methods' difference changes its sign from Adam to SGD, each at its best rate."""
    data, seeds, settings = _grid(study, "optimizer")
    return _order(
        data,
        seeds,
        {
            name: _best({s: ms for s, ms in settings.items() if s.startswith(name)}, data, seeds)
            for name in ("adam", "sgd")
        },
    )


def learning_rate(study: Study) -> Finding:
    """Two methods differ in final pass@1 or pass@100, each at its best rate."""
    data, seeds, settings = _grid(study, "learning_rate")
    figures = _pairs(data, seeds, _best(settings, data, seeds))
    differ = [figure for figure in figures.values() if side(figure.estimate)]
    sentence = f"{len(differ)} of {len(figures)} differences exclude 0."
    return Finding(REPRODUCES if differ else UNDECIDED, tuple(figures.values()), sentence)


def staleness(study: Study) -> Finding:
    """Of AsymGRPO(0.5) and GRPO without std one bears a lag that the other does not."""
    data, seeds, settings = _grid(study, "staleness")
    figures, bears = [], {}
    for lag, names in settings.items():
        for method in ("grpo_no_std", "asym0.5"):
            if lag != "lag0":
                pair = (data, names[method]), (data, settings["lag0"][method])
                estimate = measures.difference(*pair, measures.final_pass(1), seeds)
                figures.append(Figure(f"{method}: {lag} − lag0, final pass@1", estimate, "points"))
                bears.setdefault(lag, []).append(side(estimate) >= 0)
    apart = [lag for lag, pair in bears.items() if len(set(pair)) == 2]
    sentence = (
        f"Lags that one of the two bears and the other does not: {', '.join(apart) or 'none'}."
    )
    return Finding(REPRODUCES if apart else DOES_NOT, tuple(figures), sentence)


def clip_higher(study: Study) -> Finding:
    """For each method, the final entropy is higher at an upper bound of 0.28 than at 0.2."""
    data, seeds, settings = _grid(study, "clip_higher")
    low, high = settings["clip_high0.2"], settings["clip_high0.28"]
    figures = tuple(
        Figure(
            f"{method}: 0.28 − 0.2, final entropy",
            measures.difference(
                (data, high[method]), (data, low[method]), measures.final_entropy, seeds
            ),
            "nats",
        )
        for method in low
    )
    return Finding(all_of(figures, [1] * len(figures)), figures, "For each method.")


def scale_of_differences(study: Study) -> Finding:
    """Under SGD, some difference of two methods excludes 0 raw, and includes 0 equalised."""
    data, seeds, settings = _grid(study, "scale")
    raw, equal = (_pairs(data, seeds, names) for names in _raw_and_equal(settings, "sgd"))
    there = [pair for pair, figure in raw.items() if side(figure.estimate)]
    scale = [pair for pair in there if not side(equal[pair].estimate)]
    sentence = f"Of {len(there)} differences that exclude 0 raw, {len(scale)} include 0 equalised."
    figures = tuple(found[pair] for pair in there for found in (raw, equal))
    return Finding(REPRODUCES if scale else DOES_NOT if there else UNDECIDED, figures, sentence)


def scale_hidden_by_adam(study: Study) -> Finding:
    """Under Adam, no method's raw and equalised runs differ in final pass@1 or pass@100."""
    data, seeds, settings = _grid(study, "scale")
    raw, equal = _raw_and_equal(settings, "adam")
    figures = [
        Figure(
            f"{method}: raw − equalised, final pass@{k}",
            measures.difference(
                (data, raw[method]), (data, equal[method]), measures.final_pass(k), seeds
            ),
            "points",
        )
        for method in raw
        for k in (1, data.ks[-1])
    ]
    differ = sum(side(figure.estimate) != 0 for figure in figures)
    verdict = DOES_NOT if differ else REPRODUCES
    return Finding(verdict, tuple(figures), f"{differ} of {len(figures)} differences exclude 0.")


def _grid(study: Study, sweep: str) -> tuple[SweepData, list[int], Settings]:
    """The sweep, the seeds that all its methods have, and its planned methods by setting."""
    planned = study[sweep].methods if sweep in study else ()
    data, seeds = need(study, sweep, planned)
    settings: Settings = {}
    for name in planned:
        parts = name.split("-")
        method = next(part for part in parts if part in METHODS)
        setting = "-".join(part for part in parts if part != method)
        settings.setdefault(setting, {})[method] = name
    return data, seeds, settings


def _raw_and_equal(settings: Settings, optimizer: str) -> tuple[dict[str, str], dict[str, str]]:
    def one(ending: str) -> dict[str, str]:
        return next(
            names
            for setting, names in settings.items()
            if setting.startswith(optimizer) and setting.endswith(ending)
        )

    return one("raw"), one("equal")


def _best(settings: Settings, data: SweepData, seeds: Sequence[int]) -> dict[str, str]:
    """Each method in the setting with its best mean final pass@1."""
    names: dict[str, list[str]] = {}
    for methods in settings.values():
        for method, name in methods.items():
            names.setdefault(method, []).append(name)
    measure = measures.final_pass(1)
    return {
        method: max(of_it, key=lambda name: measures.value((data, name), measure, seeds).value)
        for method, of_it in names.items()
    }


def _pairs(
    data: SweepData, seeds: Sequence[int], names: Mapping[str, str]
) -> dict[tuple[str, str, int], Figure]:
    """Differences of every pair of methods, in final pass@1 and pass@100."""
    return {
        (a, b, k): Figure(
            f"{names[a]} − {names[b]}, final pass@{k}",
            measures.difference((data, names[a]), (data, names[b]), measures.final_pass(k), seeds),
            "points",
        )
        for a, b in combinations(names, 2)
        for k in (1, data.ks[-1])
    }


def _order(data: SweepData, seeds: Sequence[int], settings: Settings) -> Finding:
    """Whether some pair's difference excludes 0 in two settings with different signs.

    It does not where pairs differ in two settings or more, always with the same sign.
    """
    by_setting = {name: _pairs(data, seeds, methods) for name, methods in settings.items()}
    turning, keeping, figures = [], [], []
    for pair in next(iter(by_setting.values())):
        found = [of_pairs[pair] for of_pairs in by_setting.values()]
        signs = [side(figure.estimate) for figure in found if side(figure.estimate)]
        if len(signs) >= 2:
            (turning if len(set(signs)) == 2 else keeping).append(pair)
            figures += found
    sentence = (
        f"Differences that exclude 0 in two settings or more: {len(turning)} change their sign, "
        f"{len(keeping)} keep it."
    )
    verdict = REPRODUCES if turning else DOES_NOT if keeping else UNDECIDED
    return Finding(verdict, tuple(figures), sentence)
