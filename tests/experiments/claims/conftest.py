"""Synthetic sweeps, made once and read as the page reads them."""

import itertools
from collections.abc import Callable, Mapping

import pytest

from experiments.claims import store
from experiments.claims.sweep_data import SweepData
from tests.experiments.claims.synthetic import Truth, write_sweep


@pytest.fixture
def sweep(tmp_path) -> Callable[..., SweepData]:
    """Writes a sweep, its tidy data, and reads that."""

    numbers = itertools.count()

    def made(name: str, truths: Mapping[str, Truth], **settings) -> SweepData:
        directory = tmp_path / str(next(numbers))
        workdir = write_sweep(directory / "runs" / name, truths, **settings)
        store.write_tidy(workdir, directory / "data" / name)
        return store.read_tidy(directory / "data" / name)

    return made
