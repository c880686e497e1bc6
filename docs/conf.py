"""What Sphinx is told: `python -m sphinx -W -b html docs docs/_build` builds the documentation site.

The extra `docs` has what it needs. A picture of every page, and an audit of it, is `docs/look.mjs`.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")  # whose losses are documented
sys.path.insert(0, str(Path(__file__).parent / "extensions"))

import crossentropy

project, author = "crossentropy", "The crossentropy developers"
project_copyright = "2026, The crossentropy developers"
version = release = crossentropy.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_copybutton",
    "formulas",
    "source_pages",
    "accuracy_table",
]
exclude_patterns = ["_build", "figures"]
default_role = "py:obj"
suppress_warnings = ["myst.header"]  # pages that are parts of others begin at their own level

myst_enable_extensions = ["colon_fence", "dollarmath", "fieldlist"]
myst_fence_as_directive = ["math"]  # as hosts of repositories render it, too
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say shapes and dtypes
autosummary_generate = False
numpydoc_show_class_members = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = f"crossentropy {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "crossentropy"},
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": []}


def bars_are_bars(app, what, name, obj, options, lines):
    """In docstrings |x| is an absolute value, and not what reStructuredText would put in its place."""
    lines[:] = [line if "``" in line else line.replace("|", "\\|") for line in lines]


def setup(app):
    """Take part in a build."""
    app.connect("autodoc-process-docstring", bars_are_bars)
