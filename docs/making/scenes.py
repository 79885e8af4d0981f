"""The pictures of a terminal: the command itself, in a pseudo-terminal, with a Kimi on this machine that has a script.

A scene goes on when the screen shows what it waits for, never after a time.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeAlias

from screens import picture
from terminals import Terminal

from kimi_agent.testing import Failure, KimiServer, Reply, call, say
from kimi_agent.testing.script import Step

__all__ = ["SCENES", "pictures", "taken"]

ROOT: Final = Path(__file__).parents[2]
COLUMNS: Final = 80
PATHS: Final = os.pathsep.join(map(str, (ROOT / "examples", Path(__file__).parent)))
"""Where the modules are that the commands name."""

State: TypeAlias = Callable[[Terminal], bool]


def shows(pattern: str) -> State:
    """Whether a row has what a pattern describes."""
    found = re.compile(pattern).search
    return lambda terminal: any(map(found, terminal.screen.display))


def asks_below(text: str) -> State:
    """Whether a row has a text, and below it is an empty prompt, and the status line at the bottom."""

    def asks(terminal: Terminal) -> bool:
        cursor, rows = terminal.screen.cursor, terminal.screen.display
        is_prompt = rows[cursor.y].rstrip() == "USER:" and cursor.x == len("USER: ")
        return is_prompt and rows[-1].startswith("kimi-k3") and any(text in row for row in rows[: cursor.y])

    return asks


@dataclass(frozen=True)
class Scene:
    """How a picture comes about.

    Args:
        command: as a person types it.
        rows: of the terminal, at least.
        script: what Kimi answers.
        acts: what is typed, and what the screen shows after it. The last one is the picture.
    """

    command: str
    rows: int
    script: Sequence[Step]
    acts: Sequence[tuple[str, State]]


# ==== the scenes ====

NOTES: Final = "kimi-agent chat 11_cli_agent:Notes"
START: Final = "", asks_below("Ctrl-D leaves")

CHAT: Final = """Two notes:

| # | note | needs |
|---|---|---|
| 1 | water the plants | **dry soil**, so not after rain |
| 2 | call Ada | a quiet hour |

A script reads them with `kimi-agent run`:

```python
import subprocess

ask = ["kimi-agent", "run", "List the notes.", "--agent", "11_cli_agent:Notes"]
print(subprocess.run(ask, capture_output=True, text=True).stdout)
```

- Standard output has the answer and *nothing else*.
- The exit code is 0 if there is one."""

THINKS_FIRST: Final = """
    think: "The notes are in a function. "
    delay: 2
    think: "I read them first, and then make a table of them."
    tool_call: {"name": "list_notes", "arguments": "{}"}
"""
"""The delay is the model's; the picture has it as the time that it thought."""

SCENES: Final[dict[str, Scene]] = {
    "chat": Scene(
        NOTES,
        29,
        [THINKS_FIRST, say(CHAT)],
        [START, ("Show my notes as a table. How does a script read them?\r", asks_below("exit code"))],
    ),
    "working": Scene(
        f"{NOTES} --tools weather:forecast",
        12,
        [
            Reply(
                "I look at both: what you noted, and whether it rains.",
                tool_calls=[call("list_notes"), call("forecast", city="Bergen", days=2)],
            )
        ],
        [START, ("Do the plants need me this weekend?\r", shows(r"days=2\) · ([2-9]|\d\d) s"))],
    ),
    "approval": Scene(
        NOTES,
        12,
        [
            Reply(
                "Number 2 is about Ada.",
                reasoning="She called, so it can go.",
                tool_calls=[call("delete_note", number=2)],
            ),
            Failure(429, "rate_limit_reached_error", "slow down", retry_after=8),
        ],
        [
            START,
            ("Ada called me. Forget about her.\r", shows("or what to do instead:")),
            ("y\r", shows(r"again in \d s")),
        ],
    ),
    "help": Scene(NOTES, 28, [], [START, ("/help\r", asks_below("//text"))]),
}


# ==== making them ====


async def pictures() -> dict[str, str]:
    """All scenes as SVG, by the names of their files in the site."""
    drawn = await asyncio.gather(*map(taken, SCENES.values()))
    return {f"pictures/{name}.svg": svg for name, svg in zip(SCENES, drawn, strict=True)}


async def taken(scene: Scene) -> str:
    """A scene as SVG. Where lines have scrolled away it is played again, with room for them."""
    rows = scene.rows
    while True:
        async with KimiServer(scene.script) as server:
            with TemporaryDirectory() as folder:
                svg, missing = await asyncio.to_thread(_played, scene, rows, _environment(server, folder))
        if not missing:
            return svg
        rows += missing


def _environment(server: KimiServer, folder: str) -> dict[str, str]:
    return {
        "KIMI_API_KEY": server.api_key,
        "KIMI_BASE_URL": server.base_url,
        "KIMI_AGENT_SESSIONS": f"{folder}/sessions.db",
        "KIMI_AGENT_RANKS": f"{folder}/none",
        "XDG_STATE_HOME": folder,
        "PYTHONPATH": PATHS,
    }


def _played(scene: Scene, rows: int, environment: Mapping[str, str]) -> tuple[str, int]:
    """The picture, and how many lines are not in it."""
    command = [sys.executable, "-m", "kimi_agent", *shlex.split(scene.command)[1:]]
    terminal = Terminal(command, columns=COLUMNS, rows=rows, **environment)
    try:
        for keys, state in scene.acts:
            terminal.press(keys)
            terminal.until(lambda state=state: state(terminal))
        return picture(terminal.screen, f"$ {scene.command}"), len(terminal.screen.lines_before)
    finally:
        terminal.close()
