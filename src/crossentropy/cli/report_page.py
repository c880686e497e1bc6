"""report.html: what was read, trained and found, in one file with its pictures inside, readable on a phone."""

from __future__ import annotations

import base64
import html
import io
import warnings

from . import scores as scoring

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1c2733;max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.15rem;margin-top:2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #dde3ea;vertical-align:top}
th:first-child,td:first-child{text-align:left}th{font-weight:600;vertical-align:bottom}
.wide td:first-child,.wide th:first-child{position:sticky;left:0;background:#fff}
.words td{text-align:left}.words th{text-align:left}
img{max-width:100%;height:auto}.note{background:#fff4e0;border-left:4px solid #d9701a;padding:.5rem .8rem}
.figures{display:flex;flex-wrap:wrap;gap:1rem 2rem;margin:1rem 0}.figures div{min-width:6rem}
.figures b{display:block;font-size:1.6rem;line-height:1.2}
code,pre{background:#f2f5f8;font-size:.85rem}pre{padding:.7rem;overflow-x:auto}
"""


def png(figure) -> bytes:
    """A picture as the bytes of its file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # a letter that no font here has is an empty box
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def page(*, title, scores, notes, columns, said, settings, pictures, training_counts=None, on="test") -> str:
    """The page as text; ``pictures`` are (caption, PNG) pairs, ``settings`` (name, value) pairs."""
    figures = [
        ("accuracy", f"{scores.accuracy:.4f}"),
        (f"{on} loss, nats", f"{scores.loss:.4f}"),
        ("always the most frequent class", f"{scores.most_frequent:.4f}"),
        ("calibration error", f"{scores.calibration_error:.4f}"),
    ]
    skip = training_counts is None
    headings = ["class", *scoring.COUNTS[skip:], *scoring.RATES]
    rows = [[name, *counts[skip:], *rates] for name, counts, rates in scoring.rows(scores, training_counts)]
    parts = [
        f"<h1>{_e(title)}</h1>",
        '<div class="figures">'
        + "".join(f"<div><b>{_e(value)}</b>{_e(name)}</div>" for name, value in figures)
        + "</div>",
        *(f'<p class="note">{_e(note)}</p>' for note in notes),
        *(
            f"<p>{_e(line.replace(' ' * 4 + '(', ' (').replace(' ' * 4, ' · '))}</p>"
            for line in scoring.lines(scores, on)
        ),
    ]
    for caption, picture in pictures:
        data = base64.b64encode(picture).decode()
        parts.append(f'<h2>{_e(caption)}</h2><img alt="{_e(caption)}" src="data:image/png;base64,{data}">')
    parts += [f"<h2>Classes</h2>{_table(headings, rows)}"]
    if columns:
        taken = [[each.name, each.kind or "left out", str(each.missing or ""), each.note] for each in columns]
        table = _table(["column", "taken as", "missing", ""], taken, "words")
        if len(taken) > 30:
            table = f"<details><summary>all {len(taken)} columns</summary>{table}</details>"
        parts.append(f"<h2>Columns</h2><p>{_e(said)}</p>{table}")
    parts.append("<h2>Settings</h2>" + _table(["", ""], [[name, _plain(value)] for name, value in settings], "words"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{_e(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _plain(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _e(text) -> str:
    return html.escape(str(text))


def _table(headings, rows, kind="") -> str:
    head = "".join(f"<th>{_e(heading)}</th>" for heading in headings) if any(headings) else ""
    body = "".join("<tr>" + "".join(f"<td>{_e(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
