"""Sizes and switches of a decoder-only transformer: Llama, SmolLM2, Qwen2/2.5 and Qwen3."""

import json
import math
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROPE_SCALINGS = ("linear", "llama3", "yarn")
_DTYPES = ("float32", "bfloat16")
_REMAT_KEEPS = ("nothing", "products")
_ATTENTIONS = ("auto", "plain", "blocks", "cudnn", "pallas")


@contextmanager
def reading(path):
    """Turns whatever a damaged file leads to into a ValueError of one line that names the file."""
    try:
        yield
    except OSError:  # names its file
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if isinstance(error, ValueError) and str(path) in text:
            raise
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(f"{path} cannot be read: {kind}{text}") from error


def read_json(path):
    """Reads a file that holds one JSON object.

    Raises:
      ValueError: if it holds anything else.
    """
    with reading(path):
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it must be a JSON object; got {str(value)[:100]!r}")
    return value


def _is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


@dataclass(frozen=True)
class RopeScaling:
    """Stretches rotary frequencies beyond the context of the original training.

    It holds at every length, as in transformers: YaRN changes short prompts a little too.

    Args:
      kind: "linear" divides every frequency by `factor`; "llama3" divides the frequencies with
        wavelengths above `original_max_positions / low_freq_factor`, keeps those with wavelengths
        below `original_max_positions / high_freq_factor`, and blends in between; "yarn" does so
        between the pairs that turn `beta_slow` and `beta_fast` times in the original context, and
        scales cosines and sines (arXiv:2309.00071).
      factor: at least 1.
      low_freq_factor: llama3 only.
      high_freq_factor: llama3 only, greater than `low_freq_factor`.
      original_max_positions: llama3 and yarn, the context of the original training, in tokens.
      beta_fast: yarn only, in turns.
      beta_slow: yarn only, at most `beta_fast`.
      attention_factor: yarn only, of cosines and sines; None for 0.1 ln(factor) + 1.
      truncate: yarn only, whether the ends of the blend are rounded outwards to whole pairs.

    Raises:
      ValueError: a value is invalid; the message names it.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self):
        _require(self, "kind", self.kind in _ROPE_SCALINGS, f"one of {_ROPE_SCALINGS}")
        for field in (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_positions",
            "beta_fast",
            "beta_slow",
        ):
            _require(self, field, _is_number(getattr(self, field)), "a finite number")
        _require(self, "factor", self.factor >= 1, "at least 1")
        _require(self, "low_freq_factor", self.low_freq_factor > 0, "positive")
        _require(
            self,
            "high_freq_factor",
            self.high_freq_factor > self.low_freq_factor,
            f"greater than low_freq_factor, {self.low_freq_factor}",
        )
        _require(self, "original_max_positions", self.original_max_positions > 0, "positive")
        _require(self, "beta_slow", self.beta_slow > 0, "positive")
        _require(
            self,
            "beta_fast",
            self.beta_fast >= self.beta_slow,
            f"at least beta_slow, {self.beta_slow}",
        )
        scale = self.attention_factor
        positive = scale is None or (_is_number(scale) and scale > 0)
        _require(self, "attention_factor", positive, "None or a positive number")
        _require(self, "truncate", isinstance(self.truncate, bool), "True or False")


def scaled_context(max_positions, scaling):
    """Returns the longest context, in tokens, of a model whose files say `max_positions`.

    With YaRN it is the original context times the factor, as in vLLM: files say the context before
    scaling (Qwen2.5) or after it. transformers limits no length.
    """
    if scaling is None or scaling.kind != "yarn":
        return max_positions
    return int(scaling.original_max_positions * scaling.factor)


@dataclass(frozen=True)
class ModelConfig:
    """A model's sizes; hashable, so that it can be a static argument of a jitted function.

    Args:
      vocab_size: V, rows of the embedding.
      num_layers: L.
      d_model: D, width of the residual stream.
      num_heads: query heads, a multiple of `num_kv_heads`.
      num_kv_heads: heads of keys and values; each is shared by num_heads / num_kv_heads queries.
      head_dim: width of a head, even (rotary embeddings rotate pairs).
      d_ff: width of the SwiGLU.
      rope_theta: base of the rotary wavelengths.
      rope_scaling: None, or a RopeScaling.
      norm_eps: added to the mean square in RMSNorm.
      tied_head: whether the unembedding is the embedding.
      qkv_bias: whether queries, keys and values have biases (Qwen2).
      qk_norm: whether RMSNorm is applied to each head of queries and keys, before the rotation
        (Qwen3).
      max_positions: longest prompt plus completion, in tokens.
      dtype: of activations and matmuls, "float32" or "bfloat16". Parameters, norms and the softmax
        are float32 in both.
      remat: recompute each layer in the backward pass instead of keeping its activations. On a CPU
        this is no slower, since it saves memory traffic.
      remat_keeps: what remat keeps: "nothing", or "products", a layer's matmuls with its weights.
      attention: of passes over many tokens: "plain"; "blocks", "cudnn" or "pallas", which hold no
        scores of all tokens with all; or "auto" (models.attention).

    Raises:
      ValueError: a value is invalid; the message names the field, its value and what is allowed.
    """

    vocab_size: int
    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tied_head: bool = True
    qkv_bias: bool = False
    qk_norm: bool = False
    max_positions: int = 2048
    dtype: str = "float32"
    remat: bool = False
    remat_keeps: str = "nothing"
    attention: str = "auto"

    def __post_init__(self):
        for field in (
            "vocab_size",
            "num_layers",
            "d_model",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "d_ff",
            "max_positions",
        ):
            value = getattr(self, field)
            whole = isinstance(value, int) and not isinstance(value, bool)
            _require(self, field, whole and value > 0, "a positive whole number")
            _require(self, field, value < 2**31, "less than 2^31")
        _require(self, "num_layers", self.num_layers <= 4096, "at most 4096")
        _require(self, "head_dim", self.head_dim % 2 == 0, "even")
        _require(
            self,
            "num_heads",
            self.num_heads % self.num_kv_heads == 0,
            f"a multiple of num_kv_heads, {self.num_kv_heads}",
        )
        for field in ("rope_theta", "norm_eps"):
            _require(self, field, _is_number(getattr(self, field)), "a finite number")
        for field in ("tied_head", "qkv_bias", "qk_norm", "remat"):
            _require(self, field, isinstance(getattr(self, field), bool), "True or False")
        _require(self, "rope_theta", self.rope_theta > 0, "positive")
        scaling = self.rope_scaling
        known = scaling is None or isinstance(scaling, RopeScaling)
        _require(self, "rope_scaling", known, "None or a RopeScaling")
        is_yarn = scaling is not None and scaling.kind == "yarn"
        _require(self, "rope_theta", not is_yarn or self.rope_theta > 1, "greater than 1 for yarn")
        _require(self, "norm_eps", self.norm_eps > 0, "positive")
        _require(self, "dtype", self.dtype in _DTYPES, f"one of {_DTYPES}")
        keeps = self.remat_keeps in _REMAT_KEEPS
        _require(self, "remat_keeps", keeps, f"one of {_REMAT_KEEPS}")
        _require(self, "attention", self.attention in _ATTENTIONS, f"one of {_ATTENTIONS}")


def _require(config, field, holds, allowed):
    if not holds:
        name = type(config).__name__
        raise ValueError(f"{name}.{field} must be {allowed}; got {getattr(config, field)!r}")
