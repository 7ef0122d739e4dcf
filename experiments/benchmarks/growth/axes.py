"""What is varied: one size of the step at a time, around one base point."""

from typing import NamedTuple

HEAD_WIDTH = 32


class Sizes(NamedTuple):
    """Sizes of one training step; the defaults are the base point.

    Attributes:
      prompts: P.
      group: G, completions of each prompt.
      prompt: S, tokens of a prompt.
      completion: T, tokens of a completion; all completions have all of them.
      vocabulary: V.
      layers: L.
      width: D; heads of 32, a SwiGLU of 4 D.
      microbatches: parts of the update.
      data: devices that share the prompts.
      fsdp: devices that share the prompts and the parameters.
      tensor: devices that share heads, SwiGLU and vocabulary.
    """

    prompts: int = 4
    group: int = 8
    prompt: int = 64
    completion: int = 32
    vocabulary: int = 4096
    layers: int = 4
    width: int = 128
    microbatches: int = 1
    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    @property
    def devices(self) -> int:
        """Of the mesh."""
        return self.data * self.fsdp * self.tensor


class Axis(NamedTuple):
    """One size, and the points at which the step is measured.

    Attributes:
      name: of the axis in files and on the command line.
      title: with its symbol.
      points: in ascending order.
    """

    name: str
    title: str
    points: tuple[Sizes, ...]

    def value(self, sizes: Sizes) -> int:
        """Where a point lies on this axis."""
        return sizes.devices if self.name in DEVICE_AXES else getattr(sizes, _FIELDS[self.name])


DEVICE_AXES = ("data", "fsdp", "tensor")
_FIELDS = {
    "batch": "prompts",
    "accumulated": "prompts",
    "group": "group",
    "prompt": "prompt",
    "completion": "completion",
    "vocabulary": "vocabulary",
    "layers": "layers",
}


def _doubled(first: int, last: int) -> list[int]:
    return [first << i for i in range((last // first).bit_length())]


def _axis(name: str, title: str, field: str, first: int, last: int) -> Axis:
    return Axis(name, title, tuple(Sizes(**{field: value}) for value in _doubled(first, last)))


def _devices(name: str) -> Axis:
    # Eight prompts at every point, which eight devices can share: the whole work stays the same.
    points = tuple(Sizes(prompts=8, **{name: count}) for count in _doubled(1, 8))
    return Axis(name, f"devices along {name}", points)


AXES = (
    _axis("batch", "prompts P", "prompts", 1, 32),
    Axis(
        "accumulated",
        "prompts P, in microbatches of one",
        tuple(Sizes(prompts=count, microbatches=count) for count in _doubled(1, 32)),
    ),
    _axis("group", "group size G", "group", 2, 64),
    _axis("prompt", "prompt length S", "prompt", 32, 1024),
    _axis("completion", "completion length T", "completion", 16, 512),
    _axis("vocabulary", "vocabulary V", "vocabulary", 1024, 32768),
    _axis("layers", "layers L", "layers", 1, 16),
    *(_devices(name) for name in DEVICE_AXES),
)
