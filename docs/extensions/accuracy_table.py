"""The directive `accuracy-table`: the contract beside the worst rows of a sweep, from docs/accuracy.json."""

import json
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

FILE = Path(__file__).parent.parent / "accuracy.json"
RESULTS = {"loss": "loss", "log_softmax": "log-softmax", "grad": "gradient"}
ORDER = ("float32", "float64", "bfloat16", "float16")


def cells(document: dict) -> list[list[str]]:
    """The heading and the lines of the table, as text."""
    settings = list(document["records"][0]["errors"])
    lines = [["logits", "result", "contract", *settings, "the worst row"]]
    for r in sorted(document["records"], key=lambda r: ORDER.index(r["dtype"])):
        errors = [f"{r['errors'][name]:.3g}" for name in settings]
        row = f"{r['worst_on']}: {r['classes']} classes, a loss of {r['loss']:.3g}"
        lines.append([r["dtype"], RESULTS[r["what"]], f"{r['limit']:g}", *errors, row])
    return lines


class AccuracyTable(SphinxDirective):
    """Of ulps."""

    def run(self):
        """Its nodes."""
        self.env.note_dependency(str(FILE))
        document = json.loads(FILE.read_text(encoding="utf-8"))
        text = (
            f"{document['rows']} rows of each type, crossentropy {document['version']}, {document['cpu']}, "
            f"{document['date']}: python benchmarks/accuracy.py"
        )
        head, *lines = cells(document)
        group = nodes.tgroup(cols=len(head))
        group += [nodes.colspec(colwidth=1) for _ in head]
        group += nodes.thead("", _row(head))
        group += nodes.tbody("", *map(_row, lines))
        return [nodes.table("", nodes.title("", text), group, classes=["accuracy"])]


def _row(texts):
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", text)) for text in texts))


def setup(app):
    """Take part in a build."""
    app.add_directive("accuracy-table", AccuracyTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
