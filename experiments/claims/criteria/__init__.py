"""The criteria of configs/sweeps/*.py, stated there before the runs; a function for each."""
