"""The house keeps its order: imports go one way, public names are what they say, nothing heavy loads unasked."""

import ast
import importlib
import inspect
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from importing import imports_at_run_time
from loguru import logger

import kimi_agent
from kimi_agent.events import Handlers, RoundFinished

PACKAGE = Path(kimi_agent.__file__).parent

STEPS = (
    ("errors", "hooks", "kinds"),
    ("message",),
    ("tools.base",),
    ("events",),
    ("provider", "history", "raw", "prompt.tokens", "tools.texts", "tools.context"),
    ("kimi", "tools"),
    ("turns", "limits", "latecomers"),
    ("generate",),
    ("prompt", "frames", "resume"),
    ("stream",),
    ("spending", "measured", "settings"),
    ("session", "structured", "calls", "approving"),
    ("asking",),
    ("subagents",),
    ("agent",),
    ("testing", "otel"),
    ("terminal",),
    ("terminal.page", "terminal.screen"),
    ("terminal.chat",),
    ("terminal.command",),
)
"""Lower rooms first. Rooms on one step do not import each other."""

ENTRANCES = {"", "__main__"}
"""The public face and the way in from the command line open every room."""


@cache
def rooms() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def step_of(room: str) -> tuple[int, str]:
    """The step that a room stands on, and its name there; `tools.base` and `prompt.tokens` are rooms of their own."""
    standing = [
        (number, name) for number, names in enumerate(STEPS) for name in names if f"{room}.".startswith(f"{name}.")
    ]
    if not standing:
        raise AssertionError(f"{room} stands on no step; give it one")
    return max(standing, key=lambda step: len(step[1]))


def imports_of(path: Path, room: str) -> set[str]:
    """The rooms that a file imports at run time, wherever in it the import stands."""
    package = room.split(".") if path.name == "__init__.py" else room.split(".")[:-1]
    wanted: set[str] = set()
    for node in imports_at_run_time(path):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = [*base, *(node.module.split(".") if node.module else [])]
            names = [".".join([*target, alias.name]) for alias in node.names]
            wanted |= {name if name in rooms() else ".".join(target) for name in names}
    return {room for room in wanted if room}


@pytest.mark.parametrize("room", [room for room in rooms() if room not in ENTRANCES])
def test_a_room_imports_only_lower_ones(room: str):
    step, name = step_of(room)
    for wanted in imports_of(rooms()[room], room):
        other_step, other = step_of(wanted)
        assert other_step < step or other == name, f"{room} imports {wanted}"


def test_type_checkers_are_told_that_there_are_types():
    assert (PACKAGE / "py.typed").is_file()


def test_a_module_of_the_tests_has_a_name_of_its_own():
    """Their folders are on the path together: of two with one name the first that is imported would stand for both."""
    tests = Path(__file__).parent
    folders = (tests, tests / "faults", tests.parent / "docs" / "making")
    names = Counter(path.stem for folder in folders for path in folder.glob("*.py"))
    assert [name for name, times in names.items() if times > 1] == []


def test_only_one_file_imports_httpx():
    importing = {
        room
        for room, path in rooms().items()
        for node in imports_at_run_time(path)
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "httpx" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "httpx")
    }
    assert importing == {"kimi.http", "testing.chaos"}


def test_the_agent_reads_top_to_bottom_in_five_hundred_lines():
    assert len((PACKAGE / "agent.py").read_text("utf-8").splitlines()) <= 500


@pytest.mark.parametrize("name", kimi_agent.__all__)
def test_a_public_name_is_there_and_has_a_docstring(name: str):
    value = getattr(kimi_agent, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert inspect.getdoc(value), f"{name} has no docstring"
        own = (
            [member for key, member in vars(value).items() if not key.startswith("_")] if inspect.isclass(value) else []
        )
        for member in own:
            function = getattr(member, "fget", member)
            if inspect.isfunction(function) and function.__module__.startswith("kimi_agent"):
                assert function.__doc__, f"{name}.{function.__name__} has no docstring"


def test_public_names_are_listed_once_and_found_in_their_rooms():
    assert len(set(kimi_agent.__all__)) == len(kimi_agent.__all__)
    assert set(kimi_agent.__all__) <= set(dir(kimi_agent))
    for room in rooms():
        if room not in ENTRANCES:
            module = importlib.import_module(f"kimi_agent.{room}")
            for name in getattr(module, "__all__", ()):
                assert hasattr(module, name), f"{room}.__all__ names {name}"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Agnet"):
        _ = kimi_agent.Agnet  # pyright: ignore[reportAttributeAccessIssue]


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize("code", ["import kimi_agent", "from kimi_agent import Agent, Kimi, ai_function"])
def test_an_import_opens_nothing_heavy(code: str):
    heavy = {
        "tiktoken",
        "rich",
        "prompt_toolkit",
        "docstring_parser",
        "mcp",
        "openai",
        "h11",
        "opentelemetry",
        "kimi_agent.testing",
    }
    assert modules_after(code) & heavy == set()


async def test_logging_is_off_until_it_is_asked_for():
    lines: list[str] = []
    handlers = Handlers()
    handlers.add(RoundFinished, lambda event: 1 / 0)  # pyright: ignore[reportArgumentType]
    sink = logger.add(lines.append, format="{message}")
    try:
        await handlers.emit(RoundFinished("completed"))
        assert lines == []
        logger.enable("kimi_agent")
        await handlers.emit(RoundFinished("completed"))
        assert "a handler of RoundFinished raised" in lines[0]
    finally:
        logger.disable("kimi_agent")
        logger.remove(sink)
