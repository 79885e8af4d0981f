"""What kani saved loads here: `sessions/kani/<version of kani>/`, written by hand as these versions write."""

import base64
import json
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
import zlib
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationInfo, field_validator

from kimi_agent import Agent
from kimi_agent.errors import SessionError
from kimi_agent.history import problems
from kimi_agent.message import (
    AudioURLPart,
    ContentPart,
    ImageURLPart,
    Message,
    TextPart,
    ThinkPart,
    ToolCall,
    UnknownPart,
    VideoURLPart,
)
from kimi_agent.session import file, get_ctx, kani
from kimi_agent.session.blobs import FolderBlobs
from kimi_agent.session.file import load, save
from kimi_agent.session.state import SessionState
from kimi_agent.testing import ScriptedKimi, say

FOLDER = Path(__file__).parent / "sessions" / "kani"
FILES = sorted(path.relative_to(FOLDER) for path in FOLDER.glob("*/*"))
MM = "kani.ext.multimodal_core."
NEWEST = pytest.mark.parametrize("name", ["talk.json", "talk.kani"])


def call(id: str, arguments: str, name: str = "look") -> ToolCall:
    return ToolCall(id=id, function=ToolCall.FunctionBody(name=name, arguments=arguments))


def part(kind: str, **fields: Any) -> dict:
    return {**fields, "__kani_messagepart_type__": kind}


def written(folder: Path, *messages: Any, **changes: Any) -> Path:
    """A file of kani's with these messages."""
    fields = {"version": 1, "always_included_messages": [], "chat_history": list(messages), **changes}
    path = folder / "written.json"
    path.write_text(json.dumps(fields), "utf-8")
    return path


def zipped(folder: Path, *messages: Any, **blobs: bytes) -> Path:
    path = folder / "written.kani"
    fields = {"version": 1, "always_included_messages": [], "chat_history": messages}
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in blobs.items():
            archive.writestr(name, data)
        archive.writestr("index.json", json.dumps(fields))
    return path


def of(role: str, content: Any = None, **fields: Any) -> dict:
    return {"role": role, "content": content, **fields}


def blob(data: bytes, suffix: str = ".png") -> str:
    return f"blobs/{(name := sha256(data).hexdigest())[:2]}/{name}{suffix}"


def data_url(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


# ==== each version ====


def test_the_oldest_files_have_one_call_per_message_and_no_ids():
    assert load(FOLDER / "0.2" / "talk.json") == SessionState(
        (Message.system("be terse"),),
        (
            Message.user("Wie ist das Wetter? 天气", name="anna"),
            Message.assistant(tool_calls=[call("kani_1", '{"where": "K\\u00f6ln"}')]),
            Message.tool("sunny", "kani_1", name="look"),
            Message.assistant("Sunny."),
        ),
    )


def test_files_with_ids_keep_them_and_a_result_without_one_gets_that_of_its_call():
    rome = "f71e87e0-5204-46dc-98c2-f291f18370b2"
    assert load(FOLDER / "1.0" / "talk.json") == SessionState(
        (
            Message.system("be terse"),
            Message.user("And in Rome?"),
            Message.assistant(tool_calls=[call(rome, '{"where": "Rome"}')]),
            Message.tool("hot", rome, name="look"),
        ),
        (
            Message.user("Cologne, Bonn?"),
            Message.assistant(
                "Moment.", tool_calls=[call("c1", '{"where": "Cologne"}'), call("c2", '{"where": "Bo', "listen")]
            ),
            Message.tool("no JSON", "c2", is_tool_call_error=True),
            Message.tool("sunny", "c1", name="look"),
            Message.assistant([UnknownPart(type="kani.parts.TextPart", data={}), "Sunny."]),
        ),
    )


@NEWEST
def test_parts_of_the_newest_files_become_ours(name):
    said = load(FOLDER / "1.10" / name).chat_history
    assert [message.role for message in said] == ["user", "assistant", "tool", "user", "user", "user"]
    answer = said[1]
    assert answer.parts[0] == ThinkPart(think="hm", extra={"a": 1})
    assert answer.parts[1] == ThinkPart(think="ok", extra={"kani": {"id": "rs_1", "encrypted_content": "xyz"}})
    assert answer.text == "Moment, please."
    assert answer.extra["openai_usage"] == {"total_tokens": 9}
    assert answer.extra["object"].startswith("<object object at ")
    note = said[3].parts[1]
    assert note == UnknownPart(type="my_app.parts.Note", data={"body": "note", "kani_type": "sticky"}, extra={"b": 2})


@NEWEST
def test_pictures_sounds_and_films_become_data_urls(name):
    *_, pictures, rest = load(FOLDER / "1.10" / name).chat_history
    first, text, second = pictures.parts
    assert isinstance(first, ImageURLPart)
    assert first == second
    assert first.image_url.url.startswith("data:image/png;base64,iVBORw0KGgo")
    assert text == TextPart(text="twice:")
    pdf, film, sound, picture = rest.parts
    assert isinstance(pdf, UnknownPart)
    assert pdf.data["mime"] == "application/pdf"
    assert isinstance(film, VideoURLPart)
    assert film.video_url.url == data_url("video/mp4", b"a film")
    assert isinstance(sound, AudioURLPart)
    assert sound.audio_url.url.startswith("data:audio/wav;base64,UklGR")
    assert isinstance(picture, ImageURLPart)
    assert picture.image_url.url == data_url("image/jpeg", b"a picture")


def test_both_kinds_of_file_load_as_the_same_conversation():
    text, packed = (load(FOLDER / "1.10" / name).chat_history for name in ("talk.json", "talk.kani"))
    assert text[:-1] == packed[:-1]
    assert text[-1].parts[1:] == packed[-1].parts[1:]


def test_there_is_a_file_of_each_shape():
    assert {str(path) for path in FILES} == {"0.2/talk.json", "1.0/talk.json", "1.10/talk.json", "1.10/talk.kani"}


# ==== going on with it ====


@pytest.mark.parametrize("path", FILES, ids=str)
@pytest.mark.parametrize("suffix", [".json", ".kimi"])
def test_it_is_saved_as_our_own_and_stays_the_same(tmp_path, path, suffix):
    state = load(FOLDER / path)
    save(tmp_path / f"talk{suffix}", state)
    again = load(tmp_path / f"talk{suffix}")
    assert again == state
    assert problems(again.chat_history) == []


@pytest.mark.parametrize("path", FILES, ids=str)
async def test_an_agent_goes_on_with_it(path):
    agent = Agent(ScriptedKimi([say("Yes.")]), "replaced by what is in the file")
    agent.load(FOLDER / path)
    assert agent.always_included_messages[0] == Message.system("be terse")
    assert problems(agent.chat_history) == problems(agent.always_included_messages) == []
    before = len(agent.chat_history)
    agent.chat_history[:] = [message for message in agent.chat_history if not has_unknown(message)]
    assert await agent.chat_round_str("Still there?") == "Yes."
    assert len(agent.chat_history) <= before + 2


def has_unknown(message: Message) -> bool:
    return any(isinstance(part, UnknownPart) for part in message.content)


def test_a_call_that_kani_left_open_is_answered_by_the_agent(tmp_path):
    open_call = of(
        "assistant", tool_calls=[{"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]
    )
    agent = Agent(ScriptedKimi([]))
    agent.load(written(tmp_path, of("user", "hi"), open_call, of("user", "hello?")))
    assert [message.role for message in agent.chat_history] == ["user", "assistant", "tool", "user"]
    assert problems(agent.chat_history) == []


def test_a_class_of_the_same_name_reads_its_parts_and_their_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(ContentPart, "_family", dict(ContentPart._family))

    class Scan(ContentPart):
        type: str = "my_app.parts.Scan"
        pixels: bytes

        @field_validator("pixels", mode="before")
        @classmethod
        def _fetch(cls, value: Any, info: ValidationInfo[Any]) -> Any:
            context = get_ctx(info)
            return context.load_bytes(value) if context else value

    scan = part("my_app.parts.Scan", pixels=blob(b"\x00\xff", ".raw"))
    path = zipped(tmp_path, of("user", [scan]), **{blob(b"\x00\xff", ".raw"): b"\x00\xff"})
    assert load(path).chat_history[0].parts == (Scan(pixels=b"\x00\xff"),)


@pytest.mark.parametrize("suffix", [".json", ".kimi"])
@pytest.mark.parametrize("ending", [".raw", "", " (1)", ".tar.gz"])
def test_the_bytes_of_an_unknown_part_stay_with_the_conversation(tmp_path, suffix, ending):
    scan = part("my_app.parts.Scan", pages=[{"at": blob(b"\x00\xff", ending)}])
    state = load(zipped(tmp_path, of("user", [scan]), **{blob(b"\x00\xff", ending): b"\x00\xff"}))
    save(tmp_path / f"talk{suffix}", state)
    blobs = FolderBlobs(tmp_path / "blobs")
    load(tmp_path / f"talk{suffix}", blobs=blobs)
    assert blobs.get(sha256(b"\x00\xff").hexdigest()) == b"\x00\xff"


# ==== what is kept ====


def test_what_has_no_place_here_is_kept(tmp_path):
    message = of("assistant", "hi", mood="cheerful", extra={"mine": 1}, name=None)
    state = load(written(tmp_path, message, title="Weather", usage="none"))
    assert state.chat_history == (Message.assistant("hi", extra={"mine": 1, "kani": {"mood": "cheerful"}}),)
    assert state.unknown == {"kani": {"title": "Weather", "usage": "none"}}
    save(tmp_path / "a.json", state)
    assert load(tmp_path / "a.json") == state


def test_files_without_nulls_and_defaults_are_read(tmp_path):
    (path := tmp_path / "a.json").write_text(
        '{"always_included_messages":[],"chat_history":[{"role":"user","content":""}]}'
    )
    assert load(path).chat_history == (Message.user(""),)


def test_results_without_an_id_find_the_call_of_their_name_first(tmp_path):
    calls = [
        {"id": id, "type": "function", "function": {"name": id[0], "arguments": "{}"}} for id in ("a1", "b1", "a2")
    ]
    results = [of("function", "1", name="b"), of("function", "2"), of("function", "3", name="a"), of("function", "4")]
    state = load(written(tmp_path, of("assistant", None, tool_calls=calls), *results))
    assert [message.tool_call_id for message in state.chat_history] == [None, "b1", "a1", "a2", None]


def test_a_message_of_the_user_in_between_does_not_close_a_call(tmp_path):
    asked = of("assistant", None, function_call={"name": "a", "arguments": "{}"})
    state = load(written(tmp_path, asked, of("system", "hm"), of("function", "1", name="a")))
    assert state.chat_history[2].tool_call_id == state.chat_history[0].tool_calls[0].id


def test_more_than_one_old_call_gets_an_id_of_its_own(tmp_path):
    asked = of("assistant", None, function_call={"name": "a", "arguments": "{}"})
    state = load(written(tmp_path, asked, of("function", "1", name="a"), asked, of("function", "2", name="a")))
    assert [message.tool_call_id for message in state.chat_history] == [None, "kani_1", None, "kani_2"]


@pytest.mark.parametrize(
    "mime", ['image/"x', "image/\\x", "image/\n", "image/\ud800", "image/", "image", "", "IMAGE/PNG"]
)
def test_whatever_a_file_says_its_media_are_it_survives_our_own_files(tmp_path, mime):
    data = base64.b64encode(b"x" * 9000).decode()
    odd = part("a.B", url={"$blob": "zz"}, extra={"$$blob": 1})
    state = load(written(tmp_path, of("user", [part(MM + "base.BinaryFilePart", mime=mime, data=data), odd])))
    for name in ("a.json", "a.kimi"):
        save(tmp_path / name, state)
        assert load(tmp_path / name) == state


def called(*ids: str, name: str = "a") -> dict:
    calls = [{"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}} for id in ids]
    return of("assistant", None, tool_calls=calls)


def old_call(name: str = "a") -> dict:
    return of("assistant", None, function_call={"name": name, "arguments": "{}"})


def test_ids_that_are_made_up_are_like_no_other_of_the_file(tmp_path):
    result = of("function", "1", name="a")
    state = load(
        written(
            tmp_path,
            *(old_call(), result, called("kani_2"), result, of("function", "3", tool_call_id="kani_3")),
            always_included_messages=[old_call(), result],
        )
    )
    assert [message.tool_call_id for message in state.always_included_messages] == [None, "kani_1"]
    assert [message.tool_call_id for message in state.chat_history] == [None, "kani_4", None, "kani_2", "kani_3"]


def test_a_result_that_begins_the_history_answers_the_call_that_ends_the_pinned_messages(tmp_path):
    path = written(tmp_path, of("function", "1", name="a"), always_included_messages=[of("user", "hi"), old_call()])
    state = load(path)
    assert state.chat_history[0].tool_call_id == state.always_included_messages[1].tool_calls[0].id


def test_results_of_names_that_nobody_called_do_not_take_longer_and_longer():
    ids = [str(number) for number in range(20_000)]
    history = [called(*ids), *[of("function", "r", name="other")] * len(ids)]
    fields = {"always_included_messages": [], "chat_history": history}
    started = time.process_time()
    messages = kani.translated(fields, bytes.fromhex, int)["chat_history"]
    assert time.process_time() - started < 2
    assert [message["tool_call_id"] for message in messages[1:]] == ids


def test_an_old_call_beside_newer_ones_is_kept(tmp_path):
    message = {**called("c"), "function_call": {"name": "b", "arguments": "1"}}
    kept = load(written(tmp_path, message)).chat_history[0]
    assert [call.id for call in kept.tool_calls] == ["c"]
    assert kept.extra == {"kani": {"function_call": {"name": "b", "arguments": "1"}}}


def test_what_the_user_keeps_under_our_names_stays_there(tmp_path):
    note = part("my_app.parts.Note", type="sticky", kani_type="mine")
    message = load(written(tmp_path, of("user", [note], mood="sad", extra={"kani": "mine"}))).chat_history[0]
    assert message.extra == {"kani": "mine", "kani_": {"mood": "sad"}}
    assert message.parts == (UnknownPart(type="my_app.parts.Note", data={"kani_type": "mine", "kani_type_": "sticky"}),)


@pytest.mark.parametrize("module", ["base.", ""])
def test_text_with_something_kept_beside_it_is_text(tmp_path, module):
    text = part(f"{MM}{module}TextPart", text="hi", extra={"a": 1})
    assert load(written(tmp_path, of("user", [text]))).chat_history[0].parts == (TextPart(text="hi", extra={"a": 1}),)


@pytest.mark.parametrize("way", ["zstd", "", 7, ["gzip"]])
def test_media_that_are_packed_in_an_unknown_way_stay_as_they_are(tmp_path, way):
    fields = {"mime": "image/png", "compression": way, "data": "cGFja2Vk"}
    (picture,) = load(written(tmp_path, of("user", [part(MM + "base.BinaryFilePart", **fields)]))).chat_history[0].parts
    assert picture == UnknownPart(type=MM + "base.BinaryFilePart", data=fields)


# ==== what is broken ====

BROKEN = {
    "another version": ({"version": 2}, r'no "format".* version is 2, not 1'),
    "no version": ({"version": None}, r"version is null, not 1"),
    "a version that is text": ({"version": "1.0"}, r'version is "1\.0"'),
    "a history that is none": ({"chat_history": {}}, r"`chat_history` must be a list of messages, not an object"),
    "no pinned messages": ({"always_included_messages": None}, r"`always_included_.*` must be a list .*, not null"),
    "a message that is none": ({"chat_history": [1]}, r"message 0 of `chat_history`"),
    "a role that nobody has": ({"chat_history": [of("robot", "hi")]}, r"message 0 of `chat_history`, field role"),
    "messages that are null": ({"chat_history": None}, r"`chat_history` must be a list of messages, not null"),
    "no role": ({"chat_history": [of("user", "hi"), {"content": "x"}]}, r"message 1 of `chat_history`, field role"),
    "a role that is a list": ({"chat_history": [of([], "hi")]}, r"field role"),
    "content that is a number": ({"chat_history": [of("user", 7)]}, r"field content"),
    "a part that is a number": ({"chat_history": [of("user", [7])]}, r"field content"),
    "a part without its type": ({"chat_history": [of("user", [{"content": "x"}])]}, r"field content"),
    "a type that is a number": ({"chat_history": [of("user", [part(7)])]}, r"field content"),
    "calls that are none": ({"chat_history": [of("assistant", tool_calls=[{}])]}, r"field tool_calls\.0"),
    "a call of another kind": (
        {"chat_history": [of("assistant", tool_calls=[{"id": "1", "type": "x", "function": {"name": "f"}}])]},
        r"field tool_calls\.0\.type",
    ),
    "an old call without a name": ({"chat_history": [of("assistant", function_call={})]}, r"field tool_calls\.0"),
    "extra that is text": (
        {"chat_history": [of("user", "hi", extra="x")]},
        r"field extra: it must be an object, not a st",
    ),
    "extra that is an empty list, with more": (
        {"chat_history": [of("user", "hi", extra=[], mood="x")]},
        r"field extra",
    ),
    "extra of a part that is a list": (
        {"chat_history": [of("user", ["hi", part("a.B", extra=[1])])]},
        r"message 0 of `chat_history`, part 1, field extra: it must be an object, not a list",
    ),
    "an old call that is text": (
        {"chat_history": [of("assistant", function_call="f")]},
        r"message 0 of `chat_history`, field function_call: it must be an object, not a string",
    ),
    "an old call that is a list": ({"chat_history": [of("assistant", function_call=[])]}, r"field function_call: "),
    "calls that are an object": (
        {"chat_history": [of("assistant", "hi", tool_calls={})]},
        r"field tool_calls: it must be a list, not an object",
    ),
    "a picture that is no base64": (
        {"chat_history": [of("user", ["hi", part(MM + "base.BinaryFilePart", mime="image/png", data="?")])]},
        r"message 0 of `chat_history`, part 1, field data: Only base64",
    ),
    "a picture that is not packed": (
        {"chat_history": [of("user", [part(MM + "video.VideoPart", mime="video/a", data="YQ==", compression="gzip")])]},
        r"message 0 of `chat_history`, part 0, field data: it is damaged",
    ),
    "a picture of a zip": (
        {"chat_history": [of("user", [part(MM + "image.ImagePart", _archive_path=blob(b"x"))])]},
        r"message 0 of `chat_history`, part 0, field _archive_path: the blob [0-9a-f]{64} is missing",
    ),
    "a picture elsewhere": (
        {"chat_history": [of("user", [part(MM + "image.ImagePart", _archive_path="../../etc/passwd.png")])]},
        r"no name of a blob",
    ),
}


@pytest.mark.parametrize(("changes", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_a_session_error_that_says_where(tmp_path, changes, reason):
    agent = Agent(ScriptedKimi([]), "as before")
    with pytest.raises(SessionError, match=rf"cannot load .*written\.json: .*{reason}"):
        agent.load(written(tmp_path, **changes))
    assert agent.always_included_messages == [Message.system("as before")]


def test_a_number_of_thousands_of_digits_says_where_it_is(tmp_path):
    (path := tmp_path / "talk.json").write_text('{"version": 1,\n"x": ' + "9" * 5000 + "}")
    with pytest.raises(SessionError, match="at line 2, column 6: a number of 5000 digits"):
        load(path)


@pytest.mark.parametrize("missing", ["always_included_messages", "chat_history"])
def test_a_file_of_kanis_with_half_of_it_says_what_is_missing(tmp_path, missing):
    fields = {"version": 1, "always_included_messages": [], "chat_history": []}
    del fields[missing]
    (path := tmp_path / "talk.json").write_text(json.dumps(fields))
    with pytest.raises(SessionError, match=rf'talk\.json: .* nor one of kani: there is no "{missing}"'):
        load(path)


@pytest.mark.parametrize("behind", [b"a comment", b"PK\5\6", b"\0" * 65_536], ids=["comment", "mark", "bytes"])
@pytest.mark.parametrize("announced", [True, False])
def test_a_zip_with_a_comment_or_bytes_behind_its_end_is_read(tmp_path, behind, announced):
    content = (FOLDER / "1.10" / "talk.kani").read_bytes()
    length = len(behind) if announced and len(behind) < 2**16 else 0
    (path := tmp_path / "talk.kani").write_bytes(content[:-2] + length.to_bytes(2, "little") + behind)
    assert load(path) == load(FOLDER / "1.10" / "talk.kani")


def test_a_zip_that_somebody_else_made_says_whose_it_is_not(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.kani", "w") as archive:
        archive.writestr("photo.txt", "")
    with pytest.raises(SessionError, match=r"without index\.json, so it is no conversation of kimi_agent or kani"):
        load(tmp_path / "a.kani")


def test_a_picture_with_another_hash_is_damaged(tmp_path):
    picture = part(MM + "image.ImagePart", _archive_path=blob(b"x"))
    with pytest.raises(SessionError, match="is damaged: its content has another hash"):
        load(zipped(tmp_path, of("user", [picture]), **{blob(b"x"): b"y"}))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_any_damage_is_a_session_error_or_still_a_conversation(tmp_path, path):
    content = (FOLDER / path).read_bytes()
    step = max(1, len(content) // 100)
    for position in range(0, len(content), step):
        for damaged in (content[:position], content[:position] + b"\xff" + content[position + 1 :]):
            (tmp_path / "a").write_bytes(damaged)
            with suppress(SessionError):
                load(tmp_path / "a")


def leaves(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value: its container and its key."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(value, key) for key, _ in items] + [leaf for _, item in items for leaf in leaves(item)]


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".json"], ids=str)
def test_any_value_in_any_place_is_a_session_error_or_still_a_conversation(tmp_path, path):
    fields = json.loads((FOLDER / path).read_bytes())
    for container, key in leaves(fields):
        before = container[key]
        for value in (None, True, 0, "", "x", [], {}, [[]], {"type": []}):
            container[key] = value
            (tmp_path / "a.json").write_text(json.dumps(fields), "utf-8")
            with suppress(SessionError):
                load(tmp_path / "a.json")
        container[key] = before


# ==== how large it may be ====


def test_media_that_are_named_often_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(kani, "LARGEST", 10_000)
    picture = part(MM + "image.ImagePart", _archive_path=blob(b"x" * 1000))
    path = zipped(tmp_path, *[of("user", [picture])] * 10, **{blob(b"x" * 1000): b"x" * 1000})
    with pytest.raises(SessionError, match=r"message 7 of `chat_history`, part 0: the media .* more than 10000 bytes"):
        load(path)


def test_media_that_unpack_to_much_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(kani, "LARGEST", 10_000)
    packed = base64.b64encode(zlib.compress(bytes(10_000_000))).decode()
    film = part(MM + "video.VideoPart", mime="video/mp4", compression="gzip", data=packed)
    path = written(tmp_path, of("user", [film]))
    tracemalloc.start()
    try:
        with pytest.raises(SessionError, match="the media up to here have more than 10000 bytes"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_media_that_unpack_to_far_more_than_any_do_are_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr(file, "_SMALL", 100_000)
    packed = base64.b64encode(zlib.compress(bytes(10_000_000))).decode()
    picture = part(MM + "base.BinaryFilePart", mime="image/png", compression="gzip", data=packed)
    path = written(tmp_path, of("user", [picture]))
    tracemalloc.start()
    try:
        with pytest.raises(SessionError, match=r"part 0, field data: it unpacks to more than \d+ bytes, far more than"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_media_that_are_cut_off_are_damaged(tmp_path):
    packed = base64.b64encode(zlib.compress(bytes(range(256)))[:-20]).decode()
    film = part(MM + "video.VideoPart", mime="video/mp4", compression="gzip", data=packed)
    with pytest.raises(SessionError, match="cut off"):
        load(written(tmp_path, of("user", [film])))


def test_who_loads_our_own_files_does_not_pay_for_kanis(tmp_path):
    save(tmp_path / "a.json", SessionState())
    code = (
        "import sys; from kimi_agent.session import file; file.load(sys.argv[1]); "
        "assert 'kimi_agent.session.kani' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.json")], check=True)
