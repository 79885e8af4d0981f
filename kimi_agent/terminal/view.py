"""A conversation as one page: everything in it, nothing loaded, nothing run.

Whatever a model or a tool has written is text in it, with control characters and marks that turn the direction of
writing made visible. The page has no script, and says so to the browser: its policy allows its own style and pictures
that it carries itself, by the digest of the one and the scheme of the others.
"""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from .text import visible

if TYPE_CHECKING:
    from ..session.state import SessionState

__all__ = ["page"]


def page(state: SessionState, title: str) -> str:
    """The conversation as one HTML page, which needs nothing else and runs nothing.

    Args:
        state: of the conversation.
        title: of the page.
    """
    return document(
        title, f"<h1>{text(title)}</h1>" + "".join(f"<pre>{text(m.text)}</pre>" for m in state.chat_history)
    )


def document(title: str, body: str) -> str:
    """A page that may load nothing and run nothing."""
    style = _style()
    policy = f"default-src 'none'; style-src '{_digest(style)}'; img-src data:; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def text(value: str) -> str:
    """Text as HTML that shows it."""
    return escape(visible(value))


@cache
def _style() -> str:
    return files(__package__).joinpath("page.css").read_text("utf-8").replace("\r\n", "\n")


def _digest(style: str) -> str:
    return f"sha256-{b64encode(sha256(style.encode()).digest()).decode()}"
