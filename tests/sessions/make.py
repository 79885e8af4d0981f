"""Write the saved files of a release, once, and never again: `python tests/sessions/make.py`.

They go to a folder beside this script that is named after the version. `digests.json` in it has what each file is to
load as, for ever: see `tests/test_saved_files.py`. A folder that is there is left alone. Nobody changes an old one; a
change that cannot read it is a change of the format's major version.
"""

import asyncio
import json
import random
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import SerializationInfo, ValidationInfo, field_serializer, field_validator

from kimi_agent import __version__
from kimi_agent.limits import Spent
from kimi_agent.message import (
    KEEP_UNKNOWN,
    AudioURLPart,
    ContentPart,
    FrozenDict,
    ImageURLPart,
    MediaURL,
    Message,
    TextPart,
    ThinkPart,
    ToolCall,
    UnknownPart,
    VideoURLPart,
)
from kimi_agent.session import JournalSession, SQLiteSessionStore
from kimi_agent.session.blobs import get_ctx, is_name
from kimi_agent.session.codec import encode
from kimi_agent.session.file import load, save
from kimi_agent.session.state import SessionState

NEWER = {"new": {"deep": [1, None, {"x": None}]}, "none": None}


class SavedSound(ContentPart):
    """A part of a user's own, whose bytes are not text."""

    type: str = "saved_sound"
    samples: bytes

    @field_serializer("samples", when_used="json")
    def _store(self, samples: bytes, info: SerializationInfo[Any]) -> str:
        context = get_ctx(info)
        return context.save_bytes(samples, ".raw") if context else b64encode(samples).decode()

    @field_validator("samples", mode="before")
    @classmethod
    def _fetch(cls, value: Any, info: ValidationInfo[Any]) -> Any:
        if not isinstance(value, str):
            return value
        context = get_ctx(info)
        return context.load_bytes(value) if context and is_name(value) else b64decode(value)


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def data_url(kind: str, seed: int, length: int) -> MediaURL:
    return MediaURL(url=f"data:{kind};base64,{b64encode(noise(seed, length)).decode()}")


def call(call_id: str, name: str, arguments: str | None) -> ToolCall:
    return ToolCall(id=call_id, function=ToolCall.FunctionBody(name=name, arguments=arguments))


def conversation() -> SessionState:
    """Everything that a conversation can have."""
    large = ImageURLPart(image_url=data_url("image/png", 1, 4500))
    small = ImageURLPart(image_url=data_url("image/gif", 2, 30), extra={"seen": True})
    said = (
        Message.user("Wie ist das Wetter? 天气 ☀ \ud83d", extra={"rated": 5, "nothing": None, "half": {"\udc00": 0.1}}),
        Message.assistant(
            [ThinkPart(think="They mean two towns."), ThinkPart(think="", encrypted="c2lnbmF0dXJl"), "One moment."],
            tool_calls=[call("look:0", "look", '{"where": "Köln"}'), call("look:1", "look", "{not json")],
        ),
        Message.tool("sunny", "look:0", name="look"),
        Message.tool("the arguments are no JSON", "look:1", name="look", is_tool_call_error=True),
        Message.user([large, "this, a small one, and a file:", small], name="anna"),
        Message.user([large, ImageURLPart(image_url=MediaURL(url="ms://f1", id="p"))]),
        Message.user([AudioURLPart(audio_url=data_url("audio/wav", 3, 3100))]),
        Message.user([VideoURLPart(video_url=MediaURL(url="ms://f2"))]),
        Message.user(UnknownPart(type="hologram", data={"a": None, "b": [1, {"c": None}]}, extra={"k": "v"})),
        Message.user(TextPart(text="not a blob", extra={"$blob": "0" * 64, "deep": {"$$blob": [1, 1.5, True]}})),
        Message.user(SavedSound(samples=noise(4, 200))),
        newer_message(),
        Message.assistant([ThinkPart(think=""), "So it is"], partial=True),
        Message.assistant(tool_calls=[call("open:0", "wait", None)]),
    )
    return SessionState(
        always_included_messages=(Message.system("Be terse."), Message.user("I am Ada.", extra={"pinned": 1})),
        chat_history=said,
        usage=Spent(input_other=10, output=5, input_cache_read=3, requests=2, tool_calls=2, cost=0.125),
        cut=4,
        scale=1.25,
        prompt_cache_key="conversation-1",
        unknown=FrozenDict(later=NEWER, window=FrozenDict(NEWER)),
        counted={"tokens": 77, "overhead": 11, "answer": 1, "by": "k"},
    )


def newer_message() -> Message:
    """Of a version that knows more: new fields at every depth, and a part that nobody knows."""
    function = {"name": "f", "arguments": "{}", **NEWER}
    fields = {
        "role": "assistant",
        "content": [{"type": "text", "text": "hi", **NEWER}, {"type": "later", "a": None, **NEWER}],
        "tool_calls": [{"type": "function", "id": "new:0", "function": function, **NEWER}],
        **NEWER,
    }
    return Message.model_validate(fields, context=KEEP_UNKNOWN)


def digest(state: SessionState) -> str:
    """What a conversation is, whatever it was read from."""
    plain = {
        "pinned": [json.loads(encode(message)) for message in state.always_included_messages],
        "said": [json.loads(encode(message)) for message in state.chat_history],
        "usage": json.loads(encode(state.usage)),
        "window": [state.cut, state.scale, dict(state.counted or {})],
        "key": state.prompt_cache_key,
        "unknown": json.loads(encode(state.unknown)),
    }
    return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


async def keep(state: SessionState, folder: Path) -> None:
    """The conversation in a journal and in a database, with a checkpoint and what was said after it."""
    async with SQLiteSessionStore(folder / "talk.db") as store:
        for session in (JournalSession(folder / "talk.journal"), store.open("talk")):
            await session.replace(state, reason="begin")
            await session.checkpoint("whole")
            await session.append([Message.user("Never mind.")])
            await session.rollback("whole")
            await session.aclose()


async def read_journal(path: Path) -> SessionState:
    """What a journal has."""
    session = JournalSession(path)
    state = await session.load()
    await session.aclose()
    return state


async def read_database(path: Path) -> SessionState:
    """What a database has of the conversation."""
    async with SQLiteSessionStore(path) as store:
        return await store.open("talk").load()


READERS: dict[str, Callable[[Path], SessionState]] = {
    ".json": load,
    ".kimi": load,
    ".journal": lambda path: asyncio.run(read_journal(path)),
    ".db": lambda path: asyncio.run(read_database(path)),
}
"""How a saved file of each kind is read. What has no suffix of these goes with a file that has."""


def write(folder: Path) -> None:
    """All files of this release."""
    folder.mkdir()
    state = conversation()
    save(folder / "talk.json", state)
    save(folder / "talk.kimi", state)
    save(folder / "empty.json", SessionState())
    newer = (folder / "talk.json").read_bytes().replace(b'"version": "1.0"', b'"version": "1.7"')
    (folder / "newer.json").write_bytes(newer)
    asyncio.run(keep(state, folder))
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    files = [path for path in sorted(folder.iterdir()) if path.suffix in READERS]
    digests = {path.name: digest(READERS[path.suffix](path)) for path in files}
    (folder / "digests.json").write_text(json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent / __version__)
