"""The algebra of sweeps, against combinations written out by hand."""

import itertools

import pytest

from experiments.config import ConfigError, default_config
from experiments.grid import axis, chain, check_runs, methods, product, seeds, zipped


def test_axis_names_its_runs_by_the_field_a_word_or_a_list():
    assert axis("group_size", (4, 8)) == {
        "group_size4": {"group_size": 4},
        "group_size8": {"group_size": 8},
    }
    assert list(axis("optimizer.learning_rate", (1e-4, 3e-4))) == [
        "learning_rate0.0001",
        "learning_rate0.0003",
    ]
    assert list(axis("optimizer.learning_rate", (3e-4,), "lr")) == ["lr0.0003"]
    assert axis("model.tied_head", (True, False), ("tied", "own"))["own"] == {
        "model.tied_head": False
    }


def test_product_is_every_combination_with_the_first_axis_slowest():
    runs = product(axis("steps", (1, 2)), axis("seed", (0, 1, 2)), axis("prompts", (8,)))
    expected = [
        (f"steps{a}-seed{b}-prompts8", {"steps": a, "seed": b, "prompts": 8})
        for a, b in itertools.product((1, 2), (0, 1, 2))
    ]
    assert list(runs.items()) == expected
    assert product() == {"": {}}
    assert product(axis("seed", (3,))) == axis("seed", (3,))


def test_zipped_goes_side_by_side():
    runs = zipped(axis("group_size", (4, 8)), axis("prompts", (32, 16)))
    assert runs == {
        "group_size4-prompts32": {"group_size": 4, "prompts": 32},
        "group_size8-prompts16": {"group_size": 8, "prompts": 16},
    }


def test_chain_keeps_the_order():
    assert list(chain(axis("seed", (1,)), axis("steps", (9,)), {"plain": {}})) == [
        "seed1",
        "steps9",
        "plain",
    ]


def test_methods_and_seeds():
    config = default_config()
    config.sweep.seeds = 2
    runs = product(methods({"power2": ("power", {"alpha": 2.0})}), seeds(config))
    assert list(runs) == ["power2-seed0", "power2-seed1"]
    assert runs["power2-seed1"] == {
        "advantage": {"name": "power", "kwargs": {"alpha": 2.0}},
        "seed": 1,
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: chain(axis("seed", (1,)), axis("seed", (1,))), "two runs .* named 'seed1'"),
        (lambda: axis("seed", (1, 1)), "two runs .* named 'seed1'"),
        (lambda: axis("seed", (1, 1), ("a", "b")), "'a' and 'b' of the sweep change the same"),
        (lambda: axis("seed", (1, 2), ("a",)), r"2 values need as many names, got \['a'\]"),
        (lambda: zipped(axis("seed", (1, 2)), axis("steps", (1,))), r"same number .* \[2, 1\]"),
        (lambda: product(axis("seed", (1,), "a"), axis("seed", (2,), "b")), "changes seed and seed"),
        (
            lambda: product(
                methods({"f": ("fade", {})}), axis("advantage.kwargs.rate", (0.1,))
            ),
            "changes advantage and advantage.kwargs.rate",
        ),
        (lambda: check_runs({}), "no runs"),
        (lambda: check_runs({"a/b": {}}), "plain file name, got 'a/b'"),
        (lambda: check_runs({"..": {}}), r"plain file name, got '\.\.'"),
        (lambda: check_runs(product()), "plain file name, got ''"),
    ],
)  # fmt: skip
def test_what_would_lose_a_run_is_an_error(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
