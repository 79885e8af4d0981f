"""The documentation is true: its code runs, prints what it says, and its links lead somewhere.

The ```python blocks of a page are one session, from top to bottom: what a block defines, the next ones know. `await`
may stand at the top level, as in `python -m asyncio`. `Kimi()` finds a stand-in on the loopback interface, the working
directory is empty, and standard input has one question. A ```text block right after a ```python block is what that
block prints. `<!-- no-run: reason -->` on the line before a block leaves it out.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import io
import re
from collections.abc import Generator, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from inspect import CO_COROUTINE
from itertools import zip_longest
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from importing import imports_at_run_time
from serving import serving

from kimi_agent.testing import KimiServer

ROOT = Path(__file__).parent.parent
AT_THE_TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
PAGES = [*(ROOT / name for name in AT_THE_TOP), *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SKIPPED = re.compile(r"<!-- no-run: \S.* -->\n$")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# ==== code ====


@dataclass(frozen=True)
class Block:
    """A piece of code of a page.

    Args:
        page: where it stands.
        line: of its first line, from 1.
        source: of the code.
        printed: what the page says that it prints; `None` when the page says nothing.
    """

    page: Path
    line: int
    source: str
    printed: str | None

    def run(self, session: dict[str, Any], runner: asyncio.Runner) -> None:
        """Run it with the names of the session. A traceback names the line of the page."""
        source = "\n" * (self.line - 1) + self.source
        code = compile(source, str(self.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        if code.co_flags & CO_COROUTINE:
            runner.run(FunctionType(code, session)())
        else:
            exec(code, session)


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    fences = list(FENCE.finditer(text))
    return [
        Block(page, text[: fence.start(2)].count("\n") + 1, fence[2], printed_after(text, fence, after))
        for fence, after in zip_longest(fences, fences[1:])
        if fence[1] == "python" and not SKIPPED.search(text[: fence.start()])
    ]


def printed_after(text: str, fence: re.Match[str], after: re.Match[str] | None) -> str | None:
    directly = after is not None and not text[fence.end() : after.start()].strip()
    return after[2] if after is not None and directly and after[1] == "text" else None


@pytest.fixture(scope="module")
def kimi() -> Generator[KimiServer]:
    with serving() as server:
        yield server


PAGES_WITH_CODE = [page for page in PAGES if blocks_of(page)]


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=name_of)
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(
    page: Path, kimi: KimiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KIMI_API_KEY", kimi.api_key)
    monkeypatch.setenv("KIMI_BASE_URL", kimi.base_url)
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 17 * 23?\n"))
    session: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
    with asyncio.Runner() as runner:
        for block in blocks_of(page):
            with redirect_stdout(io.StringIO()) as printed:
                block.run(session, runner)
            if block.printed is not None:
                assert printed.getvalue() == block.printed, f"{name_of(page)}, line {block.line}"


def test_code_is_seldom_left_out():
    sources = "".join(page.read_text("utf-8") for page in PAGES)
    assert sources.count("<!-- no-run:") <= 3


# ==== links and names ====


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links_of(page: Path) -> list[str]:
    return [link for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))) if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_a_page_leads_somewhere(page: Path):
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)} links to {link}"
        if anchor:
            assert anchor in map(slug, HEADING.findall(FENCE.sub("", target.read_text("utf-8")))), link


def test_the_readme_leads_to_every_page():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links_of(ROOT / "README.md")}
    assert set((ROOT / "docs").glob("*.md")) <= linked


def test_the_picture_of_the_house_has_every_room():
    drawn = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rooms = [path for path in (ROOT / "kimi_agent").rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    assert [path.name for path in rooms if path.name not in drawn] == []


def steps() -> dict[str, int]:
    """The step of each room, as the architecture page has it."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    ladder = page.partition("## Who may import whom")[2].partition("```text\n")[2].partition("```")[0]
    return {room: step for step, line in enumerate(ladder.splitlines()) for room in line.split()}


def room_of(module: Path, rooms: dict[str, int]) -> str:
    parts = module.relative_to(ROOT / "kimi_agent").with_suffix("").parts
    return next(room for end in range(len(parts), 0, -1) if (room := ".".join(parts[:end])) in rooms)


def imports_of(module: Path) -> Iterator[Path]:
    """The modules of the package that a module imports, wherever in it; imports for types only are left out."""
    for node in imports_at_run_time(module):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = module.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            candidates = [folder, *(folder / name.name for name in node.names)]
            yield from (path.with_suffix(".py") for path in candidates if path.with_suffix(".py").exists())


def test_no_room_imports_a_higher_one_or_one_on_its_step():
    rooms = steps()
    for module in (ROOT / "kimi_agent").rglob("*.py"):
        if module.name in ("__init__.py", "__main__.py"):
            continue
        here = room_of(module, rooms)
        for imported in imports_of(module):
            there = room_of(imported, rooms)
            named = f"{module.relative_to(ROOT)} imports {imported.relative_to(ROOT)}"
            assert here == there or rooms[there] < rooms[here], named


def test_every_test_that_the_pages_name_exists():
    """The architecture page names the tests that try to break an invariant."""
    named = {
        (file, test) for page in PAGES for file, test in re.findall(r"(test_\w+\.py)::(\w+)", page.read_text("utf-8"))
    }
    assert named
    for file, test in sorted(named):
        assert f"def {test}(" in (ROOT / "tests" / file).read_text("utf-8"), f"{file}::{test}"
