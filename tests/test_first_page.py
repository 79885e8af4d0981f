"""Who follows the first page has an agent of his own that answers, with a key or without."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Run, runner, serving

ROOT = Path(__file__).parent.parent
QUICKSTART = (ROOT / "README.md").read_text("utf-8").partition("## Quickstart")[2]
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


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="this console takes blocks of code from a terminal alone")
def test_what_follows_goes_on_in_a_console_of_asyncio(tmp_path: Path):
    """All of it that the page does not call a script of your own."""
    said = re.search(r"start `python -m asyncio` beside `weather.py`,\s+say `(.+)`, and paste them", QUICKSTART)
    assert said
    pasted = [text for language, text in FENCES if language == "python" and "chat_in_terminal" not in text]
    (tmp_path / "weather.py").write_text(pasted[0], "utf-8")
    with serving() as server:
        keys = {"KIMI_API_KEY": server.api_key, "KIMI_BASE_URL": server.base_url}
        done = subprocess.run(
            [sys.executable, "-m", "asyncio"],
            input="\n".join([said[1], *pasted[1:], ""]),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "PYTHON_BASIC_REPL": "1", **keys},
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )
    assert "Traceback" not in done.stderr, done.stderr
    for language, text in FENCES:
        assert language != "text" or text in done.stdout
