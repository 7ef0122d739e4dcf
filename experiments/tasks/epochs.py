"""Which problem comes when: epochs without replacement, as a pure function of the position."""

import numpy as np


def draws(
    seed: int, sizes: tuple[int, ...], pattern: tuple[int, ...], start: int, count: int
) -> list[tuple[int, int]]:
    """Draws problems of several kinds in fixed shares.

    Draw i takes its kind from pattern[i mod len(pattern)]. Within a kind, draws run through a
    random permutation of all its problems, then through another, and so on.

    Args:
      seed: of the permutations.
      sizes: number of problems of each kind.
      pattern: kinds, in the order in which they take turns.
      start: the first draw's position, at least 0.
      count: number of draws.

    Returns:
      (kind, index within the kind) of draws start .. start + count - 1.
    """
    per_cycle = [pattern.count(kind) for kind in range(len(sizes))]
    orders: dict[tuple[int, int], np.ndarray] = {}
    drawn = []
    for position in range(start, start + count):
        cycle, turn = divmod(position, len(pattern))
        kind = pattern[turn]
        nth = cycle * per_cycle[kind] + pattern[:turn].count(kind)
        epoch, place = divmod(nth, sizes[kind])
        if (kind, epoch) not in orders:
            rng = np.random.default_rng([seed, kind, epoch])
            orders[kind, epoch] = rng.permutation(sizes[kind])
        drawn.append((kind, int(orders[kind, epoch][place])))
    return drawn


def one_epoch(sizes: tuple[int, ...], pattern: tuple[int, ...]) -> int:
    """The number of first draws among which no problem repeats, in whole cycles of the pattern."""
    return len(pattern) * min(size // pattern.count(kind) for kind, size in enumerate(sizes))
