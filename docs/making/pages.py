"""What the build of the site does by itself: pages of files outside `docs/`, the reference, and pictures of the program
at work.

mkdocs calls the functions here (`hooks` in mkdocs.yml). Nothing is written into the repository.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Iterator
from functools import cache
from html import escape, unescape
from pathlib import Path
from typing import Any, Final, cast

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs_autorefs import AutorefsPlugin

sys.path.append(str(Path(__file__).parents[2] / "tests"))  # where the terminal is

import reference
from addresses import EXAMPLES, PAGES, ROOT, in_site, remote_parts
from overriding import hook_of, hooks, with_declaration

try:
    import story
    from scenes import pictures
except ImportError as missing:
    raise PluginError(
        f"The pictures are made with the program itself: {missing}. `make docs` installs it all."
    ) from None


@cache
def made() -> dict[str, str]:
    """Files of the site that are made: once, however often `mkdocs serve` builds."""
    return {
        **asyncio.run(pictures()),
        **reference.pages(),
        story.NAME: story.html(),
        EXAMPLES: "".join(_examples()),
    }


def _examples() -> Iterator[str]:
    """One page of all examples, in the order in which they are read."""
    yield "# Examples\n\nWhole programs, in the order in which they are read. Each says at its top how to run it.\n\n"
    for path in sorted((ROOT / "examples").glob("*.py"), key=_number):
        yield f"## {path.name}\n\n```python\n{path.read_text('utf-8')}```\n\n"


def _number(path: Path) -> tuple[int, str]:
    number = re.match(r"\d+", path.name)
    return (int(number[0]) if number else sys.maxsize, path.name)


def on_startup(**_: Any) -> None:
    """`--strict` counts warnings, and `--quiet` would keep them from being counted: it hides what is no warning."""
    log = logging.getLogger("mkdocs")
    log.setLevel(min(log.level, logging.WARNING))


def on_config(config: MkDocsConfig, **_: Any) -> MkDocsConfig:
    """The reference stands in the menu, before the project."""
    if nav := cast("list[Any] | None", config["nav"]):
        nav.insert(-1, {"Reference": reference.menu()})
    return config


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Files of the site that are not under `docs/`."""
    for path, name in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    for name, content in made().items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links lead to where things are in the site, and the page of a hook says how it is declared."""
    hook = hook_of(page.file.src_uri)
    return in_site(with_declaration(markdown, hook) if hook else markdown, page.file.src_uri)


_FRAMED: Final = re.compile(r'<img alt="([^"]*)" src="([^"]+\.html)" ?/?>')


_WORD: Final = re.compile(r"<code>([^<\s]{1,30})</code>")


def on_page_content(html: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """A picture that is a page is shown in a frame, a public name leads to what it is, and a short word of code stays
    on one line."""
    if not page.file.src_uri.startswith("reference/"):
        if here := hook_of(page.file.src_uri):
            cast(AutorefsPlugin, config.plugins["autorefs"]).register_anchor(page, here)
        names = {name: path for name, path in _targets().items() if name != here}
        html = reference.linked(html, names, compares=page.file.src_uri.startswith("from-"))
    return breakable(_WORD.sub(r'<code class="word">\1</code>', _FRAMED.sub(_frame, html)))


_CELL: Final = re.compile(r"<td.*?</td>", re.DOTALL)
_CODE: Final = re.compile(r"(<code[^>]*>)([^<]+)")
_END_OF_WORD: Final = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[a-z][_.(=])(?=\w)")


def breakable(html: str) -> str:
    """A page with names in the cells of its tables that may break where a word ends, as they have to on a phone."""

    def broken(code: re.Match[str]) -> str:
        return code[1] + _END_OF_WORD.sub("<wbr>", code[2])

    return _CELL.sub(lambda cell: _CODE.sub(broken, cell[0]), html)


@cache
def _targets() -> dict[str, str]:
    """Where words of code lead: the page of a hook tells more of it than the reference."""
    return {**reference.targets(), **{hook: hook for hook in hooks() if "_" in hook}}


def _frame(image: re.Match[str]) -> str:
    title, source = escape(unescape(image[1])), image[2]
    return (
        f'<iframe src="{source}" title="{title}" loading="lazy" sandbox></iframe>'
        f'<a href="{source}">The page by itself</a>'
    )


def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    """Nothing in the site is fetched from another server, and each public name has its place.

    Raises:
        PluginError: something is, or one has none.
    """
    site = Path(config.site_dir)
    if missing := reference.unplaced(path.read_text("utf-8") for path in (site / "reference").glob("*.html")):
        raise PluginError("\n".join(["The reference tells nothing of:", *missing]))
    found = [
        f"{path.relative_to(site)}: {part}"
        for path in sorted(site.rglob("*"))
        if path.suffix in (".html", ".css", ".svg")
        for part in remote_parts(path.name, path.read_text("utf-8"))
    ]
    if found:
        raise PluginError("\n".join(["The site would be fetched from elsewhere:", *found]))
