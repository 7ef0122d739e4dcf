"""A curriculum: training prompts drawn among those that the policy solves sometimes.

Each run keeps the solve rates of its training prompts in its train state (`PromptState`), so that
the prompts of a step are a function of (seed, step, state). Below: config, tasks. Above:
step_functions, train.
"""

from typing import Any

import numpy as np

from experiments.config import Config, ConfigError
from experiments.tasks.base import Task
from fade_jax.transforms import PromptState

_STREAM = 3  # of random numbers, beside those of experiments.tasks.base


def is_on(config: Config) -> bool:
    """Whether the band leaves any solve rate out."""
    return (config.curriculum.low, config.curriculum.high) != (0, 1)


def table_size(config: Config, task: Any) -> int:
    """Returns the number of solve rates that a run keeps: 0 without a curriculum."""
    return getattr(task, "num_prompts", 0) if is_on(config) else 0


def check_curriculum(config: Config, task: Task) -> None:
    """Checks that the task can give the prompts that a curriculum draws, when it draws them.

    Raises:
      ConfigError: for a task without `prompts_at`, and with samplers beside the trainer, which draw
        before the solve rates of the steps under way are known.
    """
    if is_on(config) and config.mesh.samplers:
        raise ConfigError(
            "config.mesh.samplers must be 0 with config.curriculum.low and config.curriculum.high"
            f" other than 0 and 1, got {config.mesh.samplers}"
        )
    if is_on(config) and not hasattr(task, "prompts_at"):
        band = config.curriculum.low, config.curriculum.high
        raise ConfigError(
            "config.curriculum.low and config.curriculum.high must be 0 and 1 with config.task.name"
            f" = {config.task.name!r}, which has no finite set of training prompts, got {band}"
        )


def distances(config: Config, state: PromptState) -> np.ndarray:
    """Returns how far each prompt's solve rate is from the band.

    Args:
      config: its curriculum has the band.
      state: of N prompts.

    Returns:
      float64 [N]; 0 inside the band, its ends included, and for a prompt that has not been seen.
    """
    successes, samples = (np.asarray(x, np.float64) for x in state)
    rate = successes / np.maximum(samples, np.finfo(np.float64).tiny)
    low, high = config.curriculum.low, config.curriculum.high
    return np.where(samples > 0, np.maximum(np.maximum(low - rate, rate - high), 0), 0)


def draw(config: Config, state: PromptState, position: int) -> np.ndarray:
    """Draws the training prompts of a step, without replacement while there are enough.

    Of `config.prompts`, a share of `curriculum.explore` is uniform over all other prompts, so that
    one that left the band is seen again. The rest is uniform over the prompts in the band; if these
    are too few, the ones nearest to the band follow, ties in random order.

    Args:
      config: of the run.
      state: of N prompts.
      position: of the step, or of its round of resampling.

    Returns:
      int32 [P], indices in 0..N-1; with N < P they repeat.
    """
    distance, count = distances(config, state), config.prompts
    rng = np.random.default_rng([config.seed, _STREAM, position])
    order = rng.permutation(distance.size)
    nearest = order[np.argsort(distance[order], kind="stable")]
    explored = round(config.curriculum.explore * count)
    inside, others = np.split(nearest, [min(count - explored, distance.size)])
    drawn = np.concatenate([inside, rng.permutation(others)[:explored]])
    return np.resize(drawn, count).astype(np.int32)


def curriculum_metrics(config: Config, state: PromptState) -> dict[str, float]:
    """Returns the fractions of the training prompts that are in the band, and that are unseen."""
    return {
        "curriculum/in_band": float(np.mean(distances(config, state) == 0)),
        "curriculum/unseen": float(np.mean(np.asarray(state.samples) == 0)),
    }
