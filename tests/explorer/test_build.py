"""The built page: one file, small, that names nothing outside itself."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from explorer import build


def test_page_is_one_small_file():
    page = build.page()
    assert len(page.encode()) <= 150_000
    assert not re.search(r"\b(src|srcset)=|url\(|@import", page)
    assert re.findall(r'<link [^>]*href="([^"]*)"', page) == ["data:,"]
    assert "default-src 'none'" in page
    assert not re.search(r"^(import|export)\b", page, flags=re.M)
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|sendBeacon)\(", page)


def test_main_writes_the_page(tmp_path):
    here = Path(build.__file__)
    (tmp_path / "explorer").mkdir()
    for path in here.parent.iterdir():
        if path.is_file():
            (tmp_path / "explorer" / path.name).write_bytes(path.read_bytes())
    subprocess.run([sys.executable, tmp_path / "explorer" / "build.py"], check=True)
    assert (tmp_path / "build" / "explorer" / "index.html").read_text() == build.page()


def test_module_refuses_what_it_cannot_inline(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "HERE", tmp_path)
    (tmp_path / "weights.js").write_text('import thing from "elsewhere";\n')
    with pytest.raises(ValueError, match=r"explorer/weights\.js .*elsewhere"):
        build.module("weights")


def test_main_refuses_a_large_page(monkeypatch):
    monkeypatch.setattr(build, "LARGEST", 1000)
    with pytest.raises(SystemExit, match="at most 1000"):
        build.main()
