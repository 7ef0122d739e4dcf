"""Writes LoRA adapters for peft: adapter_config.json and adapter_model.safetensors."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.models import huggingface


def save(
    directory: Path,
    adapters,
    *,
    alpha: float,
    base: str,
    dtype: str = "float32",
) -> None:
    """Writes adapters that peft.PeftModel.from_pretrained reads.

    Args:
      directory: exists.
      adapters: as from lora.init, with at least one target.
      alpha: the products are scaled by alpha / rank.
      base: path or name of the model that they belong to.
      dtype: of the arrays, one of huggingface.SAVED_DTYPES.

    Raises:
      ValueError: if a number is too large for `dtype`.
    """
    tensors, modules = {}, []
    for name, adapter in adapters["layers"].items():
        modules.append(huggingface.stored_name(name, 0).split(".")[-2])
        # a [in, rank] and b [rank, out] of each layer; torch multiplies by the transposes.
        for part, letter in (("a", "A"), ("b", "B")):
            for layer, array in enumerate(np.asarray(adapter[part])):
                module = huggingface.stored_name(name, layer).removesuffix(".weight")
                stored = f"base_model.model.{module}.lora_{letter}.weight"
                array = huggingface.cast(stored, np.ascontiguousarray(array.T), dtype)
                tensors[stored] = array
    rank = next(iter(adapters["layers"].values()))["a"].shape[-1]
    huggingface.save_tensors(directory / "adapter_model.safetensors", tensors)
    settings = _settings(rank, alpha, modules, base)
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _settings(rank: int, alpha: float, modules: Sequence[str], base: str) -> dict:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "target_modules": list(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }
