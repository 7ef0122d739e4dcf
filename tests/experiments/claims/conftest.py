"""Synthetic sweeps, made once and read as the page reads them."""

from collections.abc import Callable, Mapping

import pytest

from experiments.claims import store
from experiments.claims.sweep_data import SweepData
from tests.experiments.claims.synthetic import Truth, write_sweep


@pytest.fixture
def sweep(tmp_path) -> Callable[..., SweepData]:
    """Writes a sweep, its tidy data, and reads that."""

    def made(name: str, truths: Mapping[str, Truth], **settings) -> SweepData:
        workdir = write_sweep(tmp_path / "runs" / name, truths, **settings)
        store.write_tidy(workdir, tmp_path / "data" / name)
        return store.read_tidy(tmp_path / "data" / name)

    return made
