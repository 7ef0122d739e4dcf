import pytest

from tests.experiments.report import synthetic


@pytest.fixture(scope="session")
def two_seeds(tmp_path_factory):
    """Three methods with two seeds each; the last run of fade was killed at step 73."""
    return synthetic.write_sweep(tmp_path_factory.mktemp("two"), seeds=2, truncate=True)


@pytest.fixture(scope="session")
def four_seeds(tmp_path_factory):
    return synthetic.write_sweep(tmp_path_factory.mktemp("four"), seeds=4, truncate=False)
