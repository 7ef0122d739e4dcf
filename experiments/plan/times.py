"""Predicted seconds of one step, from counts and published rates.

    products     FLOP / (peak · OF_FLOPS)
    scores       bytes of attention scores in the train step / (memory rate · OF_MEMORY_RATE):
                 without a fused kernel XLA writes and reads them
    decoding     per token the larger of its products and its reads, the weights once and the
                 cache once, both as above
    collectives  bytes / (link rate · OF_LINK_RATE) + LATENCY each

In the train step collectives may hide behind the products: the two figures are the sum of all and
the sum with the smaller of collectives and products left out.
"""

from typing import NamedTuple

from experiments.models import layers
from experiments.perf import flops as memory
from experiments.perf.hlo import Collective
from experiments.plan import flops, rates
from experiments.plan.rates import Device
from experiments.plan.work import Work

# Float32 passes over the scores: 4 in each forward computation (write; read for the maximum and
# the exponential; write; read for the mix), 8 in the backward one.
_FORWARD_PASSES, _BACKWARD_PASSES = 4, 8


class Seconds(NamedTuple):
    """Of one step on one kind of device."""

    prefill: float
    decode: float
    sample_collectives: float
    products: float
    scores: float
    learn_collectives: float

    @property
    def rollout(self) -> float:
        """The rollout step."""
        return self.prefill + self.decode + self.sample_collectives

    @property
    def learn(self) -> float:
        """The train step, nothing overlapped."""
        return self.products + self.scores + self.learn_collectives

    @property
    def learn_overlapped(self) -> float:
        """The train step with collectives behind products, or products behind collectives."""
        return max(self.products, self.learn_collectives) + self.scores


def seconds(
    device: Device, work: Work, sample: list[Collective], learn: list[Collective]
) -> Seconds:
    """The prediction.

    Args:
      device: of rates.DEVICES.
      work: of one device.
      sample: collectives of the rollout step.
      learn: collectives of the train step.
    """
    speed = device.flops * rates.OF_FLOPS
    reading = device.memory_rate * rates.OF_MEMORY_RATE
    steps = work.completion - 1
    whole = flops.sample_flops(work)
    first = flops.sample_flops(work._replace(completion=1))
    arithmetic = (whole.total - first.total) / speed
    bytes_read = steps * (memory.copy_bytes(work) + memory.cache_bytes(work))
    return Seconds(
        prefill=first.total / speed,
        decode=max(arithmetic, bytes_read / reading),
        sample_collectives=transfer_seconds(device, sample),
        products=flops.learn_flops(work).total / speed,
        scores=score_bytes(work) / reading,
        learn_collectives=transfer_seconds(device, learn),
    )


def score_bytes(work: Work) -> float:
    """Bytes of scores that one device moves in the train step."""
    model, extended = work.model, work.completion - 1
    scores = work.prompts * work.prompt**2
    scores += work.prompts * work.group * extended * (work.prompt + extended)
    scores *= work.epochs * model.num_layers * model.num_heads / work.tensor
    forwards = 1 + model.remat + (layers.query_blocks(extended) > 1)
    return 4 * scores * (_FORWARD_PASSES * forwards + _BACKWARD_PASSES)


def transfer_seconds(device: Device, found: list[Collective]) -> float:
    """Seconds of all collectives one after the other."""
    return sum(
        c.times
        * (c.moved / (rates.link_rate(device, c.group) * rates.OF_LINK_RATE) + rates.LATENCY)
        for c in found
    )
