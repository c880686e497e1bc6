"""Every link of the built site leads to a page that is there, and to a place on it: `docs/check_links.py [SITE]`.

With no network: addresses of other sites are counted, and looked at for their form alone. Pages, links and what is
wrong with them are printed; the exit code is 1 where something is.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

SITE = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "_build").resolve()


class Page(HTMLParser):
    """The links of a page, its pictures and scripts among them, and the places on it that a link can lead to."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.places, self.unnamed = [], set(), 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        """Of each element."""
        given = dict(attrs)
        self.places.update(given[name] for name in ("id", "name") if given.get(name))
        self.links += [given[name] for name in ("href", "src") if given.get(name)]
        self.unnamed += tag == "img" and "alt" not in given


def main() -> int:
    """Look at each link of each page."""
    paths = sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts)
    pages = {path: Page(path) for path in paths}
    inner = outer = 0
    wrong = []
    for path, page in pages.items():
        name = path.relative_to(SITE)
        wrong += [f"{name}: a picture without words"] * page.unnamed
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                outer += 1
                if parts.scheme not in ("https", "mailto", "data") or (parts.scheme == "https" and not parts.netloc):
                    wrong.append(f"{name}: {link}")
                continue
            inner += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                wrong.append(f"{name}: no {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                wrong.append(f"{name}: no such place as {link}")
    print(f"{len(pages)} pages, {inner} links within the site, {outer} to others", *dict.fromkeys(wrong), sep="\n")
    if len(pages) < 20 or not inner:
        print(f"{SITE} holds no site: python -m sphinx -W -b html docs docs/_build")
        return 1
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
