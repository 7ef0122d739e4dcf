"""Links of a chain: stateless and clip."""

import numpy as np
import pytest

from fade_jax import transforms


def test_stateless_statistics():
    lifted = transforms.stateless(lambda rewards, *, bonus: rewards + bonus, "bonus")
    result, _ = lifted.update(np.ones((1, 2)), lifted.init(), bonus=2.0)
    np.testing.assert_array_equal(result, [[3.0, 3.0]])
    with pytest.raises(ValueError, match=r"'bonus' is missing; given: .*entropy"):
        lifted.update(np.ones((1, 2)), lifted.init(), entropy=2.0)


def test_clip_bounds():
    transformation = transforms.chain(transforms.center(), transforms.clip(0.3))
    result, _ = transformation.update(np.array([[1.0, 0, 0, 0]]), transformation.init())
    np.testing.assert_allclose(result, [[0.3, -0.25, -0.25, -0.25]], rtol=1e-6)
