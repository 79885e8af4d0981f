"""What others need for the same work: CPU per text delta, per round of tools and per prompt; import, size.

    python tests/bench/peers.py --folder .venv-peers

Each library of `peers.txt` gets an environment of its own in the folder, made on first use by the Python that runs
this: they do not agree on their dependencies. A loopback server sends everybody the same bytes. The contestants are
processes that work one at a time, by turns, in another order each time; the first repetition warms up and of the
others the median counts. A library that is missing or fails gets dashes, and the reason stands below the tables.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import re
import reprlib
import statistics
import subprocess
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

import loopback

HERE = Path(__file__).resolve().parent
LIMIT = 300.0
"""Seconds after which one piece of work is given up."""
ENVIRONMENT = {**os.environ, "NO_PROXY": "127.0.0.1", "PYDANTIC_DISABLE_PLUGINS": "1", "PYTHONDONTWRITEBYTECODE": ""}

DELTAS, SLOW, CALLS, AFTER = 2_000, 500, 8, 100
"""Of a text, of one that comes slowly, of a message with calls, and of the text after their results."""
PAUSE = 0.002
"""Seconds between two deltas of a text that comes slowly."""
ROUNDS = 20
"""Of tools, which are short, in a row."""
SAID, KEPT = 10_000, 9_900
"""Messages of a long conversation, and how many of them fit where not all do."""


# ==== who takes part ====

OURS, FLOOR, AGENT = "kimi_agent", "httpx by hand", "kimi_agent, `Agent`"
ROWS = {
    FLOOR: (OURS, "by hand"),
    "kimi_agent, `step`": (OURS, "step"),
    AGENT: (OURS, "Agent"),
    "openai": ("openai", "openai"),
    "kosong": ("kosong", "kosong"),
    "kani": ("kani", "kani"),
    "openai-agents": ("openai-agents", "openai-agents"),
    "pydantic-ai-slim": ("pydantic-ai-slim", "pydantic-ai-slim"),
}
"""Whose environment a contestant needs, and its name in `contestants.py`."""
IMPORTS = {
    OURS: "from kimi_agent import Agent, Kimi, ai_function",
    "openai": "from openai import AsyncOpenAI",
    "kosong": "import kosong, kosong.chat_provider.kimi, kosong.tooling.simple",
    "kani": "import kani, kani.engines.openai",
    "openai-agents": "from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool",
    "pydantic-ai-slim": "from pydantic_ai import Agent; from pydantic_ai.models.openai import OpenAIChatModel",
}
"""What a program with an agent imports."""


# ==== the server, in a process of its own ====


def answers() -> loopback.Answers:
    """By the path; below `tools` by who spoke last."""
    text, calls = loopback.answer(loopback.words(DELTAS)), loopback.answer(loopback.additions(CALLS), "tool_calls")
    after = loopback.answer(loopback.words(AFTER))
    texts = {
        "whole": loopback.in_one_body(text),
        "chunks": loopback.in_chunks(text),
        "slowly": loopback.in_chunks(loopback.answer(loopback.words(SLOW)), PAUSE),
        "word": loopback.in_one_body(loopback.answer(loopback.words(1))),
    }
    rounds = {
        "tools-whole": {"user": loopback.in_one_body(calls), "tool": loopback.in_one_body(after)},
        "tools-chunks": {"user": loopback.in_chunks(calls), "tool": loopback.in_chunks(after)},
    }

    def choose(path: bytes, body: bytes) -> loopback.Delivery:
        name = path.decode().split("/")[1]
        return texts[name] if name in texts else rounds[name][json.loads(body)["messages"][-1]["role"]]

    return choose


# ==== the work ====


def text_of(count: int) -> str:
    return "".join(f" word{number % 97}" for number in range(count))


def is_text(pieces: list[str], count: int) -> bool:
    """Whether all of it came, each delta by itself; empty ones do not count."""
    return "".join(pieces) == text_of(count) and sum(map(bool, pieces)) == count


def are_texts(count: int) -> Callable[[list[Any]], bool]:
    return lambda outcomes: all(is_text(pieces, count) for pieces in outcomes)


def are_rounds(outcomes: list[Any]) -> bool:
    """Whether the calls gave what they should, and the text after them came."""
    return all(sums == loopback.sums(CALLS) and is_text(pieces, AFTER) for sums, pieces in outcomes)


def are_prompts(outcomes: list[int]) -> bool:
    """Whether everything is in the first two, the system prompt, too, and most of it in the others."""
    return outcomes[:2] == [SAID + 1] * 2 and all(KEPT // 2 < messages <= KEPT + 1 for messages in outcomes[2:])


@dataclass(frozen=True)
class Work:
    """What a contestant is told to do.

    Args:
        name: of the work.
        path: of the server, which says how it answers.
        right: whether the outcomes are what they should be.
        per_second: what a second of CPU is in the unit of the columns.
        columns: one for each outcome; a single one is the mean of all.
        numbers: how much of it there is.
        rows: who has it; all, unless it says who.
    """

    name: str
    path: str
    right: Callable[[list[Any]], bool]
    per_second: float
    columns: tuple[str, ...]
    numbers: tuple[int, ...] = ()
    rows: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What it is called below the tables."""
        return f"{self.name}, {self.columns[0]}"

    def figures(self, said: Any) -> list[float]:
        """One for each column.

        Raises:
            FailedError: something went wrong, or came out wrong.
        """
        if isinstance(said, str):
            raise FailedError(said)
        outcomes = [outcome for _, outcome in said]
        if not self.right(outcomes):
            raise FailedError(f"it gave something else: {reprlib.repr(outcomes)}")
        costs = [seconds * self.per_second for seconds, _ in said]
        return costs if len(self.columns) > 1 else [statistics.mean(costs)]


def pace(path: str, deltas: int, column: str) -> Work:
    """A text on its way in one manner."""
    return Work("text", path, are_texts(deltas), 1e6 / deltas, (column,))


def rounds(path: str, column: str) -> Work:
    return Work("tools", path, are_rounds, 1e3, (column,), (ROUNDS,))


PROMPTS = Work(
    "prompt", "word", are_prompts, 1e3, ("all fit", "again", f"{KEPT:,} fit", "again"), (SAID, KEPT), (AGENT, "kani")
)
"""Of those that fit a conversation to a window."""

TABLES: dict[str, Sequence[Work]] = {
    "CPU per text delta, µs": [
        pace("whole", DELTAS, "one body"),
        pace("chunks", DELTAS, "a chunk per delta"),
        pace("slowly", SLOW, f"a chunk every {PAUSE * 1e3:.0f} ms"),
    ],
    f"CPU per round of {CALLS} calls and {AFTER} deltas, ms": [
        rounds("tools-whole", "one body"),
        rounds("tools-chunks", "a chunk per delta"),
    ],
    f"CPU of a turn behind {SAID:,} messages, ms": [
        Work("history", "word", are_texts(1), 1e3, ("the first", "the next"), (SAID,)),
    ],
    f"CPU of the prompt of {SAID:,} messages, ms": [
        PROMPTS,
    ],
}


# ==== the contestants, each in a process of its environment ====


class FailedError(Exception):
    """A contestant did not do its work; the text is the reason."""


class Worker:
    """A contestant at work."""

    def __init__(self, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self.process, self.errors = process, errors

    @classmethod
    @asynccontextmanager
    async def started(cls, python: Path, contestant: str) -> AsyncGenerator[Worker, None]:
        """A process that ends with the block."""
        command = [python, "-P", HERE / "contestants.py", contestant]
        with tempfile.TemporaryFile() as errors:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, stderr=errors, env=ENVIRONMENT, limit=2**24
            )
            try:
                yield cls(process, errors)
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()

    async def do(self, work: Work, url: str) -> list[float]:
        """The work, in the unit of its columns: one figure for each.

        Raises:
            FailedError: it was not done, or not right.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([work.name, f"{url}/{work.path}", *work.numbers]).encode() + b"\n")
        try:
            line = await asyncio.wait_for(self.process.stdout.readline(), LIMIT)
        except TimeoutError:
            self.process.kill()
            raise FailedError(f"not done after {LIMIT:.0f} s") from None
        return work.figures(json.loads(line)) if line else self._fail()

    def _fail(self) -> NoReturn:
        self.errors.seek(0)
        raise FailedError(last_line(self.errors.read().decode(errors="replace")))


def last_line(text: str) -> str:
    """Of what a program said before it failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"


# ==== environments ====


@dataclass(frozen=True)
class Weight:
    """What a library is, installed.

    Args:
        version: of the library.
        distributions: that pip installs for it, itself included.
        megabytes: of all their files, compiled ones left out.
    """

    version: str
    distributions: int
    megabytes: float


WEIGHED = """import importlib.metadata as metadata, json, pathlib, sys, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib"))
own = [one for one in metadata.distributions() if one.name not in ("pip", "setuptools")]
pip = {path for path in site.glob("*") if path.name.startswith(("pip", "setuptools", "_distutils_hack"))}
files = [path for path in site.rglob("*") if path.is_file() and path.suffix != ".pyc" and not pip & {*path.parents}]
print(json.dumps([metadata.version(sys.argv[1]), len(own), sum(path.stat().st_size for path in files) / 1e6]))"""


def requirements() -> dict[str, str]:
    """Of all libraries, by name."""
    lines = (HERE / "peers.txt").read_text("utf-8").split()
    return {OURS: str(HERE.parent.parent), **{re.split(r"[\[=]", line)[0]: line for line in lines}}


def installed(name: str, requirement: str, folder: Path) -> Path:
    """The Python of its environment, which is made unless it is there; ours is made anew.

    Raises:
        FailedError: it cannot be installed.
    """
    python, ready = folder / name / "bin" / "python", folder / name / "ready"
    if name != OURS and ready.exists() and ready.read_text("utf-8") == requirement:
        return python
    print(f"installing {name}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder / name], check=True)
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError(why_not(requirement, done.stderr))
    ready.write_text(requirement, "utf-8")
    return python


def why_not(requirement: str, errors: str) -> str:
    """In a few words, by what pip says."""
    version = re.escape(requirement.rpartition("==")[2])
    needed = re.search(rf" {version} Requires-Python ([^;\s]+)", errors)
    return f"it needs Python {needed[1]}" if needed else last_line(errors)


def run(python: Path, code: str, *arguments: str) -> Any:
    """What a program prints, as JSON.

    Raises:
        FailedError: it failed.
    """
    command = [python, "-P", "-c", code, *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=LIMIT)
    if done.returncode:
        raise FailedError(last_line(done.stderr))
    return json.loads(done.stdout)


IMPORT = """import time
before = time.process_time()
{}
print(time.process_time() - before)"""
ANSWER = """import asyncio, sys
sys.path.append(sys.argv[1])
import contestants
assert asyncio.run(contestants.CONTESTANTS[sys.argv[2]](sys.argv[3]).text())"""


# ==== the figures ====


@dataclass
class Figures:
    """What was measured, and why some of it was not."""

    weights: dict[str, Weight] = field(default_factory=dict)
    starts: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Milliseconds of CPU of an import, and of an import and a first answer."""
    works: dict[tuple[str, Work], list[list[float]]] = field(default_factory=dict)
    """By row and work: the columns of each repetition."""
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    """By library or row, and what it was to do."""

    def medians(self, row: str, work: Work) -> list[float] | None:
        """One for each column."""
        measured = self.works.get((row, work))
        return [statistics.median(column) for column in zip(*measured, strict=True)] if measured else None


def weigh(pythons: Mapping[str, Path], figures: Figures) -> None:
    for name, python in pythons.items():
        figures.weights[name] = Weight(*run(python, WEIGHED, name))


def measure_starts(pythons: Mapping[str, Path], url: str, runs: int, figures: Figures) -> None:
    """In fresh processes that take turns; the first run of each counts for nothing."""
    contestant = dict(ROWS.values())
    for number in range(runs + 1):
        for name in turns(pythons, number):
            python, arguments = pythons[name], (str(HERE), contestant[name], f"{url}/word")
            imported = run(python, IMPORT.format(IMPORTS[name])) * 1e3
            answered = run(python, IMPORT.format(ANSWER), *arguments) * 1e3
            if number:
                figures.starts.setdefault(name, []).append((imported, answered))


async def measure_works(pythons: Mapping[str, Path], url: str, repetitions: int, figures: Figures) -> None:
    """All rows take turns at each work; the first repetition counts for nothing."""
    rows = {row: (pythons[library], name) for row, (library, name) in ROWS.items() if library in pythons}
    async with AsyncExitStack() as stack:
        workers = {row: await stack.enter_async_context(Worker.started(*which)) for row, which in rows.items()}
        for number in range(repetitions + 1):
            for work in (work for works in TABLES.values() for work in works):
                for row in turns(workers, number):
                    if is_done_by(row, work) and (row, work.label) not in figures.failures:
                        await measure(row, workers[row], work, url, figures, counts=number > 0)
            print(f"repetition {number} of {repetitions} is done", file=sys.stderr)


def is_done_by(row: str, work: Work) -> bool:
    return not work.rows or row in work.rows


async def measure(row: str, worker: Worker, work: Work, url: str, figures: Figures, *, counts: bool) -> None:
    try:
        measured = await worker.do(work, url)
    except FailedError as error:
        figures.failures[row, work.label] = str(error)
        figures.works = {key: value for key, value in figures.works.items() if key != (row, work)}
        return
    if counts:
        figures.works.setdefault((row, work), []).append(measured)


def turns(names: Iterable[str], number: int) -> list[str]:
    """The names, beginning with another one each time."""
    ordered = list(names)
    first = number % len(ordered)
    return ordered[first:] + ordered[:first]


# ==== the tables ====

NOTHING = "–"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """As markdown: text to the left, numbers to the right."""
    lines = [titles, ["---", *["--:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def figure(value: float) -> str:
    """Three digits tell enough."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def work_table(title: str, works: Sequence[Work], figures: Figures) -> str:
    def cells(row: str) -> list[str]:
        measured = [(figures.medians(row, work), work) for work in works]
        return [text for medians, work in measured for text in (map(figure, medians) if medians else dashes(work))]

    def dashes(work: Work) -> list[str]:
        return [NOTHING] * len(work.columns)

    columns = [column for work in works for column in work.columns]
    rows = [row for row in ROWS if any(is_done_by(row, work) for work in works)]
    return table([title, *columns], ([row, *cells(row)] for row in rows))


def overhead_table(figures: Figures) -> str:
    """What is above the work by hand, for the agent and for whoever needs least of the others."""
    compared = [work for works in TABLES.values() for work in works if work.name in ("text", "tools")]
    rows = [overheads(work, figures) for work in compared]
    titles = ["CPU above httpx by hand", "`Agent`", "the least of the others", "share"]
    return table(titles, filter(None, rows))


def overheads(work: Work, figures: Figures) -> list[str] | None:
    costs = {row: medians[0] for row in ROWS if (medians := figures.medians(row, work))}
    floor = costs.get(FLOOR)
    others = {row: cost for row, cost in costs.items() if ROWS[row][0] != OURS}
    if floor is None or AGENT not in costs or not others:
        return None
    ours, least = costs[AGENT] - floor, min(others, key=others.__getitem__)
    other = others[least] - floor
    share = f"1/{other / ours:.1f}" if ours > 0 else NOTHING
    return [work.label, figure(ours), f"{figure(other)} ({least})", share]


def weight_table(figures: Figures) -> str:
    titles = ["library", "version", "import, ms", "import and a first answer, ms", "distributions", "MB"]
    return table(titles, ([name, *weight_cells(name, figures)] for name in IMPORTS))


def weight_cells(name: str, figures: Figures) -> list[str]:
    if name not in figures.weights or name not in figures.starts:
        return [NOTHING] * 5
    weight, starts = figures.weights[name], zip(*figures.starts[name], strict=True)
    imported, answered = (figure(statistics.median(times)) for times in starts)
    return [weight.version, imported, answered, str(weight.distributions), figure(weight.megabytes)]


def print_tables(figures: Figures) -> None:
    machine = f"{os.cpu_count()} cores, CPython {platform.python_version()}"
    print(f"Measured on {datetime.date.today()} with {machine}.\n")
    for title, works in TABLES.items():
        print(work_table(title, works, figures), end="\n\n")
    print(overhead_table(figures), end="\n\n")
    print(weight_table(figures))
    for (name, work), reason in figures.failures.items():
        print(f"\n{NOTHING} {name}, {work}: {reason}")


# ==== all of it ====


def environments(folder: Path, figures: Figures) -> dict[str, Path]:
    """The Python of each library that could be installed."""
    pythons: dict[str, Path] = {}
    for name, requirement in requirements().items():
        try:
            pythons[name] = installed(name, requirement, folder)
        except FailedError as error:
            figures.failures[name, "installation"] = str(error)
    return pythons


def main() -> None:
    """Make the environments, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(".venv-peers"), help="of the environments")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--starts", type=int, default=9, help="of fresh processes, for each library")
    options = loopback.options(parser, lambda: loopback.serve(answers()))
    figures = Figures()
    pythons = environments(options.folder.resolve(), figures)
    weigh(pythons, figures)
    with loopback.served_by(__file__) as url:
        measure_starts(pythons, url, options.starts, figures)
        asyncio.run(measure_works(pythons, url, options.repetitions, figures))
    print_tables(figures)


if __name__ == "__main__":
    main()
