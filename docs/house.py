"""The map of the house in CONTRIBUTING.md: every source file with the sentence that it opens with.

python docs/house.py            # writes it
python docs/house.py --check    # exit code 1 if it is not up to date
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- map: begin -->", "<!-- map: end -->"
FOLDERS = ("src/crossentropy", "kernels", "tests", "benchmarks", "docs")
SUFFIXES = (".py", ".pyx", ".c", ".h")


def opening(path: Path) -> str:
    """The first sentence of a module's docstring, or of the comment that a C file opens with."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        words = ast.get_docstring(ast.parse(text)) or ""
    else:
        found = re.match(r'(?:# .*\n)*(?:/\*(.*?)\*/|"""(.*?)""")', text, re.DOTALL)  # .pyx: after its directives
        words = (found[1] or found[2]).replace("\n *", "\n") if found else ""
    words = " ".join(words.split("\n\n")[0].split())  # of its first paragraph
    if not words and path.with_suffix(".h").exists():
        return f"What `{path.stem}.h` declares."
    sentence = re.match(r"(.*?\.)(?= |$)", words)
    return sentence[1] if sentence else words


def rooms(folder: Path, depth: int = 0) -> list[str]:
    """The lines of a folder: its files, then its folders."""
    indent = "  " * depth
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    lines = [f"{indent}- `{path.name}`: {opening(path)}" for path in files if path.stat().st_size]
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"):
        below = rooms(inner, depth + 1)
        if below:
            lines += [f"{indent}- `{inner.name}/`", *below]
    return lines


def section() -> str:
    """What stands between the two marks."""
    lines = [BEGIN]
    for folder in FOLDERS:
        lines += [f"- `{folder}/`", *rooms(ROOT / folder, 1)]
    return "\n".join([*lines, END])


def main() -> None:
    """Write the map, or say whether it is up to date."""
    page = PAGE.read_text(encoding="utf-8")
    new = page[: page.index(BEGIN)] + section() + page[page.index(END) + len(END) :]
    if "--check" in sys.argv[1:]:
        sys.exit(0 if new == page else "CONTRIBUTING.md: the map is not up to date: python docs/house.py")
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
