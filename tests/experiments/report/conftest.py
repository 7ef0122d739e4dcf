"""Synthetic workdirs, made once; a test may write their report/, and nothing else."""

import pytest

from tests.experiments.report import synthetic


@pytest.fixture(scope="session")
def two_seeds(tmp_path_factory):
    """Three methods by two seeds; the last run of fade was killed."""
    return synthetic.write_sweep(tmp_path_factory.mktemp("two"), seeds=2)


@pytest.fixture(scope="session")
def four_seeds(tmp_path_factory):
    return synthetic.write_sweep(tmp_path_factory.mktemp("four"), seeds=4, truncate=False)


@pytest.fixture(scope="session")
def single_run(tmp_path_factory):
    return synthetic.write_run(tmp_path_factory.mktemp("single") / "run", "fade", 3)
