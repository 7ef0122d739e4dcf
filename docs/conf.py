"""Configuration of the site, which `make docs` builds of pages, notebooks and docstrings.

The source directory is the repository's root, so that a link between pages, notebooks and README is
the same here and on GitHub.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "site")]

import fade_jax  # noqa: E402

project = "fade_jax"
author = "the fade_jax maintainers"
project_copyright = f"{author}, Apache-2.0"
version = release = fade_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_book_theme",
    "sphinx_copybutton",
    "sphinx_design",
    "docstrings",
    "mass_pictures",
]
root_doc = "docs/site/index"
include_patterns = ["docs/**", "notebooks/*.ipynb", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
# Pruned before they are searched.
exclude_patterns = [".*", "build", "dist", "runs", "**/runs"]

# Pages
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
myst_dmath_double_inline = True

# Notebooks: each in a folder below the repository, where their first cell finds it.
FAST = os.environ.setdefault("FADE_FAST", "1") == "1"
os.environ.setdefault("FADE_PICTURES", str(BUILD / "notebooks" / "pictures"))
nb_execution_mode = "cache"
nb_execution_cache_path = str(BUILD / "notebooks" / ("cache_fast" if FAST else "cache"))
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 3600
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars
tempfile.tempdir = str(BUILD / "notebooks")
Path(tempfile.tempdir).mkdir(parents=True, exist_ok=True)

# Reference
default_role = "code_or_link"  # of docstrings.py
autodoc_typehints = "none"  # shapes and units are in the docstrings
autodoc_member_order = "bysource"
autodoc_mock_imports = ["torch", "transformers", "trl", "tunix", "verl"]
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False
python_maximum_signature_line_length = 120
add_module_names = False
toc_object_entries_show_parents = "hide"
doctest_global_setup = """
import jax.numpy as jnp
import optax
import fade_jax
"""

# Links
nitpicky = True
linkcheck_timeout = 20
linkcheck_ignore = [r"https://colab\.research\.google\.com/github/OWNER/.*"]  # a placeholder

# Look
html_theme = "sphinx_book_theme"
html_title = "fade_jax"
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_last_updated_fmt = ""
html_theme_options = {
    "home_page_in_toc": False,
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
if FAST:
    html_theme_options["announcement"] = (
        "A preview: its notebooks ran in their quick mode, a few steps each."
    )
EXPLORER = BUILD / "explorer"


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Puts the explorer beside the pages, and a way from the site's root to the first page."""
    if exception or app.builder.name != "html":
        return
    if EXPLORER.exists():
        shutil.copytree(EXPLORER, Path(app.outdir) / "explorer", dirs_exist_ok=True)
    page = f"{root_doc}.html"
    (Path(app.outdir) / "index.html").write_text(
        f'<!doctype html><meta charset="utf-8"><title>{project}</title>'
        f'<meta http-equiv="refresh" content="0; url={page}"><a href="{page}">{project}</a>\n'
    )


def setup(app: Sphinx) -> None:
    """Connects `finish`, and sets the tag `explorer` if there is one."""
    if EXPLORER.exists():
        app.tags.add("explorer")
    app.connect("build-finished", finish)
