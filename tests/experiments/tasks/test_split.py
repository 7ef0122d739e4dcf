import numpy as np

from experiments.tasks.split import hash_fraction


def test_fractions_are_pinned():
    # A changed hash would move problems between training and evaluation without a word.
    assert hash_fraction(1, 2, 3) * 2**32 == 2780159233


def test_arrays_agree_with_single_numbers_and_order_counts():
    left, right = np.arange(50)[:, None], np.arange(-20, 20)[None, :]
    fractions = hash_fraction(left, right)
    assert fractions.shape == (50, 40)
    assert fractions[7, 3] == hash_fraction(7, -17)
    assert hash_fraction(3, 8) != hash_fraction(8, 3)


def test_fractions_look_uniform_and_rarely_collide():
    fractions = hash_fraction(np.arange(400)[:, None], np.arange(500)[None, :]).ravel()
    counts = np.histogram(fractions, bins=20, range=(0, 1))[0]
    # 200000 draws in 20 bins: a bin has standard deviation 97.5.
    assert np.all(np.abs(counts - 10000) < 5 * 97.5)
    # Birthday: about 200000² / 2³³ = 4.7 collisions.
    assert len(np.unique(fractions)) > 200000 - 25
