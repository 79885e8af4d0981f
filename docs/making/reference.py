"""The reference: a page for each concept of `kimi_agent.__all__`, and one for each public package beside it.

Which names there are, how they belong together and in which order is said by the packages; what they are, by their
docstrings. mkdocstrings fills the pages in.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import getdoc, isclass, isroutine
from pathlib import Path
from typing import Any, Final, is_typeddict

__all__ = ["BESIDE", "Concept", "concepts", "linked", "menu", "pages", "targets", "unplaced"]

PACKAGE: Final = "kimi_agent"
BESIDE: Final = ("kimi_agent.session", "kimi_agent.testing", "kimi_agent.otel")
"""Packages with public names that the first one does not have."""
INDEX: Final = "reference/index.md"

MANY: Final = 6
"""Members of a class that has a table of them before it tells of each."""


# ==== what there is ====


@dataclass(frozen=True)
class Concept:
    """Names that belong together.

    Args:
        package: where they are imported from.
        title: what they are about.
        names: in their order.
    """

    package: str
    title: str
    names: tuple[str, ...]


@cache
def concepts(package: str) -> tuple[Concept, ...]:
    """The public names of a package under the comments of its `__all__`; those under none are about the package."""
    source = Path(str(import_module(package).__file__)).read_text("utf-8")
    found: list[tuple[str, list[str]]] = [(package, [])]
    for line in _lines_of_all(source):
        if line.startswith("#"):
            found.append((line.lstrip("# ").capitalize(), []))
        else:
            found[-1][1].extend(ast.literal_eval(f"[{line}]"))
    return tuple(Concept(package, title, tuple(names)) for title, names in found if names)


def _all_concepts() -> Iterator[Concept]:
    for package in (PACKAGE, *BESIDE):
        yield from concepts(package)


def _lines_of_all(source: str) -> Iterator[str]:
    for statement in ast.parse(source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__all__")], lineno=first, end_lineno=last):
                lines = "\n".join(source.splitlines()[first - 1 : last])
                yield from filter(None, map(str.strip, lines[lines.index("[") + 1 : lines.rindex("]")].splitlines()))
            case _:
                pass


# ==== pages ====

_META: Final = "---\nsearch:\n  boost: 0.5\n---\n"
"""Who searches wants to read how a thing is used, before what it is."""


def pages() -> dict[str, str]:
    """The pages as markdown, by their names in the site."""
    texts = {
        INDEX: "".join(_index()),
        **{_page(concept): _text(f"# {concept.title}", [concept]) for concept in concepts(PACKAGE)},
        **{f"reference/{package}.md": _text(_about(package), concepts(package)) for package in BESIDE},
    }
    return {name: f"{_META}{text}" for name, text in texts.items()}


def menu() -> list[dict[str, str]]:
    """The pages in their order, as mkdocs wants a part of its menu."""
    return [{text.removeprefix(_META).partition("\n")[0].lstrip("# "): name} for name, text in pages().items()]


def _page(concept: Concept) -> str:
    return f"reference/{re.sub(r'[^a-z]+', '-', concept.title.lower()).strip('-')}.md"


def _about(package: str) -> str:
    told, _, _ = (getdoc(import_module(package)) or "").partition("\n\n")
    return f"# {package}\n\n{told}"


def _index() -> Iterator[str]:
    """A table of all names."""
    yield "# All names\n\nWhat there is to import, by what it is about.\n"
    for concept in _all_concepts():
        of_its_own = concept.package in (PACKAGE, concept.title)
        title = concept.title if of_its_own else f"{concept.package}: {concept.title.lower()}"
        yield f"\n## {title}\n\n| name | is |\n|---|---|\n"
        for name in concept.names:
            told = _first_line(concept.package, name).replace("|", "\\|")
            yield f"| [`{name}`][{_path(concept.package, name)}] | {told} |\n"


def _text(top: str, parts: Collection[Concept]) -> str:
    """A page of names, with headings above them if they are about several things."""
    lines, level = [top, ""], 3 if len(parts) > 1 else 2
    for part in parts:
        lines += [f"## {part.title}", ""] if len(parts) > 1 else []
        for name in part.names:
            options = {"heading_level": level, **_options(getattr(import_module(part.package), name))}
            lines += [f"::: {_path(part.package, name)}", f"    options: {json.dumps(options)}", ""]
    return "\n".join(lines)


def _path(package: str, name: str) -> str:
    """How mkdocstrings finds a name. A function that is called like its room is hidden by it."""
    room = Path(str(import_module(package).__file__)).with_name(f"{name}.py")
    return f"{package}.{name}.{name}" if room.exists() else f"{package}.{name}"


# ==== what is shown of a name ====


def _options(value: object) -> dict[str, Any]:
    """How mkdocstrings shows a value: with what is told nowhere else."""
    if not isclass(value):
        return {"show_attribute_values": True}
    shown = [name for base in value.__mro__ if base is value or not _is_public(base) for name in _members(base)]
    return {
        "show_bases": any(map(_is_public, value.__bases__)),
        "show_if_no_docstring": is_typeddict(value),
        "summary": len(shown) >= MANY,
    }


def _is_public(kind: type) -> bool:
    return any(kind.__name__ in concept.names for concept in _all_concepts())


def _members(kind: type) -> list[str]:
    """The public methods and properties of a class of this package, without those that it inherits."""
    if not kind.__module__.startswith(PACKAGE):
        return []
    return [name for name, member in vars(kind).items() if not name.startswith("_") and _is_told_of(member)]


def _is_told_of(member: object) -> bool:
    return isinstance(member, property | classmethod | staticmethod) or isroutine(member)


def _first_line(package: str, name: str) -> str:
    value = getattr(import_module(package), name)
    told = (getdoc(value) or "") if isclass(value) or isroutine(value) else _aliases().get(name, "")
    return told.partition("\n")[0]


_ALIAS: Final = re.compile(r'^(\w+): TypeAlias = (?:(?!\n\n).)*?^"""(.+?)"""', re.MULTILINE | re.DOTALL)


@cache
def _aliases() -> dict[str, str]:
    """What is said of the names that are types put together."""
    folder = Path(str(import_module(PACKAGE).__file__)).parent
    return {name: told for path in folder.rglob("*.py") for name, told in _ALIAS.findall(path.read_text("utf-8"))}


# ==== links to it ====

_LEFT_ALONE: Final = r"<(?P<tag>a|pre|h\d)\b.*?</(?P=tag)>"
_FIRST_COLUMN: Final = r"<tr>\s*<td.*?</td>"
_WORD: Final = r"<code>(?:[Aa]gent\.)?(?P<name>\w+)(?:\(.*?\))?</code>"


def linked(html: str, targets: Mapping[str, str], *, compares: bool = False) -> str:
    """A page whose words of code lead to what is said of them: each name once, where it is named first.

    Args:
        html: of the page, before mkdocs-autorefs sees it.
        targets: where names lead, as identifiers of mkdocs-autorefs.
        compares: whether the first column of a table has the names of another library, which lead nowhere.
    """
    pieces = [_LEFT_ALONE, _FIRST_COLUMN, _WORD] if compares else [_LEFT_ALONE, _WORD]
    seen = set[str]()

    def linked_once(piece: re.Match[str]) -> str:
        name = piece["name"]
        if name not in targets or name in seen:
            return piece[0]
        seen.add(name)
        return f'<autoref identifier="{targets[name]}">{piece[0]}</autoref>'

    return re.sub("|".join(pieces), linked_once, html, flags=re.DOTALL)


@cache
def targets() -> dict[str, str]:
    """Where names of the package lead, and those of an agent. A word that may mean anything else leads nowhere."""
    agent = [name for base in import_module(PACKAGE).Agent.__mro__ for name in _members(base)]
    found = {name: f"{PACKAGE}.Agent.{name}" for name in agent}
    found |= {name: _path(concept.package, name) for concept in _all_concepts() for name in concept.names}
    return {name: path for name, path in found.items() if "_" in name or name != name.lower()}


def unplaced(pages: Iterable[str]) -> list[str]:
    """The public names that no page tells of.

    Args:
        pages: the HTML of all pages.
    """
    there = {identifier for page in pages for identifier in re.findall(r'id="([^"]+)"', page)}
    paths = [_path(concept.package, name) for concept in _all_concepts() for name in concept.names]
    return [path for path in paths if path not in there]
