"""The picture of who holds what, where a row's classes lie in several places: `docs/who_holds_what.py` writes it."""

import sys
from pathlib import Path

FIGURE = Path(__file__).parent / "figures" / "who_holds_what.svg"
HOLDERS = ("one process", "another", "a third")
CLASSES = ("classes 0 to 15999", "16000 to 31999", "32000 to 50256")
WIDTH, HEIGHT, EACH, LEFT = 760, 392, 236, 38
INK, PALE, LOGITS, GRADIENT, NUMBERS = "#24313f", "#6b7785", "#cfe0f2", "#d5ead3", "#f7dfb6"


def box(x, y, width, height, fill, label, note=""):
    """A rectangle with its name, and a smaller line under that."""
    middle, at = x + width / 2, y + height / 2 + (-3 if note else 5)
    lines = [f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="{fill}" stroke="{INK}"/>']
    lines.append(f'<text x="{middle}" y="{at}" text-anchor="middle">{label}</text>')
    if note:
        lines.append(f'<text x="{middle}" y="{at + 17}" text-anchor="middle" class="note">{note}</text>')
    return lines


def arrow(x, y, to_x, to_y):
    """A line that ends in a head."""
    return [f'<path d="M {x} {y} L {to_x} {to_y}" stroke="{INK}" fill="none" marker-end="url(#head)"/>']


def picture():
    """The SVG as text."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="14" fill="{INK}">',
        f"<style>.note {{ font-size: 12px; fill: {PALE} }}</style>",
        f'<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M 0 0 L 8 4 L 0 8 z" fill="{INK}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    together = WIDTH / 2
    for k, (holder, classes) in enumerate(zip(HOLDERS, CLASSES, strict=True)):
        x = LEFT + k * EACH
        middle = x + (EACH - 24) / 2
        lines.append(f'<text x="{middle}" y="22" text-anchor="middle" font-weight="bold">{holder}</text>')
        lines += box(x, 34, EACH - 24, 78, LOGITS, "its logits, N rows", f"{classes}: they stay")
        lines += arrow(middle, 112, middle, 138)
        lines += box(x + 26, 138, EACH - 76, 42, NUMBERS, "a few numbers a row", "by one pass: chunk")
        lines += arrow(middle, 180, together + (k - 1) * 60, 214)
        lines += arrow(together + (k - 1) * 60, 260, middle, 300)
        lines += box(x, 300, EACH - 24, 78, GRADIENT, "its gradient", "from its logits again: gradient")
    lines += box(
        together - 150, 214, 300, 46, NUMBERS, "the numbers of all blocks", "what travels: combine; losses: aggregate"
    )
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(FIGURE.read_text(encoding="utf-8") != picture())
    FIGURE.write_text(picture(), encoding="utf-8")
