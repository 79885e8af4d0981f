"""What the build of the site does by itself: pages of files outside `docs/`, and pictures of the program at work.

mkdocs calls the functions here (`hooks` in mkdocs.yml). Nothing is written into the repository.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from functools import cache
from html import escape, unescape
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.append(str(Path(__file__).parents[2] / "tests"))  # where the terminal is

from addresses import EXAMPLES, PAGES, ROOT, in_site, remote_parts

try:
    import talk
    from scenes import pictures
except ImportError as missing:
    raise PluginError(
        f"The pictures are made with the program itself: {missing}. `make docs` installs it all."
    ) from None


@cache
def made() -> dict[str, str]:
    """Files of the site that are made: once, however often `mkdocs serve` builds."""
    return {**asyncio.run(pictures()), talk.NAME: talk.html(), EXAMPLES: "".join(_examples())}


def _examples() -> Iterator[str]:
    """One page of all examples, in the order in which they are read."""
    yield "# Examples\n\nWhole programs, in the order in which they are read. Each says at its top how to run it.\n\n"
    for path in sorted((ROOT / "examples").glob("*.py"), key=_number):
        yield f"## {path.name}\n\n```python\n{path.read_text('utf-8')}```\n\n"


def _number(path: Path) -> tuple[int, str]:
    number = re.match(r"\d+", path.name)
    return (int(number[0]) if number else sys.maxsize, path.name)


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Files of the site that are not under `docs/`."""
    for path, name in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    for name, content in made().items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links lead to where things are in the site."""
    return in_site(markdown, page.file.src_uri)


_FRAMED: Final = re.compile(r'<img alt="([^"]*)" src="([^"]+\.html)" ?/?>')


_WORD: Final = re.compile(r"<code>([^<\s]{1,28})</code>")


def on_page_content(html: str, **_: Any) -> str:
    """A picture that is a page is shown in a frame, and a short word of code stays on one line."""
    return _WORD.sub(r'<code class="word">\1</code>', _FRAMED.sub(_frame, html))


def _frame(image: re.Match[str]) -> str:
    title, source = escape(unescape(image[1])), image[2]
    return (
        f'<iframe src="{source}" title="{title}" loading="lazy" sandbox></iframe>'
        f'<a href="{source}">The page by itself</a>'
    )


def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    """Nothing in the site is fetched from another server.

    Raises:
        PluginError: something is.
    """
    site = Path(config.site_dir)
    found = [
        f"{path.relative_to(site)}: {part}"
        for path in sorted(site.rglob("*"))
        if path.suffix in (".html", ".css", ".svg")
        for part in remote_parts(path.name, path.read_text("utf-8"))
    ]
    if found:
        raise PluginError("\n".join(["The site would be fetched from elsewhere:", *found]))
