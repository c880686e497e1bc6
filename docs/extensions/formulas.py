"""Formulas as MathML, which browsers render by themselves: no script, no fonts, no network."""

import re

from docutils import nodes
from docutils.utils.math import latex2mathml


def mathml(latex: str, block: bool) -> str:
    """The formula as an element <math>; docutils knows the LaTeX that is used here."""
    return latex2mathml.tex2mathml(latex.strip(), as_block=block).replace(
        "<math ", f'<math alttext="{_escaped(latex)}" ', 1
    )


def _escaped(latex: str) -> str:
    text = re.sub(r"\s+", " ", latex.strip())
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(character, entity)
    return text


def visit_inline(self, node):
    """A formula within a line."""
    self.body.append(mathml(node.astext(), block=False))
    raise nodes.SkipNode


def visit_block(self, node):
    """One of its own."""
    self.body.append(f'<div class="math" tabindex="0">{mathml(node.astext(), block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app):
    """Take part in a build."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.config.html_math_renderer = "mathml"
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
