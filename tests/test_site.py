"""What the build of the site stands on: a place for every page, pictures for every page that has some, nothing remote.

`make docs` builds it, and asks mkdocs about links.
"""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.append(str(Path(__file__).parent.parent / "docs" / "making"))

pytest.importorskip("pty", reason="there are no pseudo-terminals here")
pytest.importorskip("pyte", reason="pyte, which is the screen, is not installed")

import pyte
import talk
from addresses import EXAMPLES, PAGES, in_site, remote_parts
from scenes import SCENES, taken
from screens import picture

ROOT = Path(__file__).parent.parent
MADE = {f"pictures/{name}.svg" for name in SCENES} | {talk.NAME}
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
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    copies = [name for name in PAGES.values() if name.endswith(".md")]
    assert sorted(menu) == sorted([*pages, *copies, EXAMPLES])


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("index.md", "docs/tools.md", "tools.md"),
        ("index.md", "docs/errors.md#retries", "errors.md#retries"),
        ("index.md", "LICENSE", "license.txt"),
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


# ==== pictures ====


def test_the_pictures_that_pages_show_are_those_that_the_build_makes():
    shown = set[str]()
    for page in (ROOT / "docs").glob("*.md"):
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
    page = talk.html()
    assert page == talk.html()
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
