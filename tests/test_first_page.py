"""Who follows the first page has an agent of his own that answers, with a key or without."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Run, runner, serving

QUICKSTART = (Path(__file__).parent.parent / "README.md").read_text("utf-8").partition("## Quickstart")[2]
FENCES = re.findall(r"^```(\w+)\n(.*?)^```$", QUICKSTART, re.MULTILINE | re.DOTALL)


def first(language: str) -> str:
    return next(text for found, text in FENCES if found == language)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Run]:
    """The command, where the program of the page has been saved under the name that the page says."""
    monkeypatch.chdir(tmp_path)
    name = re.search(r"Save this as `(\w+\.py)`", QUICKSTART)
    assert name
    Path(name[1]).write_text(first("python"), "utf-8")
    yield runner(monkeypatch, capsys)
    sys.modules.pop(Path(name[1]).stem)


def test_without_a_key_it_prints_what_the_page_says(run: Run):
    command, _, said = first("console").removeprefix("$ kimi-agent ").partition("\n")
    done = run(*shlex.split(command))
    assert (done.code, done.out, done.err) == (0, said, "")


def test_with_a_key_the_same_command_asks_the_platform(run: Run):
    command = first("console").removeprefix("$ kimi-agent ").partition(" --offline\n")[0]
    with serving() as server:
        assert run(*shlex.split(command), server=server).code == 0
        assert [request.body["model"] for request in server.requests] == ["kimi-k3"] * 2
