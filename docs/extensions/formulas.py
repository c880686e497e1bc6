"""Formulas as MathML, which browsers render by themselves: no script, no fonts, no network.

Within a line the derivation writes z_c, e^{z_c} and the like as text: their indices are set as such.
"""

import re

from docutils import nodes
from docutils.utils.math import latex2mathml

# docutils sets an index of a letter with an accent below the letter: here letter and accent are one.
_LETTER, _TILDE = r"\s*<mi>(\w)</mi>\s*", r"\s*<mo[^>]*>~</mo>\s*"
_ONE = '<mi mathvariant="italic">\\1\u0303</mi>'
TILDES = (
    (re.compile(rf"<munderover>{_LETTER}<mi>(\w)</mi>{_TILDE}</munderover>"), f"<msub>{_ONE}<mi>\\2</mi></msub>"),
    (re.compile(rf"<mover[^>]*>{_LETTER}{_TILDE}</mover>"), _ONE),
)


def mathml(latex: str, block: bool) -> str:
    """The formula as an element <math>; docutils knows the LaTeX that is used here."""
    text = latex2mathml.tex2mathml(latex.strip(), as_block=block)
    for pattern, instead in TILDES:
        text = pattern.sub(instead, text)
    return text.replace("<math ", f'<math alttext="{_escaped(latex)}" ', 1)


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


# A letter, with its tilde, that has an index or a power; or a sum over what stands below it.
INDEXED = re.compile(r"([A-Za-zα-ωΑ-ΩΣ∂)]\u0303?)([_^])(\{(?:[^{}]|\{[^{}]*\})*\}|[A-Za-zα-ω]{1,2}(?![A-Za-z])|\d)")
PAGES = {"derivation"}


def set_indices(app, doctree, docname):
    """Indices and powers in the text of those pages."""
    if docname in PAGES:
        for text in list(doctree.findall(nodes.Text)):
            if not isinstance(text.parent, (nodes.literal, nodes.math, nodes.math_block)):
                parts = indexed(text.astext())
                if len(parts) > 1:
                    text.parent.replace(text, parts)


def indexed(text: str) -> list[nodes.Node]:
    """The text as nodes, of which some are indices."""
    found, last = [], 0
    for part in INDEXED.finditer(text):
        kind = nodes.subscript if part[2] == "_" else nodes.superscript
        inside = part[3].removeprefix("{").removesuffix("}")
        found += [nodes.Text(text[last : part.end(1)]), kind("", "", *indexed(inside))]
        last = part.end()
    return [*found, nodes.Text(text[last:])] if text[last:] or not found else found


def setup(app):
    """Take part in a build."""
    app.connect("doctree-resolved", set_indices)
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.config.html_math_renderer = "mathml"
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
