import subprocess
import sys
from pathlib import Path

import pytest

from experiments.models.load import load_model

FIXTURES = Path(__file__).parent / "fixtures"


def test_missing_path_says_how_to_get_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model at .*nowhere.gguf: .*`make smollm2`"):
        load_model(tmp_path / "nowhere.gguf")


def test_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", str(FIXTURES))
    config, _ = load_model("~/qwen3", remat=True)
    assert config.qk_norm
    assert config.remat


def test_readers_are_imported_when_they_are_used():
    code = (
        "import sys, experiments.models.load, experiments.models.tokenizer\n"
        "print(sorted({'gguf', 'tokenizers', 'safetensors', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
