"""The rollouts of a step with their rewards, scored on the host.

Below: resampling, sharding. Above: samplers, train.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.config import Config
from experiments.resampling import is_flat, resampling_metrics
from experiments.rollout import Rollouts


class Source(NamedTuple):
    """Where the rollouts of a step come from.

    Attributes:
      prompts: position -> (Prompts on the sampler's devices, what their verification reads). The
        position is a number of batches since the start of training.
      sample: (prompts, round) -> Rollouts.
      rewards_of: (verifier inputs, Rollouts) -> (rewards [P, G], metrics, verdicts).
      replace_flat: see resampling.replace_flat.
    """

    prompts: Callable[[int], tuple[Any, Any]]
    sample: Callable[[Any, int], Rollouts]
    rewards_of: Callable[..., Any]
    replace_flat: Callable[..., Any]


class Collected(NamedTuple):
    """The batch of a step.

    Attributes:
      prompts: P prompts, without what their verification reads.
      rollouts: [P, G, T].
      rewards: float32 [P, G] on the host; NaN where unknown.
      metrics: counts of verdicts, and what dynamic sampling did.
      visits: of every round, the index of the prompts and their rewards.
    """

    prompts: Any
    rollouts: Rollouts
    rewards: np.ndarray
    metrics: dict[str, float]
    visits: list[tuple[Any, np.ndarray]]


def collect(config: Config, step: int, source: Source) -> Collected:
    """Samples and scores the batch of a step; flat groups are replaced in further rounds."""
    rounds = config.learner.resample_rounds
    visits = []

    def one(index):
        prompts, inputs = source.prompts(step * (rounds + 1) + index)
        rollouts = source.sample(prompts, index)
        rewards, counts, _ = source.rewards_of(inputs, rollouts)
        rewards = np.asarray(rewards)
        visits.append((prompts.index, rewards))
        return (prompts, rollouts), rewards, dict(counts)

    batch, rewards, counts = one(0)
    if not rounds:
        prompts, rollouts = batch
        return Collected(prompts, rollouts, rewards, counts, visits)
    first, index = float(np.nanmean(rewards)), 0
    while index < rounds and np.any(is_flat(rewards)):
        index += 1
        more, more_rewards, more_counts = one(index)
        batch, rewards = source.replace_flat(batch, rewards, more, more_rewards)
        rewards = np.asarray(rewards)
        for name, count in more_counts.items():
            if name.startswith("verification/"):
                counts[name] += count
    extra = jax.device_get(resampling_metrics(first, index, rewards))
    prompts, rollouts = batch
    counts |= {name: float(value) for name, value in extra.items()}
    return Collected(prompts, rollouts, rewards, counts, visits)
