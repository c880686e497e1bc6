"""Links from pages to the source: a file that is named in code leads to a page with its lines.

`path` leads to the file, in "code: `path`: `line`" the line leads to itself, and a link to a file of the repository
leads to the page that shows it: one of the site's own, where there is one.
"""

import posixpath
import re
from pathlib import Path

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound
from sphinx.util.docutils import SphinxRole

ROOT = Path(__file__).parent.parent.parent
FOLDER = "source"
# Pages of the site that show a file from outside of docs/.
SHOWN = {
    "README.md": "index",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "kernels/README.md": "kernels",
    "examples/README.md": "examples",
}
SUFFIXES = {".py", ".pyx", ".pxi", ".c", ".h", ".md", ".json", ".toml", ".yml", ".yaml", ".cff", ".in", ""}
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|mailto:|#|/)([^)\s#]+)(#[^)\s]*)?\)")


def is_file(path: str) -> bool:
    """Whether that is a text file of the repository."""
    return bool(re.fullmatch(r"[\w./-]+", path)) and Path(path).suffix in SUFFIXES and (ROOT / path).is_file()


def shown_by(path: str) -> str | None:
    """The page of the site that shows a file."""
    if path in SHOWN:
        return SHOWN[path]
    if path.startswith("docs/") and path.endswith((".md", ".rst")):
        return path.removeprefix("docs/").rpartition(".")[0]
    return None


def resolved(text: str, folder: str) -> str:
    """A text in Markdown with its links to files as links to pages."""

    def link(found):
        words, target, anchor = found.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        page = shown_by(path)
        if page:
            return f"[{words}](/{page}{'.rst' if (ROOT / 'docs' / f'{page}.rst').exists() else '.md'}{anchor or ''})"
        if is_file(path):
            return f"{{source}}`{words} <{path}>`"
        return found[0]

    return LINK.sub(link, text)


def on_read(app, docname, content):
    """Of a page."""
    if Path(app.env.doc2path(docname)).suffix == ".md":
        content[0] = resolved(content[0], posixpath.dirname(f"docs/{docname}"))


def on_include(app, relative_path, parent_docname, content):
    """Of a file that a page includes."""
    path = (Path(app.srcdir) / relative_path).resolve().relative_to(ROOT)
    if path.suffix == ".md":
        content[0] = resolved(content[0], path.parent.as_posix() if path.parent.name else "")


class SourceRole(SphinxRole):
    """`words <path>`: the file, by those words."""

    def run(self):
        """Its nodes."""
        words, _, path = self.text.removesuffix(">").rpartition(" <")
        return [nodes.reference("", words.strip("`"), internal=True, refuri=f"{FOLDER}:{path}")], []


def line_of(path: str, line: str) -> int | None:
    """The number of the first line with that text."""
    for number, text in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
        if line in text:
            return number
    return None


def on_resolved(app, doctree, docname):
    """Literals that name files become links; all links get their addresses."""
    for literal in list(doctree.findall(nodes.literal)):
        path = literal.astext()
        inside = isinstance(literal.parent, (nodes.reference, nodes.title))
        if inside or "/" not in path or not is_file(path):
            continue
        line = literal.next_node(nodes.literal, descend=False, siblings=True) if _is_quote(literal) else None
        number = line and line_of(path, line.astext())
        _link(literal, f"{FOLDER}:{path}")
        if number:
            _link(line, f"{FOLDER}:{path}#L-{number}")
    for reference in doctree.findall(nodes.reference):
        uri = reference.get("refuri", "")
        if uri.startswith(f"{FOLDER}:"):
            path, _, anchor = uri.removeprefix(f"{FOLDER}:").partition("#")
            _named(app.env).setdefault(docname, set()).add(path)
            page = shown_by(path) if not anchor else None
            uri = app.builder.get_relative_uri(docname, page or page_of(path))
            reference["refuri"] = uri + (f"#{anchor}" if anchor else "")


def _is_quote(literal):
    return literal.parent.astext().startswith("code: ")


def _link(literal, uri):
    literal.replace_self(nodes.reference("", "", literal.deepcopy(), internal=True, refuri=uri))


def _named(env):
    if not hasattr(env, "named_sources"):
        env.named_sources = {}
    return env.named_sources


def page_of(path: str) -> str:
    """The page with a file's lines."""
    return f"{FOLDER}/{path}"


def pages(app):
    """A page for each file that is named somewhere."""
    if app.builder.format != "html":
        return
    formatter = HtmlFormatter(lineanchors="L", linenos="inline", cssclass="highlight")
    for path in sorted({path for paths in _named(app.env).values() for path in paths if not shown_by(path)}):
        text = (ROOT / path).read_text(encoding="utf-8")
        try:
            lexer = get_lexer_for_filename(path)
        except ClassNotFound:
            lexer = TextLexer()
        body = f"<h1><code>{path}</code></h1>\n{highlight(text, lexer, formatter)}".replace(
            "<pre>", '<pre tabindex="0">', 1
        )
        yield page_of(path), {"title": path, "body": body, "parents": []}, "page.html"


def setup(app):
    """Take part in a build."""
    app.add_role("source", SourceRole())
    app.connect("source-read", on_read)
    app.connect("include-read", on_include)
    app.connect("doctree-resolved", on_resolved)
    app.connect("html-collect-pages", pages)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": False}
