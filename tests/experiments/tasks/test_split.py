import jax
import numpy as np

from experiments.tasks.base import hash_bits, is_held_out


def plain_hash(*parts):
    h = 0x9E3779B9
    for part in parts:
        h = (h + (part % 2**32 + 1) * 0x9E3779B1) % 2**32
        h = ((h ^ (h >> 16)) * 0x85EBCA6B) % 2**32
        h = ((h ^ (h >> 13)) * 0xC2B2AE35) % 2**32
        h ^= h >> 16
    return h


def test_bits_are_pinned():
    # A changed hash would move problems between training and evaluation without a word.
    assert int(hash_bits(1, 2, 3)) == 2780159233


def test_arrays_agree_with_plain_integers_and_order_counts():
    left, right = np.arange(50)[:, None], np.arange(-20, 20)[None, :]
    bits = np.asarray(jax.jit(hash_bits)(left, right))
    assert bits.tolist() == [[plain_hash(a, b) for b in range(-20, 20)] for a in range(50)]
    assert plain_hash(3, 8) != plain_hash(8, 3)


def test_bits_look_uniform_and_rarely_collide():
    bits = np.asarray(hash_bits(np.arange(400)[:, None], np.arange(500)[None, :])).ravel()
    counts = np.histogram(bits, bins=20, range=(0, 2**32))[0]
    # 200000 draws in 20 bins: a bin has standard deviation 97.5.
    assert np.all(np.abs(counts - 10000) < 5 * 97.5)
    # Birthday: about 200000² / 2³³ = 4.7 collisions.
    assert len(np.unique(bits)) > 200000 - 25


def test_held_out_is_the_lowest_fraction_of_the_bits():
    number = np.arange(5000)
    held_out = np.asarray(is_held_out(0.2, 7, number))
    assert held_out.tolist() == [plain_hash(7, n) < 0.2 * 2**32 for n in range(5000)]
