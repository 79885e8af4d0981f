"""What users depend on changes when somebody has decided so: every public name with its signature is written down."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from signatures import ENTRANCES, PAGES, ROOT, SNAPSHOT, Package, difference, is_public, snapshot

import kimi_agent

HOUSE = Package(ROOT / "kimi_agent", PAGES)
ANEW = "python tests/signatures.py"


# ==== the package ====


def test_the_public_signatures_are_those_that_are_written_down():
    changed = difference(SNAPSHOT.read_text("utf-8").splitlines(), snapshot(HOUSE))
    if changed:
        shown = "\n".join(changed)
        pytest.fail(
            f"public signatures have changed:\n\n{shown}\n\nIf that is meant, `{ANEW}` writes tests/signatures.txt "
            "anew; CHANGELOG.md tells of it.",
            pytrace=False,
        )


@pytest.mark.parametrize("room", ENTRANCES)
def test_every_public_name_is_written_down(room: str):
    module = importlib.import_module(f"kimi_agent.{room}".rstrip("."))
    assert set(module.__all__) == {name for name in HOUSE.sections[room] if "." not in name}


def written_members() -> dict[str, tuple[str, set[str]]]:
    """What is written down of each class: its bases, and the names of its members."""
    found: dict[str, tuple[str, set[str]]] = {}
    members: set[str] = set()
    for line in SNAPSHOT.read_text("utf-8").splitlines():
        if head := re.match(r"(?:@.* )?class ([\w.]+)(.*)", line):
            outer, _, inner = head[1].rpartition(".")
            members = set()
            found[head[1]] = head[2], members
            if outer:
                found[outer][1].add(inner)
        elif member := re.match(r"    (?:.*\bdef )?(\w+)", line):
            members.add(member[1])
    return found


WRITTEN = written_members()


def members_of(name: str) -> set[str]:
    bases, members = WRITTEN[name]
    return members.union(
        *(members_of(base) for base in re.findall(r"[\w.]+", bases) if base in WRITTEN and base != name)
    )


def attributes(cls: type) -> set[str]:
    """The public attributes of a class, but those that it has from somebody else's classes."""
    own = [base for base in cls.__mro__ if base.__module__.startswith("kimi_agent")]
    foreign = {name for base in cls.__mro__ if base not in own for name in vars(base)}
    names = {name for base in own for name in (*vars(base), *vars(base).get("__annotations__", ()))}
    return {name for name in names - foreign if not name.startswith("_") and is_public(name)}


CLASSES = [name for name in kimi_agent.__all__ if inspect.isclass(getattr(kimi_agent, name))]


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_attribute_of_a_class_is_written_down(name: str):
    assert attributes(getattr(kimi_agent, name)) <= members_of(name)


def test_it_is_written_anew_by_one_command(tmp_path: Path):
    """With nothing installed: it is read from the code."""
    place = tmp_path / "tests"
    place.mkdir()
    script = place / "signatures.py"
    script.write_text((ROOT / "tests" / "signatures.py").read_text("utf-8"), "utf-8")
    for name in ("kimi_agent", "docs", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, "-I", "-S", str(script)], check=True, capture_output=True)
    assert (place / "signatures.txt").read_text("utf-8").splitlines() == snapshot(HOUSE)


# ==== what is a change ====

HALL = """
from typing import overload
from pydantic import BaseModel, Field
from .cellar import Base, Kinds, Unpack

__all__ = ["Door", "Key", "Lost", "Wood", "knock", "opened"]

LOUD = 3
Wood = str | None

class Lost(Exception): ...

class Key(BaseModel):
    metal: str = "iron"
    teeth: int = Field(default=LOUD)

class Door(Base):
    class Frame: ...

    def __init__(self, wood: "Wood" = None, *, keys: list[Key] | None = None) -> None:
        self.keys = keys

    async def unlock(self, key: Key, **kinds: Unpack[Kinds]) -> bool:
        return await self._turn(key)

    @property
    def is_open(self) -> bool: ...

    def _turn(self, key: Key) -> bool: ...

    def creaks_whenever_it_moves(
        self, quickly: bool = True, softly: bool = True, loudly: bool = True, seldom: bool = True
    ) -> None: ...

@overload
def knock(times: int) -> str: ...
@overload
def knock(times: None = None) -> None: ...
def knock(times: int | None = None) -> str | None: ...

def opened(door: Door, loud: int = LOUD) -> Door: ...
"""
CELLAR = """
from typing import Any, TypedDict, Unpack

class Kinds(TypedDict, total=False):
    slowly: bool

class Base:
    hinges: int

    def creak(self) -> str: ...
"""

CHANGES: dict[str, tuple[str, str, str]] = {
    "a default": (
        "loud: int = LOUD",
        "loud: int = 4",
        """
        @@ house
        - def opened(door: Door, loud: int = 3) -> Door
        + def opened(door: Door, loud: int = 4) -> Door
        """,
    ),
    "one of many defaults": (
        "softly: bool = True",
        "softly: bool = False",
        """
        @@ house: class Door: def creaks_whenever_it_moves
        -         softly: bool = True,
        +         softly: bool = False,
        """,
    ),
    "what a long signature gives": (
        "seldom: bool = True\n    ) -> None",
        "seldom: bool = True\n    ) -> None | str",
        """
        @@ house: class Door: def creaks_whenever_it_moves
        -     ) -> None
        +     ) -> None | str
        """,
    ),
    "the constant behind defaults": (
        "LOUD = 3",
        "LOUD = 4",
        """
        @@ house: class Key(BaseModel)
        -     teeth: int = 3
        +     teeth: int = 4
        @@ house
        - def opened(door: Door, loud: int = 3) -> Door
        + def opened(door: Door, loud: int = 4) -> Door
        """,
    ),
    "a field that has to be given": (
        "Field(default=LOUD)",
        "Field(gt=0)",
        """
        @@ house: class Key(BaseModel)
        -     teeth: int = 3
        +     teeth: int
        """,
    ),
    "the order of fields": (
        '    metal: str = "iron"\n    teeth: int = Field(default=LOUD)',
        '    teeth: int = Field(default=LOUD)\n    metal: str = "iron"',
        """
        @@ house: class Key(BaseModel)
        +     teeth: int = 3
        @@ house: class Key(BaseModel)
        -     teeth: int = 3
        """,
    ),
    "an attribute's type": (
        "keys: list[Key] | None",
        "keys: list[Key] | Key | None",
        """
        @@ house: class Door
        -     keys: list[Key] | None
        -     def __init__(self, wood: Wood = None, *, keys: list[Key] | None = None) -> None
        +     keys: list[Key] | Key | None
        +     def __init__(self, wood: Wood = None, *, keys: list[Key] | Key | None = None) -> None
        """,
    ),
    "a parameter that is no longer positional": (
        "key: Key, **kinds",
        "*, key: Key, **kinds",
        """
        @@ house: class Door
        -     async def unlock(self, key: Key, **kinds: Unpack[Kinds]) -> bool
        +     async def unlock(self, *, key: Key, **kinds: Unpack[Kinds]) -> bool
        """,
    ),
    "a parameter without a name": (
        "def opened(door: Door,",
        "def opened(door: Door, /,",
        """
        @@ house
        - def opened(door: Door, loud: int = 3) -> Door
        + def opened(door: Door, /, loud: int = 3) -> Door
        """,
    ),
    "a call that is no longer awaited": (
        "return await self._turn(key)",
        "yield",
        """
        @@ house: class Door
        -     async def unlock(self, key: Key, **kinds: Unpack[Kinds]) -> bool
        +     def unlock(self, key: Key, **kinds: Unpack[Kinds]) -> bool
        """,
    ),
    "a property that is a function": (
        "    @property\n",
        "",
        """
        @@ house: class Door
        -     @property def is_open(self) -> bool
        +     def is_open(self) -> bool
        """,
    ),
    "a function that is gone": (
        "def is_open",
        "def _is_open",
        """
        @@ house: class Door
        -     @property def is_open(self) -> bool
        """,
    ),
    "a name that is gone": (
        '"Lost", ',
        "",
        """
        @@ house
        - class Lost(Exception)
        """,
    ),
    "a class inside of one": (
        "class Frame",
        "class Case",
        """
        @@ house
        - class Door.Frame
        + class Door.Case
        """,
    ),
    "what an error is": (
        "Lost(Exception)",
        "Lost(ValueError)",
        """
        @@ house
        - class Lost(Exception)
        + class Lost(ValueError)
        """,
    ),
    "an alias": (
        "Wood = str | None",
        "Wood = str",
        """
        @@ house
        - Wood = str | None
        + Wood = str
        """,
    ),
    "one of several ways to call": (
        "def knock(times: int) -> str",
        "def knock(times: int) -> bytes",
        """
        @@ house
        - @overload def knock(times: int) -> str
        + @overload def knock(times: int) -> bytes
        """,
    ),
    "what a class has from another one": (
        "hinges: int",
        "hinges: float",
        """
        @@ house: class Door
        -     hinges: int
        +     hinges: float
        """,
    ),
    "an option": (
        "slowly: bool\n",
        "quickly: bool\n",
        """
        @@ what these refer to: class Kinds(TypedDict, total=False)
        -     slowly: bool
        +     quickly: bool
        """,
    ),
    "whether options may be left out": (
        ", total=False",
        "",
        """
        @@ what these refer to
        - class Kinds(TypedDict, total=False)
        + class Kinds(TypedDict)
        """,
    ),
}

NO_CHANGES = {
    "quotes": ('wood: "Wood"', "wood: Wood"),
    "what pydantic is told": ("teeth: int", 'teeth: "Annotated[int, Field(gt=0)]"'),
    "a constant for the same value": ("loud: int = LOUD", "loud: int = 3"),
    "a private function": ("def _turn(self, key: Key)", "def _turn(self)"),
    "a base in between": ("class Base:\n", "class Lower:\n    def creak(self) -> str: ...\n\nclass Base(Lower):\n"),
    "how a function does it": ("return await self._turn(key)", "return True"),
    "what its implementation takes": ("def knock(times: int | None = None) -> str | None", "def knock(times=None)"),
}


def seen(folder: Path, hall: str, cellar: str) -> list[str]:
    house = folder / "house"
    house.mkdir(exist_ok=True)
    (house / "__init__.py").write_text(hall, "utf-8")
    (house / "cellar.py").write_text(cellar, "utf-8")
    return snapshot(Package(house))


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_shown_with_what_it_stands_in(tmp_path: Path, name: str):
    old, new, shown = CHANGES[name]
    assert (HALL + CELLAR).count(old) >= 1
    before = seen(tmp_path, HALL, CELLAR)
    after = seen(tmp_path, HALL.replace(old, new), CELLAR.replace(old, new))
    assert difference(before, after) == dedent(shown).strip().splitlines()


@pytest.mark.parametrize("name", NO_CHANGES)
def test_what_nobody_depends_on_may_change(tmp_path: Path, name: str):
    old, new = NO_CHANGES[name]
    assert (HALL + CELLAR).count(old) == 1
    before = seen(tmp_path, HALL, CELLAR)
    after = seen(tmp_path, HALL.replace(old, new), CELLAR.replace(old, new))
    assert difference(before, after) == []


def test_what_a_page_imports_is_public(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("Text.\n\n```python\nfrom house.cellar import Kinds\nfrom elsewhere import other\n```\n", "utf-8")
    seen(tmp_path, HALL, CELLAR)
    lines = snapshot(Package(tmp_path / "house", [page]))
    assert lines[lines.index("# house.cellar") :][2] == "class Kinds(TypedDict, total=False)"


def test_a_name_that_is_defined_nowhere_is_told(tmp_path: Path):
    with pytest.raises(AssertionError, match="'Gate', which is defined nowhere"):
        seen(tmp_path, HALL.replace('"Door"', '"Gate"'), CELLAR)
