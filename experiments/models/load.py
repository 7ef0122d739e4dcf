"""One way in to every kind of stored model."""

from pathlib import Path

from experiments.models import gguf, huggingface


def load_model(path, **overrides):
    """Reads a model from a GGUF file or from a directory in the Hugging Face style.

    Args:
      path: of the file or the directory; "~" is the home directory.
      **overrides: fields of ModelConfig to set, such as dtype, remat or max_positions.

    Returns:
      (ModelConfig, params), the parameters in numpy float32.

    Raises:
      FileNotFoundError: there is nothing at `path`, or a file is missing in the directory.
      ValueError: what is there is no model that we support.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return huggingface.load(path, **overrides)
    if path.is_file():
        return gguf.load(path, **overrides)
    raise FileNotFoundError(
        f"no model at {path}: it must be a GGUF file (`make smollm2` fetches one) or a directory "
        "with config.json and model.safetensors"
    )
