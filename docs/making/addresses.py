"""Where things are in the site, also those that the repository has outside `docs/`, and what would be elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Final

__all__ = ["EXAMPLES", "PAGES", "ROOT", "in_site", "remote_parts"]

ROOT: Final = Path(__file__).parents[2]

PAGES: Final = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "LICENSE": "license.txt",
}
"""Files outside `docs/`, by what they are in the site."""

EXAMPLES: Final = "examples.md"
"""The page that has all examples."""


# ==== links ====

_FENCE: Final = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(?<=\]\()([^)\s#]+)([^)\s]*)(?=\))")


def in_site(markdown: str, page: str) -> str:
    """The text of a page with links that lead to where things are in the site.

    Args:
        markdown: of the page.
        page: of the site, such as `index.md`.
    """
    source = next((path for path, copy in PAGES.items() if copy == page), join("docs", page))

    def moved(link: re.Match[str]) -> str:
        target = normpath(join(dirname(source), link[1]))
        place = None if ":" in link[1] else _place(target)
        return link[0] if place is None else relpath(place, dirname(page) or ".") + link[2]

    pieces = _FENCE.split(markdown)
    return "".join(piece if number % 2 else _LINK.sub(moved, piece) for number, piece in enumerate(pieces))


def _place(target: str) -> str | None:
    """Where a file of the repository is in the site."""
    folder, _, name = target.rpartition("/")
    if folder == "examples":
        return f"{EXAMPLES}#{name.replace('.', '')}"
    return PAGES.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)


# ==== what would come from elsewhere ====

_LOADED: Final = frozenset(("src", "srcset", "poster", "data", "background"))
_LOADED_BY: Final = frozenset(("link", "use", "image"))
"""Elements that load what they refer to."""
_REFERENCES: Final = frozenset(("href", "xlink:href"))
_REMOTE: Final = re.compile(r"\s*(https?:)?//", re.IGNORECASE)
_REMOTE_STYLE: Final = re.compile(r"(@import|url\()\s*(url\()?\s*[\"']?\s*(https?:)?//[^)\"'\s;]*", re.IGNORECASE)


def remote_parts(name: str, text: str) -> list[str]:
    """What a browser that opens a page, a picture or a style would fetch from another server.

    Args:
        name: of the file.
        text: of the file.
    """
    return _remote_in_style(text) if name.endswith(".css") else _Parts(text).remote


def _remote_in_style(style: str) -> list[str]:
    return [found[0] for found in _REMOTE_STYLE.finditer(style)]


class _Parts(HTMLParser):
    """Reads HTML or SVG."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.remote: list[str] = []
        self._is_style = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_style = tag == "style"
        self.remote += _remote_attributes(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        self._is_style = False

    def handle_data(self, data: str) -> None:
        if self._is_style:
            self.remote += _remote_in_style(data)


def _remote_attributes(tag: str, attrs: list[tuple[str, str | None]]) -> Iterator[str]:
    for name, value in attrs:
        loads = name in _LOADED or (name in _REFERENCES and tag in _LOADED_BY)
        if loads and any(map(_REMOTE.match, (value or "").split(","))):
            yield f'<{tag} {name}="{value}">'
        if name == "style":
            yield from _remote_in_style(value or "")
