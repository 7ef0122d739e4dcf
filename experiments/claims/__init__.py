"""The claims page: from the sweeps of a directory, or their tidy data, to what reproduced."""

from experiments.claims.write import is_study, write_claims

__all__ = ["is_study", "write_claims"]
