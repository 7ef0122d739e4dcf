"""How much of a run one device does: the counts that the formulas of a plan are made of."""

from typing import NamedTuple

from experiments.experiment import Parts
from experiments.models.config import ModelConfig


class Work(NamedTuple):
    """Counts of one device in one step.

    Attributes:
      model: its sizes.
      prompts: P of this device; the tensor axis shares them.
      group: G.
      prompt: S, tokens.
      completion: T, tokens; every completion is taken to have all of them.
      tensor: devices that share heads, SwiGLU and vocabulary.
      updates: optimiser updates.
      microbatches: parts of an update.
      epochs: times that every prompt is learnt from.
      item: bytes of an activation.
    """

    model: ModelConfig
    prompts: int
    group: int
    prompt: int
    completion: int
    tensor: int
    updates: int
    microbatches: int
    epochs: int
    item: int


def work_of(parts: Parts) -> Work:
    """The work of one device of a run."""
    config, mesh = parts.config, parts.mesh
    return Work(
        parts.model,
        prompts=config.prompts // (mesh.shape["data"] * mesh.shape["fsdp"]),
        group=config.group_size,
        prompt=parts.task.max_prompt,
        completion=parts.task.max_completion,
        tensor=mesh.shape["tensor"],
        updates=config.learner.epochs * config.learner.minibatches,
        microbatches=config.learner.microbatches,
        epochs=config.learner.epochs,
        item=2 if parts.model.dtype == "bfloat16" else 4,
    )
