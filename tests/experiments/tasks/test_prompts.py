import numpy as np
import pytest

from experiments.tasks.base import token_mask


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 9, 3], [1, 1, 1, 0]),
        ([9, 2, 9, 3], [1, 0, 0, 0]),
        ([1, 2, 3, 4], [1, 1, 1, 1]),
        ([1, 2, 3, 9], [1, 1, 1, 1]),
    ],
)
def test_mask_ends_with_the_first_eos(tokens, expected):
    mask = token_mask(np.array([[tokens]], np.int32), 9)
    assert mask.shape == (1, 1, 4)
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask[0, 0], expected)
