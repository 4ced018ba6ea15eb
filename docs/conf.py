"""Sphinx: `make docs` builds the site in build/docs, with warnings as errors and without a network."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pyranet_fast

project = "pyranet_fast"
author = "The pyranet_fast authors"
copyright = "the authors, Apache-2.0"
release = version = pyranet_fast.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["ablation/*/table.md", "photos/table.md"]
myst_heading_anchors = 4  # formulas are plain text: MathJax would be fetched
suppress_warnings = ["myst.xref_missing"]  # links out of docs/; tests/test_docs.py follows them
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_numpy_docstring = False
copybutton_exclude = ".linenos, .gp"

html_theme = "furo"
html_title = f"pyranet_fast {release}"
