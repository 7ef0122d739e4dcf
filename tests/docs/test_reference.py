"""The reference of the site: every public name once, and examples that are true."""

import doctest
import importlib
import inspect
import re
from collections import Counter
from pathlib import Path

import jax.numpy as jnp
import optax
import pytest

import fade_jax

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted((REPOSITORY / "docs" / "reference").glob("*.md"))
ENTRY = re.compile(r"^\.\. (?:auto|py:)\w+:: ([\w.]+)", re.MULTILINE)
# Their names are not in fade_jax, since they are asked for one by one.
ALONE = ("fade_jax.dynamics", "fade_jax.integrations.host")
# These import their framework: their names are read, not imported.
FRAMEWORKS = ("trl", "tunix", "verl")


def own_names(module):
    """Functions, classes and constants that a module defines."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }


def public_names():
    """Every public name of the library, by the shortest path."""
    names, modules = {"fade_jax", *ALONE}, [fade_jax, *map(importlib.import_module, ALONE)]
    while modules:
        module = modules.pop()
        for name in getattr(module, "__all__", own_names(module)):
            if module is fade_jax.advantages:  # all are in fade_jax itself
                continue
            value = getattr(module, name)
            names.add(f"{module.__name__}.{name}")
            if inspect.ismodule(value):
                modules.append(value)
    assert {f"fade_jax.{name}" for name in fade_jax.advantages.__all__} <= names
    return names


def framework_names():
    """Public names at the top of the modules that import a framework, and the modules."""
    names = set()
    for module in FRAMEWORKS:
        name = f"fade_jax.integrations.{module}"
        text = (REPOSITORY / f"{name.replace('.', '/')}.py").read_text()
        defined = re.findall(r"^(?:class|def) ([a-zA-Z]\w*)", text, re.MULTILINE)
        names |= {name, *(f"{name}.{each}" for each in defined)}
    return names


def test_reference_has_every_public_name_once():
    entries = Counter(name for page in PAGES for name in ENTRY.findall(page.read_text()))
    public = public_names() | framework_names()
    assert [name for name, count in entries.items() if count > 1] == []
    assert sorted(public - entries.keys()) == [], "add a line to a page of docs/reference"
    assert sorted(entries.keys() - public) == []


def examples():
    """The doctests of the public names."""
    finder = doctest.DocTestFinder(recurse=False)
    for name in sorted(public_names()):
        module, _, own = name.rpartition(".")
        value = getattr(importlib.import_module(module), own) if module else fade_jax
        if inspect.ismodule(value) or getattr(value, "__name__", own) != own:
            continue
        globs = {"fade_jax": fade_jax, "jnp": jnp, "optax": optax}
        for test in finder.find(value, name, globs=globs):
            lifted = (test.docstring or "").startswith("Lifts `")
            if test.examples and not lifted:
                yield pytest.param(test, id=name)


@pytest.mark.parametrize("test", list(examples()))
def test_example_of_reference_is_true(test):
    report = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


def test_every_page_of_docs_is_in_the_navigation():
    text = (REPOSITORY / "docs" / "site" / "index.md").read_text()
    listed = set(re.findall(r"\.\./(\w+)>?$", text, re.MULTILINE))
    assert {path.stem for path in (REPOSITORY / "docs").glob("*.md")} <= listed
