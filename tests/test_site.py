"""What the build of the site stands on: a place for every page, pictures for every page that has some, nothing remote.

`make docs` builds it, and asks mkdocs about links.
"""

import ast
import logging
import re
import sys
from importlib import import_module
from inspect import getsource, signature
from itertools import zip_longest
from pathlib import Path
from typing import is_typeddict
from xml.etree import ElementTree

import pytest

sys.path.append(str(Path(__file__).parent.parent / "docs" / "making"))

pytest.importorskip("pty", reason="there are no pseudo-terminals here")
pytest.importorskip("pyte", reason="pyte, which is the screen, is not installed")
pytest.importorskip("opentelemetry", reason="the extra `otel` is not installed")

import pyte
import reference
import story
from addresses import EXAMPLES, PAGES, in_site, remote_parts
from overriding import hook_of, hooks, with_declaration
from scenes import SCENES, taken
from screens import picture

from kimi_agent import Agent, GenerationKwargs

ROOT = Path(__file__).parent.parent
MADE = {f"pictures/{name}.svg" for name in SCENES} | {story.NAME}
IMAGE = re.compile(r"!\[([^\]]*)\]\[(\w+)\]")
DEFINITION = re.compile(r"^\[(\w+)\]: (\S+)$", re.MULTILINE)


def drawn(written: str, columns: int = 20, rows: int = 3) -> ElementTree.Element:
    """The picture of what a program has written."""
    screen = pyte.Screen(columns, rows)
    pyte.Stream(screen).feed(written)
    return ElementTree.fromstring(picture(screen, "$ a <b> & c"))


def texts(svg: ElementTree.Element) -> list[tuple[str | None, dict[str, str]]]:
    """What is written on the screen, without the title of the window."""
    return [(each.text, each.attrib) for each in svg.iter() if each.tag.endswith("text")][1:]


# ==== pages ====


def test_every_page_has_one_place_in_the_menu():
    menu = re.findall(r"^ +- (?:\w+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    copies = [name for name in PAGES.values() if name.endswith(".md")]
    assert sorted(menu) == sorted([*pages, *copies, EXAMPLES])


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("index.md", "docs/tools.md", "tools.md"),
        ("index.md", "docs/errors.md#retries", "errors.md#retries"),
        ("index.md", "LICENSE", "license.txt"),
        ("index.md", "docs/hooks/index.md", "hooks/index.md"),
        ("hooks/on.md", "../../README.md#events", "../index.md#events"),
        ("hooks/on.md", "../../examples/15_errors.py", "../examples.md#15_errorspy"),
        ("hooks/on.md", "../agent.md#hooks", "../agent.md#hooks"),
        ("hooks/on.md", "get_prompt.md", "get_prompt.md"),
        ("errors.md", "../README.md#what-it-promises", "index.md#what-it-promises"),
        ("selfhosted.md", "../examples/qwen3.py", "examples.md#qwen3py"),
        ("tools.md", "agent.md#hooks", "agent.md#hooks"),
        ("tools.md", "#results", "#results"),
        ("tools.md", "https://example.org/README.md", "https://example.org/README.md"),
    ],
)
def test_a_link_leads_to_where_its_file_is_in_the_site(page: str, link: str, there: str):
    assert in_site(f"See [this]({link}).", page) == f"See [this]({there})."
    code = f"```text\n[this]({link})\n```"
    assert in_site(code, page) == code


# ==== hooks ====

GIVEN = re.compile(r'\bgiven\(\s*\w+, "(\w+)"')
"""Where the package checks what a hook gives."""


def test_every_hook_has_a_page_and_the_first_page_leads_to_each():
    pages = {path.stem for path in (ROOT / "docs" / "hooks").glob("*.md")} - {"index"}
    assert pages == hooks().keys()
    table = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\)", (ROOT / "docs/hooks/index.md").read_text("utf-8"), re.MULTILINE)
    assert {name for name, _ in table} == pages
    assert all(name == page for name, page in table)


def test_what_the_package_asks_for_as_a_hook_is_one():
    asked = {name for path in (ROOT / "kimi_agent").rglob("*.py") for name in GIVEN.findall(path.read_text("utf-8"))}
    assert len(asked) > 5
    assert asked <= hooks().keys()


@pytest.mark.parametrize("hook", hooks())
def test_a_hook_is_declared_on_its_page_as_in_the_code(hook: str):
    page = with_declaration("# a\n\nText.", hook)
    assert page.startswith("# a\n\n```python\n")
    assert page.endswith("\nText.")
    declaration = page.split("```")[1].removeprefix("python\n")
    assert max(map(len, declaration.splitlines())) < 80
    written = ast.parse(f"{declaration}    ...").body[0]
    assert isinstance(written, ast.AsyncFunctionDef | ast.FunctionDef)
    known = signature(getattr(Agent, hook))
    assert [each.arg for each in ast.walk(written.args) if isinstance(each, ast.arg)] == [*known.parameters]
    assert ast.unparse(written.returns or written) == str(known.return_annotation)


def test_a_page_is_about_the_hook_that_it_is_called_after():
    assert hook_of("hooks/get_prompt.md") == "get_prompt"
    assert [hook_of(page) for page in ("hooks/index.md", "get_prompt.md", "index.md")] == [None, None, None]


# ==== the reference ====

ENTRY = re.compile(r"^::: (\S+)$", re.MULTILINE)
PACKAGES = ("kimi_agent", *reference.BESIDE)


def entries() -> list[str]:
    return [path for text in reference.pages().values() for path in ENTRY.findall(text)]


def test_every_public_name_is_in_the_reference_once():
    public = [(package, name) for package in PACKAGES for name in import_module(package).__all__]
    paths = entries()
    assert sorted(path.rpartition(".")[2] for path in paths) == sorted(name for _, name in public)
    assert len(set(paths)) == len(paths)
    for package, name in public:
        assert {f"{package}.{name}", f"{package}.{name}.{name}"} & set(paths)


def test_names_stand_under_what_their_package_says_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "somebodys.py").write_text('__all__ = [\n    "free",\n    # what is bound\n    "a",\n    "b",\n]\n')
    monkeypatch.syspath_prepend(tmp_path)
    titles = [(concept.title, concept.names) for concept in reference.concepts("somebodys")]
    assert titles == [("somebodys", ("free",)), ("What is bound", ("a", "b"))]


def test_all_pages_of_the_reference_are_in_the_menu_by_their_titles():
    menu = [(title, page) for each in reference.menu() for title, page in each.items()]
    assert {page for _, page in menu} == reference.pages().keys()
    assert menu[:2] == [("All names", "reference/index.md"), ("Agents and rounds", "reference/agents-and-rounds.md")]
    assert len({title for title, _ in menu}) == len(menu)


def test_the_table_of_all_names_says_of_each_what_it_is():
    rows = re.findall(r"^\| \[`(\w+)`\]\[(\S+)\] \| (.*) \|$", reference.pages()["reference/index.md"], re.MULTILINE)
    assert [path for _, path, _ in rows] == entries()
    told = {path: text for _, path, text in rows}
    assert told["kimi_agent.Role"] == "Who said a message."
    assert told["kimi_agent.generate.generate"] == "Ask a model for one message."
    assert [path for path, text in told.items() if not text] == []


def test_each_field_of_a_dictionary_is_told_of():
    """They are shown with or without a word, other than members of classes."""
    public = [getattr(import_module(package), name) for package in PACKAGES for name in import_module(package).__all__]
    dictionaries = [value for value in public if is_typeddict(value)]
    assert GenerationKwargs in dictionaries
    for dictionary in dictionaries:
        written = ast.parse(getsource(dictionary)).body[0]
        assert isinstance(written, ast.ClassDef)
        silent = [
            ast.unparse(field)
            for field, told in zip_longest(written.body, written.body[1:])
            if isinstance(field, ast.AnnAssign) and not (isinstance(told, ast.Expr) and ast.literal_eval(told.value))
        ]
        assert silent == [], dictionary.__name__


def test_a_name_that_the_built_reference_tells_nothing_of_is_found():
    pages = [f'<h2 id="{path}">' for path in entries()]
    assert reference.unplaced(pages) == []
    assert reference.unplaced(pages[1:]) == entries()[:1]


@pytest.mark.parametrize(
    ("html", "broken"),
    [
        ("<td><code>get_prompt</code></td>", "<td><code>get_<wbr>prompt</code></td>"),
        (
            '<td>a <code class="word">EventLog(a)</code></td>',
            '<td>a <code class="word">Event<wbr>Log(<wbr>a)</code></td>',
        ),
        ("<td>get_prompt of EventLog</td>", "<td>get_prompt of EventLog</td>"),
        ("<td><code>--no-log &quot;a b&quot;</code></td>", "<td><code>--no-log &quot;a b&quot;</code></td>"),
        ("<p><code>get_prompt</code></p>", "<p><code>get_prompt</code></p>"),
    ],
)
def test_a_long_name_in_a_table_may_break_where_a_word_ends(html: str, broken: str):
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    import pages

    assert pages.breakable(html) == broken


@pytest.mark.parametrize(
    ("html", "linked"),
    [
        ("<code>Agent</code>", "[<code>Agent</code>]"),
        ("<code>Agent</code> <code>Agent</code>", "[<code>Agent</code>] <code>Agent</code>"),
        ("<code>agent.full_round(...)</code>", "[<code>agent.full_round(...)</code>]"),
        ("<code>Agents</code> <code>step</code>", "<code>Agents</code> <code>step</code>"),
        ('<a href="a"><code>Agent</code></a>', '<a href="a"><code>Agent</code></a>'),
        ("<h2 id='a'><code>Agent</code></h2>", "<h2 id='a'><code>Agent</code></h2>"),
        ("<pre><code>Agent</code></pre>", "<pre><code>Agent</code></pre>"),
    ],
)
def test_a_word_of_code_leads_to_what_is_said_of_it(html: str, linked: str):
    targets = reference.targets()
    assert targets["Agent"] == "kimi_agent.Agent"
    assert targets["full_round"] == "kimi_agent.Agent.full_round"
    found = re.sub(r'<autoref identifier="[^"]+">(.*?)</autoref>', r"[\1]", reference.linked(html, targets))
    assert found == linked


def test_the_names_of_another_library_lead_nowhere():
    row = "<tr>\n<td><code>Message</code></td>\n<td><code>Message</code></td>\n</tr>"
    first, second = (reference.linked(row, {"Message": "here"}, compares=compares) for compares in (False, True))
    assert first.index("<autoref") < first.index("</td>")
    assert second.index("<autoref") > second.index("</td>")


VALUES = '''
from pydantic import BaseModel, Field


class Value(BaseModel):
    """A value."""

    name: str

    def shown(self) -> str:
        """How it looks."""
        return self.name


class Price(Value):
    """A price."""

    cents: int = 0
    notes: list[str] = Field(default_factory=list)

    def doubled(self) -> int:
        """Twice as much."""
        return 2 * self.cents
'''


def test_a_value_has_its_constructor_and_what_it_inherits_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    griffe = pytest.importorskip("griffe", reason="the extra `docs` is not installed")
    from classes import Classes

    (tmp_path / "prices.py").write_text(VALUES)
    monkeypatch.syspath_prepend(tmp_path)
    import_module("prices")
    read = griffe.load("prices", search_paths=[tmp_path], extensions=griffe.load_extensions(Classes))
    price = read["Price"]
    given = {each.name: (str(each.annotation), each.default) for each in price.parameters if each.name != "self"}
    assert given == {"name": ("str", None), "cents": ("int", "0"), "notes": ("list[str]", "...")}
    lines = {
        name: each.alias_lineno if each.is_alias else each.lineno
        for name, each in price.all_members.items()
        if each.is_function and name != "__init__"
    }
    assert sorted(lines, key=lines.__getitem__) == ["doubled", "shown"]


def test_a_strict_build_hears_of_warnings_that_it_does_not_show():
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    import pages

    log = logging.getLogger("mkdocs")
    before = log.level
    try:
        log.setLevel(logging.ERROR)
        pages.on_startup(command="build")
        assert log.isEnabledFor(logging.WARNING)
    finally:
        log.setLevel(before)


# ==== pictures ====


def test_the_pictures_that_pages_show_are_those_that_the_build_makes():
    shown = set[str]()
    for page in (ROOT / "docs").rglob("*.md"):
        text = page.read_text("utf-8")
        files = {name: file for name, file in DEFINITION.findall(text) if file.startswith("pictures/")}
        images = {name: " ".join(alt.split()) for alt, name in IMAGE.findall(text)}
        assert images.keys() == files.keys(), page.name
        assert all(len(alt) > 40 for alt in images.values()), f"{page.name}: a picture has to be told"
        shown.update(files.values())
    assert shown == MADE


def test_text_of_a_screen_is_text_of_its_picture():
    svg = drawn("if a < b && c:\r\n  ]]> &amp;  x")
    assert [text for text, _ in texts(svg)] == ["if a < b && c:", "]]> &amp;\xa0\xa0x"]
    assert svg.findtext("{*}title") == "$ a <b> & c"
    assert not remote_parts("a.svg", ElementTree.tostring(svg, "unicode"))


def test_what_xml_cannot_contain_is_replaced():
    screen = pyte.Screen(4, 1)
    screen.draw("a\x01\ufffe")
    assert "�" in picture(screen, "\x1b[2J")
    ElementTree.fromstring(picture(screen, "\x1b[2J"))


def test_every_run_is_as_wide_as_its_columns_and_what_is_no_ascii_stands_by_itself():
    svg = drawn("ab 中文 é─── c")
    placed = [(text, int(each["x"]), int(each.get("textLength", 0))) for text, each in texts(svg)]
    assert [text for text, _, _ in placed] == ["ab", "中", "文", "é", "───", "c"]
    first = placed[0][1]
    assert [(x - first) // 9 for _, x, _ in placed] == [0, 3, 5, 8, 9, 13]
    assert [width // 9 for _, _, width in placed] == [2, 0, 0, 0, 3, 0]


def test_looks_are_kept():
    svg = drawn("\x1b[1;31mred\x1b[0m \x1b[3;4;9mall\x1b[0m \x1b[7mturned\x1b[0m \x1b[38;5;208mx")
    red, lines, turned, orange = [each for _, each in texts(svg)]
    assert (red["font-weight"], red["fill"]) == ("bold", "#f0808a")
    assert (lines["font-style"], lines["text-decoration"]) == ("italic", "underline line-through")
    assert turned["fill"] == "#1b1e25"
    assert orange["fill"] == "#ff8700"


async def test_a_scene_is_played_by_the_program_itself():
    pytest.importorskip("rich", reason="the extra `cli` is not installed")
    pytest.importorskip("prompt_toolkit", reason="the extra `cli` is not installed")
    svg = ElementTree.fromstring(await taken(SCENES["approval"]))
    shown = "\n".join(text or "" for text, _ in texts(svg))
    for text in ("Ada called me.", "or what to do instead:", "delete_note(number=2)", "again in "):
        assert text in shown


def test_the_page_of_a_conversation_is_the_same_in_each_build_and_has_all_there_is_to_show():
    page = story.html()
    assert page == story.html()
    assert not remote_parts("page.html", page)
    for text in ("Tokens of each answer", "Context after each answer", "asked again: 2", "went wrong: 1"):
        assert text in page


# ==== nothing from elsewhere ====


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://cdn.example/a.js"></script>'),
        ("a.html", '<link rel="stylesheet" href="//fonts.example/css?family=A">'),
        ("a.html", '<link rel="preconnect" href="https://fonts.example">'),
        ("a.html", '<img alt="a" SRC=http://example.org/a.png>'),
        ("a.html", '<img srcset="a.png 1x, https://example.org/a.png 2x">'),
        ("a.html", "<style>@import 'https://example.org/a.css';</style>"),
        ("a.html", '<p style="background: url(https://example.org/a.png)">'),
        ("a.css", '@import "https://example.org/a.css";'),
        ("a.css", "@import url(//example.org/a.css);"),
        ("a.css", "a { background: URL( 'https://example.org/a.png' ) }"),
        ("a.svg", '<svg><image xlink:href="https://example.org/a.png"/></svg>'),
        ("a.svg", "<svg><style>@font-face { src: url(https://example.org/a.woff2) }</style></svg>"),
    ],
)
def test_what_is_fetched_from_elsewhere_is_found(name: str, text: str):
    assert len(remote_parts(name, text)) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<a href="https://example.org">there</a>'),
        ("a.html", '<script src="assets/a.js"></script><img src="data:image/png;base64,iVBORw0KGgo=">'),
        ("a.html", "<code>@import url(https://example.org/a.css)</code>"),
        ("a.css", "a { background: url(data:image/svg+xml;charset=utf-8,<svg xmlns='http://www.w3.org/2000/svg'/>) }"),
        ("a.svg", '<svg xmlns="http://www.w3.org/2000/svg"><text>https://example.org</text></svg>'),
    ],
)
def test_links_and_names_are_not_fetched(name: str, text: str):
    assert remote_parts(name, text) == []
