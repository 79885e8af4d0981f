"""Saving a conversation to a file and loading it again."""

import base64
import dataclasses
import errno
import json
import os
import random
import stat
import struct
import time
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timing import takes_at_most

from kimi_agent import Agent, Kimi
from kimi_agent.errors import SessionError
from kimi_agent.message import (
    FrozenDict,
    ImageURLPart,
    MediaURL,
    Message,
    TextPart,
    ThinkPart,
    TokenUsage,
    ToolCall,
    UnknownPart,
)
from kimi_agent.session import blobs, file
from kimi_agent.session.file import load, save
from kimi_agent.session.state import SessionState
from kimi_agent.testing import KimiServer, say

CALL = ToolCall(id="c1", function=ToolCall.FunctionBody(name="look", arguments='{"where": "Köln"}'))
HISTORY = (
    Message.user("Wie ist das Wetter? 天气 ☀", extra={"rated": 5, "nothing": None}),
    Message.assistant([ThinkPart(think=""), "Moment."], tool_calls=[CALL]),
    Message.tool("sunny", "c1", name="look", is_tool_call_error=True),
    Message.user([ImageURLPart(image_url=MediaURL(url="ms://1", id="p")), "and this?"], name="anna"),
    Message.user(UnknownPart(type="hologram", data={"a": None, "b": [1, {"c": None}]})),
)
STATE = SessionState(
    always_included_messages=(Message.system("be terse"),),
    chat_history=HISTORY,
    usage=TokenUsage(input_other=10, output=5, input_cache_read=3),
    cut=1,
)
DAMAGES = int(os.environ.get("KIMI_AGENT_FUZZ", "300"))
SUFFIXES = pytest.mark.parametrize("suffix", [".json", ".kimi", ".JSON", ".Kimi"])


def conversation(*messages: Message) -> SessionState:
    return SessionState(always_included_messages=(), chat_history=messages)


def written(folder: Path, fields: dict | list | str | bytes) -> Path:
    """A file with this content."""
    path = folder / "written.json"
    text = fields if isinstance(fields, str | bytes) else json.dumps(fields)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def fields(**changes: object) -> dict:
    plain = {"format": "kimi_agent", "version": "1.0", "always_included_messages": [], "chat_history": []}
    return {**plain, **changes}


# ==== there and back ====


@SUFFIXES
def test_what_was_saved_is_loaded(tmp_path, suffix):
    path = tmp_path / f"talk{suffix}"
    save(path, STATE)
    assert load(path) == STATE


def test_an_empty_conversation_is_one_too(tmp_path):
    save(tmp_path / "a.json", conversation())
    assert load(tmp_path / "a.json") == SessionState((), ())


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_a_path_may_be_of_any_kind(tmp_path, kind):
    path = kind(str(tmp_path / "talk.json"))
    save(path, STATE)
    assert load(path) == STATE


def test_the_content_decides_how_to_load_not_the_suffix(tmp_path):
    save(tmp_path / "a.json", STATE)
    save(tmp_path / "a.kimi", STATE)
    (tmp_path / "a.json").rename(tmp_path / "b.kimi")
    (tmp_path / "a.kimi").rename(tmp_path / "b.txt")
    assert load(tmp_path / "b.kimi") == load(tmp_path / "b.txt") == STATE


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)

any_text = st.text(st.characters(exclude_categories=()), min_size=1, max_size=20).filter(
    lambda text: text == json.loads(json.dumps(text))  # two halves of one character become the character
)
extras = st.dictionaries(any_text, json_values, max_size=3)
parts = st.one_of(
    st.builds(TextPart, text=any_text, extra=extras),
    st.builds(ThinkPart, think=st.text(max_size=9)),
    st.builds(lambda data: UnknownPart(type="hologram", data={**data, "size": 1}), extras),
)
calls = st.builds(
    lambda call_id, name, arguments: ToolCall(
        id=call_id, function=ToolCall.FunctionBody(name=name, arguments=arguments)
    ),
    any_text,
    any_text,
    st.none() | any_text,
)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=st.lists(parts, max_size=3),
    name=st.none() | any_text,
    tool_calls=st.none() | st.lists(calls, min_size=1, max_size=2),
    tool_call_id=st.none() | any_text,
    is_tool_call_error=st.none() | st.booleans(),
    extra=extras,
)
states = st.builds(
    SessionState,
    always_included_messages=st.lists(messages, max_size=2).map(tuple),
    chat_history=st.lists(messages, min_size=1, max_size=5).map(tuple),
    usage=st.builds(TokenUsage, input_other=st.integers(0, 10**12), output=st.integers(0, 10**12)),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40)
@given(states, st.sampled_from(["a.json", "a.kimi"]))
def test_every_state_comes_back_as_it_was(tmp_path, state, name):
    save(tmp_path / name, state)
    assert load(tmp_path / name) == state


# ==== the file itself ====


def test_the_readable_file_has_a_line_per_message_no_nulls_and_no_escapes(tmp_path):
    save(tmp_path / "talk.json", STATE)
    lines = (tmp_path / "talk.json").read_text("utf-8").splitlines()
    assert lines[:4] == ["{", '"format": "kimi_agent",', '"version": "1.0",', '"always_included_messages": [']
    assert sum(line.startswith('  {"') for line in lines) == 6
    assert '  {"role":"system","content":"be terse"}' in lines
    assert any("天气 ☀" in line for line in lines)
    assert '"usage": {"input_other":10,"output":5,"input_cache_read":3,"input_cache_creation":0},' in lines
    assert lines[-2:] == ['"window": {"cut":1,"scale":1.0}', "}"]


def test_one_more_message_is_a_small_difference(tmp_path):
    save(tmp_path / "a.json", STATE)
    before = set((tmp_path / "a.json").read_text("utf-8").splitlines())
    longer = (*HISTORY, Message.assistant("and so on"))
    save(tmp_path / "a.json", SessionState(STATE.always_included_messages, longer, STATE.usage, 1))
    assert len(set((tmp_path / "a.json").read_text("utf-8").splitlines()) - before) == 2


def test_the_compact_file_is_a_zip_with_one_entry_and_always_the_same_bytes(tmp_path):
    save(tmp_path / "a.kimi", STATE)
    save(tmp_path / "b.kimi", STATE)
    assert (tmp_path / "a.kimi").read_bytes() == (tmp_path / "b.kimi").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.kimi") as archive:
        assert archive.namelist() == ["index.json"]
        assert archive.infolist()[0].compress_type == zipfile.ZIP_DEFLATED
        assert json.loads(archive.read("index.json"))["format"] == "kimi_agent"


def test_what_was_worked_out_about_a_message_is_not_saved(tmp_path):
    from kimi_agent.prompt.tokens import message_cost

    message = Message.user("hello")
    message_cost(message)
    save(tmp_path / "a.json", conversation(message))
    assert "message_cost" not in (tmp_path / "a.json").read_text()


@pytest.mark.parametrize("name", ["talk", "talk.kani", "talk.json.bak", ".json"])
def test_another_suffix_is_refused_and_the_two_are_named(tmp_path, name):
    with pytest.raises(SessionError, match=r"must end in \.json or \.kimi"):
        save(tmp_path / name, STATE)
    assert list(tmp_path.iterdir()) == []


# ==== text and numbers that JSON finds hard ====


@SUFFIXES
def test_lone_surrogates_survive_and_other_text_stays_readable(tmp_path, suffix):
    state = conversation(
        Message.user("天气 \ud83d!", extra={"\udc00": ["\ud800x"], "b": {"\udc00": 3}}),
        Message.assistant(tool_calls=[CALL.copy_with(id="\ud83d")]),
        Message.user("fine", extra={"\udc00": 1}),
        Message.user(UnknownPart(type="hologram", data={"\udc00": 1})),
    )
    path = tmp_path / f"talk{suffix}"
    save(path, state)
    assert load(path) == state
    if suffix == ".json":
        assert "天气 \\ud83d!" in path.read_text("utf-8")


WRAPPED = {
    "bare": lambda number: {"a": number},
    "deep": lambda number: {"a": {"b": [1, (number,)]}},
    "beside a surrogate": lambda number: {"a": number, "b": "\ud83d"},
}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_numbers_that_json_does_not_have_are_refused_not_lost(tmp_path, number, wrap):
    state = conversation(Message.user("fine"), Message.user(TextPart(text="odd", extra=wrap(number))))
    with pytest.raises(SessionError, match=r"message 1 of chat_history .*JSON has no number (nan|-?inf)"):
        save(tmp_path / "a.json", state)
    assert list(tmp_path.iterdir()) == []


class Circle:
    """Something that JSON cannot say."""


@pytest.mark.parametrize("thing", [Circle(), b"\xff", lambda: None])
def test_an_object_that_json_cannot_say_is_refused_with_the_index_of_its_message(tmp_path, thing):
    save(tmp_path / "a.json", STATE)
    before = (tmp_path / "a.json").read_bytes()
    state = conversation(Message.user("fine"), Message.user("odd", extra={"thing": thing}))
    with pytest.raises(SessionError, match=r"a\.json: message 1 of chat_history is not JSON.*`extra`") as caught:
        save(tmp_path / "a.json", state)
    assert caught.value.__cause__ is not None
    assert (tmp_path / "a.json").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.json"]


# ==== newer versions ====


def newer() -> dict:
    """A file of version 1.7, with something new everywhere."""
    new = {"new": {"deep": [1, None, {"x": None}]}, "none": None}
    function = {"name": "f", "arguments": "{}", **new}
    message = {
        "role": "assistant",
        "content": [{"type": "text", "text": "hi", **new}, {"type": "later", "a": None, **new}],
        "tool_calls": [{"type": "function", "id": "1", "function": function, **new}],
        **new,
    }
    return fields(
        version="1.7",
        chat_history=[message],
        usage={"input_other": 1, "output": 2, "input_cache_read": 0, "input_cache_creation": 0, **new},
        window={"cut": 0, "scale": 1.0, **new},
        **new,
    )


@SUFFIXES
def test_a_newer_minor_version_loads_and_keeps_what_it_does_not_know(tmp_path, suffix):
    state = load(written(tmp_path, newer()))
    path = tmp_path / f"again{suffix}"
    save(path, state)
    text = path.read_bytes() if "json" in suffix.lower() else zipfile.ZipFile(path).read("index.json")
    assert json.loads(text) == {**newer(), "version": "1.0"}
    assert load(path) == state


def test_known_fields_are_never_overwritten_by_unknown_ones(tmp_path):
    state = SessionState((), (), unknown=FrozenDict(format="other", version="9.0", cut=3, more=1))
    save(tmp_path / "a.json", state)
    assert load(tmp_path / "a.json").unknown == {"cut": 3, "more": 1}


@pytest.mark.parametrize("version", ["2.0", "17.3", "0.9"])
def test_another_major_version_is_refused_with_both_versions(tmp_path, version):
    with pytest.raises(SessionError, match=rf"version {version}, this kimi_agent reads 1\.x"):
        load(written(tmp_path, fields(version=version)))


@pytest.mark.parametrize("version", [1, None, "one", "1", "1.0.0", 1.0, ["1.0"]])
def test_a_version_of_the_wrong_shape_is_refused(tmp_path, version):
    with pytest.raises(SessionError, match="`version` must look like"):
        load(written(tmp_path, fields(version=version)))


# ==== damaged and foreign files ====

DAMAGED = {
    "empty": (b"", r"line 1, column 1"),
    "cut off": (b'{\n"format": "kimi_agent",\n"ver', r"line 3, column 1"),
    "no JSON": (b"hello", r"line 1, column 1"),
    "no UTF-8": (b'{"format": "\xff"}', r"not UTF-8 at byte 12"),
    "too deep": (b"[" * 100_000, r"nested too deeply|line 1"),
    "NaN": (json.dumps(fields(x=float("nan"))).encode(), r"NaN"),
    "a number beyond all": (json.dumps(fields(x=[])).replace("[]}", "[1e999]}").encode(), r"JSON has no number inf"),
    "a huge number": (b'{"x": ' + b"9" * 10_000 + b"}", r"cannot load"),
    "another object": (b'{"messages": []}', r'there is no "format": "kimi_agent"'),
    "a list": (b"[]", r"there is no"),
    "a part of kani's": (b'{"version":1,"chat_history":[]}', r"no conversation of kimi_agent"),
    "no history": (fields(chat_history=None), r"`chat_history` must be a list of messages, not absent"),
    "history is an object": (fields(chat_history={}), r"`chat_history` must be a list of messages, not an object"),
    "pinned is text": (fields(always_included_messages="x"), r"`always_included_messages` must be .* a string"),
    "no message": (fields(chat_history=[5]), r"message 0 of `chat_history`: "),
    "wrong role": (
        fields(chat_history=[{"role": "user"}, {"role": "x"}]),
        r"message 1 of `chat_history`, field role: ",
    ),
    "wrong part": (
        fields(chat_history=[{"role": "user", "content": [{"type": "text"}]}]),
        r"message 0 of `chat_history`, field content\.0\.text: Field required",
    ),
    "part without type": (
        fields(always_included_messages=[{"role": "user", "content": [{}]}]),
        r"message 0 of `always_included_messages`, field content\.0: .*needs a `type`",
    ),
    "two mistakes": (
        fields(chat_history=[{"role": "x", "content": 5}]),
        r"message 0 of `chat_history`, field role: .*\(and 1 more\)",
    ),
    "wrong call": (
        fields(chat_history=[{"role": "assistant", "tool_calls": [{"id": "1"}]}]),
        r"field tool_calls\.0\.function: Field required",
    ),
    "wrong usage": (fields(usage={"output": "many"}), r"`usage`, field output: "),
    "usage is a list": (fields(usage=[]), r"`usage` must be an object, not a list"),
    "window is a number": (fields(window=3), r"`window` must be an object, not a number"),
    "cut is text": (fields(window={"cut": "3"}), r"`window\.cut` must be a whole number, not a string"),
    "scale is text": (fields(window={"scale": "3"}), r"`window\.scale` must be a number above 0, not a string"),
    "scale is zero": (fields(window={"scale": 0}), r"`window\.scale` must be a number above 0"),
    "cut is true": (fields(window={"cut": True}), r"`window\.cut` must be a whole number, not true or false"),
}


@pytest.mark.parametrize(("content", "where"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_or_foreign_file_is_refused_and_the_error_says_where(tmp_path, content, where):
    path = written(tmp_path, content)
    with pytest.raises(SessionError, match=where) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_errors_about_a_file_do_not_quote_the_conversation(tmp_path):
    secret = [{"role": "user", "content": [{"type": "text", "text": ["my password"]}]}]
    with pytest.raises(SessionError) as caught:
        load(written(tmp_path, fields(chat_history=secret)))
    assert "password" not in str(caught.value)


def test_a_zip_without_an_index_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.kimi", "w") as archive:
        archive.writestr("other.json", "{}")
    with pytest.raises(SessionError, match=r"a zip file without index\.json"):
        load(tmp_path / "a.kimi")


def test_the_zip_of_another_program_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.kani", "w") as archive:
        archive.writestr("index.json", '{"version":1,"chat_history":[]}')
    with pytest.raises(SessionError, match="no conversation of kimi_agent"):
        load(tmp_path / "a.kani")


@pytest.mark.parametrize("name", ["a.json", "a.kimi"])
def test_a_truncated_file_is_refused_wherever_it_was_cut(tmp_path, name):
    save(tmp_path / name, STATE)
    whole = (tmp_path / name).read_bytes()
    for length in range(0, len(whole) - 3, 7):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(SessionError):
            load(tmp_path / name)


@pytest.mark.parametrize("name", ["a.json", "a.kimi"])
def test_a_file_with_a_damaged_byte_loads_or_is_refused(tmp_path, name):
    picture = Message.user(ImageURLPart(image_url=MediaURL(url="data:image/png;base64," + "A" * 5000)))
    save(tmp_path / name, SessionState((), (picture, *HISTORY[1:3])) if name == "a.kimi" else conversation(*HISTORY))
    whole = (tmp_path / name).read_bytes()
    chance = random.Random(name)
    for place in chance.choices(range(len(whole)), k=DAMAGES):
        damaged = bytes([whole[place] ^ chance.choice((0x01, 0x20, 0x80, 0xFF))])
        (tmp_path / name).write_bytes(whole[:place] + damaged + whole[place + 1 :])
        with suppress(SessionError):  # any other error fails the test
            load(tmp_path / name)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(SessionError, match=r"cannot load .*none\.json: No such file"):
        load(tmp_path / "none.json")
    with pytest.raises(SessionError, match="cannot load"):
        load(tmp_path)
    with pytest.raises(SessionError, match="cannot load"):
        load("a\0b.json")


@pytest.mark.parametrize(("cut", "clamped"), [(-5, 0), (0, 0), (1, 1), (2, 1), (10**30, 1)])
def test_a_cut_out_of_range_is_moved_into_it(tmp_path, cut, clamped):
    two = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert load(written(tmp_path, fields(chat_history=two, window={"cut": cut}))).cut == clamped


def test_usage_and_window_may_be_missing(tmp_path):
    state = load(written(tmp_path, fields()))
    assert state.usage.total == 0
    assert state.cut == 0


# ==== files from anybody ====


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders here")
def test_a_pipe_is_no_file_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(SessionError, match=r"a\.json: it is no file, but a folder, a pipe or a device"):
        load(tmp_path / "a.json")
    with pytest.raises(SessionError, match="no file"):
        save(tmp_path / "a.json", STATE)
    assert stat.S_ISFIFO((tmp_path / "a.json").stat().st_mode)


@pytest.mark.skipif(os.name != "posix", reason="links need a privilege elsewhere")
def test_a_link_is_followed_and_one_that_leads_nowhere_is_refused(tmp_path):
    save(tmp_path / "a.json", STATE)
    (tmp_path / "link.json").symlink_to("a.json")
    (tmp_path / "folder.json").symlink_to(tmp_path)
    (tmp_path / "round.json").symlink_to("round.json")
    assert load(tmp_path / "link.json") == STATE
    for name in ("folder.json", "round.json"):
        with pytest.raises(SessionError, match="cannot load"):
            load(tmp_path / name)


def test_a_file_above_the_limit_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    path.touch()
    os.truncate(path, blobs.LARGEST + 1)  # a file of holes
    start = time.process_time()
    with pytest.raises(SessionError, match=f"{blobs.LARGEST + 1} bytes; more than {blobs.LARGEST} are not read"):
        load(path)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("name", ["a.json", "a.kimi"])
def test_what_could_not_be_loaded_is_not_saved(tmp_path, monkeypatch, name):
    save(tmp_path / name, STATE)
    monkeypatch.setattr(file, "LARGEST", 2000)
    with pytest.raises(SessionError, match="more than 2000 could not be loaded"):
        save(tmp_path / name, conversation(Message.user("x" * 2000)))
    assert load(tmp_path / name) == STATE


INDEX = json.dumps(fields()).encode()


def zipped(path: Path, entries: list[tuple[str, bytes]], packed: int = zipfile.ZIP_DEFLATED, **forged: int) -> Path:
    """A zip with these entries; what is forged is said of the first of them in the directory."""
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w", packed) as archive:
        for name, content in entries:
            archive.writestr(name, content)
        for field, value in forged.items():
            setattr(archive.infolist()[0], field, value)
    return path


BAD_ZIPS = {
    "two of one name": ([("index.json", INDEX), ("index.json", INDEX)], {}, "two entries of one name"),
    "an absolute path": ([("index.json", INDEX), ("/etc/passwd", b"")], {}, "leads out of the file"),
    "another drive": ([("index.json", INDEX), ("C:x", b"")], {}, "leads out of the file"),
    "a folder above": ([("index.json", INDEX), ("blobs/../../x", b"")], {}, "'blobs/../../x' .* leads out"),
    "a backslash": ([("index.json", INDEX), ("blobs\\..\\x", b"")], {}, "leads out of the file"),
    "encrypted": ([("index.json", INDEX)], {"flag_bits": 1}, "the entry .* is encrypted"),
    "another packing": ([("index.json", INDEX)], {"packed": zipfile.ZIP_BZIP2}, "packed in a way"),
    "a bomb": ([("index.json", INDEX)], {"file_size": 2**30}, "unpacks to far more than text does"),
    "a liar about its length": ([("index.json", INDEX)], {"file_size": 2**30, "compress_size": 2**29}, "overlap"),
    "a liar about its text": ([("index.json", b"[" * 10**6)], {"file_size": 100}, "damaged: Bad CRC-32"),
    "a nest": ([("index.json", b"[" * 10**6)], {}, "nested too deeply"),
    "no names": ([("index.json", INDEX), ("blobs/zz/" + "z" * 64, b"")], {}, None),
}


@pytest.mark.parametrize(("entries", "options", "reason"), BAD_ZIPS.values(), ids=BAD_ZIPS.keys())
def test_a_zip_that_was_made_to_do_harm_is_refused(tmp_path, entries, options, reason):
    path = zipped(tmp_path / "a.kimi", entries, **options)
    if reason is None:
        assert load(path) == SessionState()
        return
    with pytest.raises(SessionError, match=reason):
        load(path)


def test_a_zip_that_unpacks_to_more_than_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(file, "LARGEST", 5000)
    with pytest.raises(SessionError, match="unpacks to 5001 bytes; more than 5000 are not read"):
        load(zipped(tmp_path / "a.kimi", [("index.json", INDEX), ("x", b"x" * (5001 - len(INDEX)))]))


def test_what_does_not_fit_into_the_memory_is_a_session_error(tmp_path, monkeypatch):
    def fail(*arguments: object) -> None:
        raise MemoryError

    save(tmp_path / "a.json", STATE)
    monkeypatch.setattr(file, "parse", fail)
    with pytest.raises(SessionError, match="more memory than there is"):
        load(tmp_path / "a.json")


def test_a_zip_with_very_many_entries_is_refused_before_its_directory_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZipFile", failing(errno.EIO))
    end = b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 7, 7, 2**24 + 1, 0, 0)
    many = b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 65535, 65535, 0, 0, 0)
    other = b"PK\6\7" + b"\0" * 16 + b"PK\5\6" + b"\0" * 18
    for content in (end, many, other, end[:-2] + b"\7\0comment"):
        with pytest.raises(SessionError, match="more than 65534 entries"):
            load(written(tmp_path, b"PK" + content))
    with pytest.raises(SessionError, match="it has no end"):
        load(written(tmp_path, b"PK" + end[:-1]))


def test_more_entries_than_a_zip_has_are_neither_saved_nor_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(file, "_MOST_ENTRIES", 2)
    with pytest.raises(SessionError, match="more than 2 entries"):
        load(zipped(tmp_path / "a.kimi", [("index.json", INDEX), ("x", b""), ("y", b"")]))
    pictures = [ImageURLPart(image_url=MediaURL(url="data:" + letter * 5000)) for letter in "ab"]
    with pytest.raises(SessionError, match="3 entries"):
        save(tmp_path / "b.kimi", conversation(Message.user(pictures)))


def test_a_text_that_packs_as_well_as_a_bomb_is_saved_and_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(file, "_SMALL", 1000)
    state = conversation(Message.user("a" * 100_000))
    save(tmp_path / "a.kimi", state)
    assert load(tmp_path / "a.kimi") == state
    assert zipfile.ZipFile(tmp_path / "a.kimi").infolist()[0].compress_type == zipfile.ZIP_STORED


def test_bytes_of_parts_count_for_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(file, "LARGEST", 2000)
    kept = FrozenDict({blobs.blob_name(b"x" * 1900): base64.b64encode(b"x" * 1900).decode()})
    state = conversation(Message.user(UnknownPart(type="sound", data={"name": blobs.blob_name(b"x" * 1900)})))
    with pytest.raises(SessionError, match="more than 2000 could not be loaded"):
        save(tmp_path / "a.kimi", dataclasses.replace(state, unknown=FrozenDict(blobs=kept)))


@pytest.mark.parametrize("name", ["a.json", "a.kimi"])
async def test_a_saved_conversation_has_no_key_and_no_header(tmp_path, name):
    async with KimiServer([say("hello")]) as server, httpx.AsyncClient(headers={"x-team": "secret"}) as client:
        kimi = Kimi(api_key=server.api_key, base_url=server.base_url, http_client=client)
        async with Agent(kimi, "be terse") as agent:
            await agent.chat_round("hi")
            agent.save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    text = content if name == "a.json" else zipfile.ZipFile(tmp_path / name).read("index.json")
    assert b"hello" in text
    assert not any(word in text.lower() for word in (b"sk-test", b"bearer", b"authorization", b"x-team", b"secret"))


# ==== all or nothing ====


def failing(code: int):
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize(("call", "code"), [("fsync", errno.EIO), ("replace", errno.EXDEV), ("chmod", errno.EPERM)])
@pytest.mark.parametrize("existing", [True, False])
def test_a_disk_error_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch, call, code, existing):
    path = tmp_path / "a.json"
    if existing:
        save(path, STATE)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(file.os, call, failing(code))
        with pytest.raises(SessionError, match=rf"cannot save .*a\.json: {os.strerror(code)}") as caught:
            save(path, conversation(Message.user("other")))
    assert isinstance(caught.value.__cause__, OSError)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    save(path, STATE)

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(file.os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save(path, conversation())
    assert load(path) == STATE
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(SessionError, match=r"cannot save .*nowhere/a\.json: No such file"):
        save(tmp_path / "nowhere" / "a.json", STATE)


def test_a_folder_in_the_place_of_the_file_stays(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(SessionError, match="cannot save"):
        save(tmp_path / "a.json", STATE)
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_write_protected_file_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    save(path, STATE)
    monkeypatch.setattr(file.os, "access", lambda *arguments: False)  # root may write anywhere
    with pytest.raises(SessionError, match="write-protected"):
        save(path, conversation())
    assert load(path) == STATE


def test_a_folder_that_cannot_be_synced_does_not_spoil_the_save(tmp_path, monkeypatch):
    monkeypatch.setattr(file.os, "open", failing(errno.EACCES))
    blobs.sync_folder(str(tmp_path))


def test_the_whole_content_reaches_the_disk_before_the_old_file_goes(tmp_path, monkeypatch):
    order: list[str] = []
    synced: list[int] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        order.append("fsync")
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    def noted_replace(source: str, target: str) -> None:
        order.append("replace")
        replace(source, target)

    monkeypatch.setattr(file.os, "fsync", noted_fsync)
    monkeypatch.setattr(file.os, "replace", noted_replace)
    save(tmp_path / "a.json", STATE)
    assert order == ["fsync", "replace", "fsync"]
    assert synced[0] == (tmp_path / "a.json").stat().st_size


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_a_new_file_is_private_and_an_old_one_keeps_its_mode(tmp_path):
    path = tmp_path / "a.json"
    save(path, STATE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    save(path, conversation())
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.skipif(os.name != "posix", reason="links need a privilege elsewhere")
def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "real" / "talk.json")
    for state in (STATE, conversation()):
        save(link, state)
        assert link.is_symlink()
        assert load(tmp_path / "real" / "talk.json") == state
    assert os.listdir(tmp_path / "real") == ["talk.json"]


def test_a_relative_path_without_a_folder_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("a.json", STATE)
    assert os.listdir(tmp_path) == ["a.json"]


# ==== speed ====


@pytest.mark.parametrize("name", ["a.json", "a.kimi"])
def test_ten_times_the_messages_take_about_ten_times_as_long_to_save_and_to_load(tmp_path, name):
    few, many = (
        conversation(*[Message.user(f"message number {number}") for number in range(size)]) for size in (500, 5_000)
    )
    small, large = tmp_path / name, tmp_path / f"large {name}"
    assert takes_at_most(30, lambda: save(small, few), lambda: save(large, many))
    assert takes_at_most(30, lambda: load(small), lambda: load(large))
    assert load(large) == many
