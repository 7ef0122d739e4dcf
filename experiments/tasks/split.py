"""The held-out split: whether a problem is held out depends on a hash of itself alone."""

import numpy as np


def hash_fraction(*parts: np.ndarray | int) -> np.ndarray:
    """Hashes tuples of integers to fractions that look uniform.

        h ← mix(h + part · c)   for each part in order;   fraction = h / 2³²

    where mix is the 32-bit finaliser of MurmurHash3.

    Args:
      *parts: integers or integer arrays that broadcast together; the order of the parts counts.

    Returns:
      f64, broadcast shape, in [0, 1); the same on every machine.
    """
    h = np.uint64(0x9E3779B9)
    low = np.uint64(0xFFFFFFFF)
    for part in parts:
        # Kept below 2³² in 64 bits, so that no product overflows into a warning.
        word = np.asarray(part, np.int64).astype(np.uint64) & low
        h = (h + (word + np.uint64(1)) * np.uint64(0x9E3779B1)) & low
        h = ((h ^ (h >> np.uint64(16))) * np.uint64(0x85EBCA6B)) & low
        h = ((h ^ (h >> np.uint64(13))) * np.uint64(0xC2B2AE35)) & low
        h = h ^ (h >> np.uint64(16))
    return np.asarray(h, np.float64) / 2.0**32
