"""Every example, as a reader runs it, against a Kimi on the loopback interface.

Most of them run in this process, as `python example.py` would run them: nobody waits for the imports of twenty more.
"""

import asyncio
import io
import json
import os
import runpy
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from serving import NAMES, serving

from kimi_agent.testing import KimiServer, call, say

EXAMPLES = Path(__file__).parent.parent / "examples"
CONVERSATIONS = sorted(
    (path.name for path in EXAMPLES.glob("[0-9]*_*.py")), key=lambda name: int(name.partition("_")[0])
)

PRINTED = {
    "1_hello.py": [
        "answer: ",
        "You said: What is my name?",
        "     user: My name is Ada.",
        "assistant: ",
        "tokens went in",
    ],
    "2_tools.py": [
        'assistant calls get_weather({"city": "Oslo"})',
        'assistant calls get_weather({"city": "Bergen"})',
        'tool: {"city":"Oslo","temperature":4,"unit":"c"}',
        'tool: {"city":"Bergen","temperature":7,"unit":"c"}',
        "tool (error): There is no weather station in Atlantis. Stations: Oslo, Bergen.",
    ],
    "3_streaming.py": [
        "assistant: [get_weather]",
        "tool: Oslo: 4 °C, rain",
        "assistant: get_weather (Oslo) says: Oslo: 4 °C, rain",
        "[thinks] ",
        '[calls] get_weather({"city": "Bergen"})',
        "[end] tool_calls",
        "[result] Bergen: 4 °C, rain",
        "[says] ",
        "[end] stop",
    ],
    "4_save_load.py": [
        "saved 2 messages",
        "loaded 2 messages, pinned: 'You are terse.'",
        "You said: What is my name?",
        "the conversation has 4 messages and cost ",
    ],
    "5_primitives.py": [
        "role='assistant'",
        "name='add', arguments='{\"a\": 2, \"b\": 3}'",
        "return_value=ToolOk(is_error=False, output='5'",
        "answer: add (2, 3) says: 5",
    ],
    "6_frames.py": [
        "[call] get_weather {'city': 'Oslo'}",
        "[end] tool_calls, ",
        "[event] get_weather took ",
        "[result] Oslo: 4 °C, rain",
        "[text] ",
        "[end] stop, ",
        "all text: get_weather (Oslo) says: Oslo: 4 °C, rain",
        "messages: ['assistant', 'tool', 'assistant']",
        "You said: Thank you.",
    ],
    "7_books.py": [
        "1. The Great Gatsby by F. Scott Fitzgerald: shelf F",
        "2. Middlemarch by George Eliot: shelf E",
        "in the history: ['user', 'assistant']",
    ],
    "8_approval.py": [
        "tool: Not run: the user did not approve this call.",
        "Accounts are closed at the counter.",
        "tool: 20 went to Ada",
        "waiting: [('transfer_money', {'to': 'Bob', 'amount': 500})]",
        "tool: 500 went to Bob",
        "assistant: ",
    ],
    "9_mcp.py": [
        "nowhere: the MCP server 'nowhere' (a-server-that-is-not-installed) could not be reached",
        "tools: ['weather_get']",
        'assistant calls weather_get({"city": "Oslo"})',
        "tool: Oslo: 4 °C",
        "tool (error): The tool reports an error.",
    ],
    "10_subagents.py": [
        "[ask_scout > get_weather] 4 °C, rain",
        "[ask_scout > get_weather] 7 °C, rain",
        "tool: get_weather (Oslo) says: 4 °C, rain",
        "tool: get_weather (Bergen) says: 7 °C, rain",
        "assistant: ask_scout (What is the weather in Oslo?) says: get_weather (Oslo) says: 4 °C, rain",
        "You said: Do you believe that?",
        "the boss has 5 messages, the fork 7",
        "together they made 7 requests, the fork 1 of them",
        "paid by the scout itself: 0",
    ],
    "11_cli_agent.py": [
        'USER: Add the note "buy tea".',
        "Thinking... [add_note(text='buy tea')]",
        "FUNC: 3",
        "delete_note(number=2)",
        "Run delete_note? [y]es, [a]lways, [N]o, or what to do instead: y",
        "FUNC: deleted: call Ada",
        "delete_note(number=1)",
        "FUNC: Not run: the user did not approve this call. Do not repeat it unasked. The user says: I need it.",
        "USER: ",
    ],
    "12_context.py": [
        "tool: The log of 9:00",
        "read_log (9) says: The log of 9:00",
        "tool: The log of 13:00",
        "stopped: the limit requests=9 is reached",
        "9 requests, ",
        "the cost is known: True - counted exactly: False",
    ],
    "13_few_shot.py": [
        "assistant: ['convert']",
        "tool: 17.40 EUR",
        "assistant: convert (200, SEK) says: 17.40 EUR",
        "in the prompt: ['system', 'user', 'assistant', 'tool', 'assistant']",
        "in the history: ['user', 'assistant', 'tool', 'assistant']",
    ],
    "14_last_four.py": [
        "You said: My name is Ada.",
        "You said: What is my name?",
        "in the history: 8 - in the prompt: 5",
    ],
    "15_errors.py": [
        "for the log: the database db-3.internal does not answer",
        "tool (error): The stock list is closed today. Tell the user to call the shop.",
        "assistant: get_stock (tea) says: The stock list is closed today.",
        "tool (error): Error: KeyError: 'milk'",
    ],
    "16_log.py": [
        "assistant said something",
        "tool said something",
        "assistant said something",
        ": user What is the weather in Oslo?",
        ": assistant [",
        ": tool Oslo: 4 °C, rain",
        ": assistant ",
    ],
    "17_retrieval.py": [
        'assistant calls search({"query": "late books"})',
        'tool: [{"page":"fees","text":"A late book costs 0.20 EUR a day, and 10 EUR at most."}',
        "assistant: search (late books) says: ",
    ],
    "18_web.py": [
        'data: {"type": "Reasoning"',
        'data: {"type": "Append", "text": "I am the offline',
        'data: {"type": "End", "finish_reason": "stop"',
        "You said: What is an agent?",
    ],
    "19_selfhosted.py": [
        'assistant:  get_weather({"city": "Oslo"})',
        "tool: Oslo: 4 °C, rain",
        'assistant: It has 4 °C there. to_fahrenheit({"celsius": 4})',
        "tool: 39.2",
        "assistant: It is 39.2 °F in Oslo.",
    ],
    "20_kimi.py": [
        "kimi-k3: a window of 1,048,576 tokens, efforts low, high, max",
        "refused: kimi-k3 always thinks; its least effort is 'low'",
        "tokens: ",
        "You said: Which is warmer?",
    ],
}
"""What each example prints when the stand-in answers, in this order."""

TYPED = {
    "11_cli_agent.py": 'Add the note "buy tea".\nDelete note number 2.\ny\nDelete note number 1.\nI need it.\n',
}
"""What somebody says to those that are a chat."""


async def output_of(*arguments: str, said: str = "", **environment: str) -> str:
    """What a Python process prints that must end well and say nothing on stderr."""
    keyless = {name: value for name, value in os.environ.items() if not name.startswith(("KIMI_", "MOONSHOT_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env={**keyless, "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "error", **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, complaints = await process.communicate(said.encode())
    assert (process.returncode, complaints.decode()) == (0, "")
    return printed.decode()


def assert_in_order(printed: str, pieces: list[str]) -> None:
    position = 0
    for piece in pieces:
        found = printed.find(piece, position)
        assert found >= 0, f"{piece!r} is not in its place in:\n{printed}"
        position = found + len(piece)


def test_every_example_is_checked():
    assert list(PRINTED) == CONVERSATIONS


@pytest.fixture(scope="module")
def kimi() -> Generator[KimiServer]:
    with serving() as server:
        yield server


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_an_example_prints_what_it_is_there_for(
    name: str, kimi: KimiServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for variable in NAMES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("KIMI_API_KEY", kimi.api_key)
    monkeypatch.setenv("KIMI_BASE_URL", kimi.base_url)
    monkeypatch.setattr("sys.argv", [str(EXAMPLES / name)])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TYPED.get(name, "").encode()), "utf-8"))
    monkeypatch.syspath_prepend(EXAMPLES)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr()
    assert printed.err == ""
    assert_in_order(printed.out, PRINTED[name])


async def test_an_example_runs_without_a_key():
    printed = await output_of(str(EXAMPLES / "offline.py"), str(EXAMPLES / "1_hello.py"))
    assert_in_order(printed, PRINTED["1_hello.py"])


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_an_example_is_short(name: str):
    assert len((EXAMPLES / name).read_text("utf-8").splitlines()) <= 55


async def test_the_model_of_the_second_example_may_try_again_after_an_error():
    script = [say("Bergen."), call("get_weather", city="Atlantis"), call("get_weather", city="Oslo"), say("4 degrees.")]
    async with KimiServer(script) as server:
        example = str(EXAMPLES / "2_tools.py")
        printed = await output_of(example, KIMI_API_KEY=server.api_key, KIMI_BASE_URL=server.base_url)
        server.assert_complete()
    retold = json.dumps(server.requests[2].body["messages"])
    assert "There is no weather station in Atlantis" in retold
    assert_in_order(
        printed,
        [
            "tool (error): There is no weather station in Atlantis.",
            'calls get_weather({"city": "Oslo"})',
            "assistant: 4 degrees.",
        ],
    )
