"""The pieces of work that are timed, as plain numbers: all that an implementation is told.

Imports nothing but the standard library, since the peers' environments have little else.
"""

from typing import NamedTuple


class Shape(NamedTuple):
    """Sizes of a Llama with a tied head.

    Attributes:
      layers: L.
      width: D.
      heads: of queries.
      kv_heads: of keys and values.
      hidden: width of the SwiGLU.
      vocabulary: V.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int


SHAPES = {
    "smollm2": Shape(30, 576, 9, 3, 1536, 49152),
    "tiny": Shape(4, 128, 4, 4, 512, 64),
}


class Work(NamedTuple):
    """One row of the table.

    Attributes:
      name: of the row, as --only takes it.
      kind: "product", "rollout", "update", "head" or "step".
      shape: of the model.
      prompts: distinct prompts.
      group: completions of each.
      prompt: tokens of each.
      completion: tokens of each; no completion ends early.
      steps: of one repetition, one after another.
      keeps: config.model.remat_keeps of ours.
    """

    name: str
    kind: str
    shape: Shape
    prompts: int
    group: int
    prompt: int
    completion: int
    steps: int = 1
    keeps: str = "nothing"

    @property
    def sequences(self) -> int:
        """Completions in all."""
        return self.prompts * self.group

    @property
    def unit(self) -> str:
        """What the table gives: seconds of a step for "step", else a rate."""
        return {"product": "GFLOP/s", "step": "s"}.get(self.kind, "tokens/s")

    @property
    def amount(self) -> float:
        """What one step gets done, in the unit's numerator; 1 for seconds.

        A rollout counts its new tokens, an update all tokens of all sequences.
        """
        if self.kind == "product":
            return 2 * self.prompt**3 / 1e9
        if self.kind == "step":
            return 1
        new = self.completion if self.kind == "rollout" else self.prompt + self.completion
        return self.sequences * new

    @property
    def peers_work(self) -> "Work":
        """The same for an implementation that shares nothing within a group: distinct prompts."""
        if self.kind == "step":
            return self
        name = self.name.removesuffix("_kept").removesuffix("_grouped")
        return self._replace(name=name, prompts=self.sequences, group=1, keeps="nothing")

    def title(self) -> str:
        """How the table calls it."""
        model = next((name for name, sizes in SHAPES.items() if sizes == self.shape), "model")
        model = {"smollm2": "SmolLM2-135M shape", "tiny": "tiny"}.get(model, model)
        group = f"{self.prompts} prompts"
        if self.group > 1:
            group += f" x {self.group} rollouts"
        tokens = f"{self.prompt} + {self.completion} tokens"
        match self.kind:
            case "product":
                return f"matrix product, {self.prompt} x {self.prompt}"
            case "head":
                return f"head, {model}, {self.sequences * tokens_of(self)} tokens"
            case "rollout":
                return f"rollout, {model}, {group}, {tokens}"
            case "update":
                kept = "" if self.keeps == "nothing" else f", {self.keeps} kept"
                return f"policy-gradient step, {model}, {group}, {tokens}{kept}"
        return f"whole RL step, {model}, {group}, {tokens}"


def tokens_of(work: Work) -> int:
    """Tokens of one sequence, prompt included."""
    return work.prompt + work.completion


def from_json(fields: dict) -> Work:
    """The inverse of `Work._asdict` and JSON."""
    return Work(**{**fields, "shape": Shape(*fields["shape"])})


def _family(
    kind: str, shape: str, sequences: int, prompt: int, completion: int
) -> tuple[Work, ...]:
    name, sizes = f"{kind}_{shape}", SHAPES[shape]
    distinct = Work(name, kind, sizes, sequences, 1, prompt, completion)
    grouped = distinct._replace(name=f"{name}_grouped", prompts=sequences // 8, group=8)
    if kind != "update":
        return distinct, grouped
    kept = tuple(w._replace(name=f"{w.name}_kept", keeps="products") for w in (distinct, grouped))
    return distinct, kept[0], grouped, kept[1]


WORKS = (
    Work("product", "product", SHAPES["tiny"], 1, 1, 2048, 0),
    *_family("rollout", "smollm2", 32, 32, 64),
    *_family("rollout", "tiny", 32, 32, 64),
    *_family("update", "smollm2", 16, 32, 96),
    *_family("update", "tiny", 16, 32, 96),
    Work("head", "head", SHAPES["smollm2"], 16, 1, 32, 96),
    Work("step_tiny", "step", SHAPES["tiny"], 8, 8, 16, 16, steps=5),
)
SWEEP = "sweep"  # beside these, with a table of its own: experiments.benchmarks.sweep
