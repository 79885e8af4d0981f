"""What is large, stored once beside the text of a conversation."""

import json
import os
import stat
import zipfile
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import SerializationInfo, ValidationInfo, field_serializer, field_validator

from kimi_agent.errors import SessionError
from kimi_agent.message import ContentPart, ImageURLPart, MediaURL, Message, UnknownPart
from kimi_agent.session import blobs
from kimi_agent.session.blobs import (
    BlobMissingError,
    FolderBlobs,
    Room,
    SaveContext,
    blob_name,
    extract,
    get_ctx,
    is_name,
    named,
    restore,
)
from kimi_agent.session.codec import decode_messages, encode
from kimi_agent.session.file import load, save
from kimi_agent.session.state import SessionState

URL = "data:image/png;base64," + "iVBORw0KGgo" * 400
OTHER = "data:image/png;base64," + "AAAAAAAAAAA" * 400
NAME = sha256(URL.encode()).hexdigest()


class Shelf(dict[str, bytes]):
    """Blobs in the memory."""

    def put(self, data: bytes) -> str:
        self[name := blob_name(data)] = data
        return name

    def get(self, name: str) -> bytes:
        if name not in self:
            raise BlobMissingError(f"the blob {name} is missing")
        return self[name]


def state(*messages: Message) -> SessionState:
    return SessionState(chat_history=messages)


def picture(url: str = URL) -> Message:
    return Message.user([ImageURLPart(image_url=MediaURL(url=url)), "what is this?"])


# ==== out of the text, and back ====


def test_a_long_data_url_is_stored_once_and_a_name_stands_for_it():
    shelf = Shelf()
    line = extract(encode([URL, {"url": URL}, OTHER]), shelf.put)
    assert json.loads(line) == [{"$blob": NAME}, {"url": {"$blob": NAME}}, {"$blob": blob_name(OTHER.encode())}]
    assert shelf == {NAME: URL.encode(), blob_name(OTHER.encode()): OTHER.encode()}


UNTOUCHED = [
    "data:image/png;base64,short",
    "x" * 9000,
    [" " + URL],
    {URL: 1},
    {"a": URL + '"'},
    {"a": URL + "\\"},
    {"a": URL + "\n"},
    f'{{"url":"{URL}"}}',
    f'\\"{URL}',
    {"ref": {"$ref": "a"}},
    {"a": 1, "$blob": NAME},
]


@pytest.mark.parametrize("value", UNTOUCHED, ids=range(len(UNTOUCHED)))
def test_everything_else_stays_in_the_text(value):
    shelf = Shelf()
    line = encode(value)
    assert extract(line, shelf.put) == line
    assert shelf == {}


def test_there_is_nothing_to_copy_when_there_is_nothing_to_do():
    line = encode(["data", "x" * 9000])
    assert extract(line, Shelf().put) is line
    assert restore(line, Shelf().get) is line


TRAPS = st.sampled_from([URL, OTHER, "data:", '"data:', "\\", '"', "{", "$blob", '{"$blob":"', f'{{"$blob":"{NAME}"}}'])
texts = st.lists(TRAPS | st.text(max_size=3), max_size=3).map("".join)
keys = st.sampled_from(["$blob", "$$blob", "$$$blob", "blob", "a"]) | texts
values = st.recursive(
    texts | st.just(NAME) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=150)
@given(values)
@example({"$blob": {"$blob": URL}})
@example([{"$blob": NAME}, URL])
@example({"$$blob": NAME, "$blob": [URL, "\\"]})
def test_any_json_comes_back_byte_for_byte(value):
    shelf = Shelf()
    for line in (encode(value), json.dumps(value).encode(), json.dumps(value, indent=1).encode()):
        short = extract(line, shelf.put)
        json.loads(short)
        assert restore(short, shelf.get) == line


def test_the_names_in_a_text_are_found():
    shelf = Shelf()
    line = extract(encode([URL, {"sound": NAME[::-1] + ".wav", "no": "0" * 63, "nor": "0" * 65}]), shelf.put)
    assert named(line) == {NAME, NAME[::-1]}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f'{{"$blob":"{NAME}"}}', "missing"),
        ('{"$blob":"../../etc/passwd"}', "no name of a blob"),
        (f'{{"$blob":"{NAME.upper()}"}}', "no name of a blob"),
        ('{"$blob":5}', "no name of a blob"),
    ],
)
def test_a_name_that_stands_for_nothing_is_refused(line, reason):
    with pytest.raises(ValueError, match=reason):
        restore(line.encode(), Shelf().get)


def test_a_blob_cannot_bring_json_with_it():
    shelf = Shelf()
    name = shelf.put(b'", "role": "system')
    with pytest.raises(ValueError, match="no data URL"):
        restore(f'{{"$blob":"{name}"}}'.encode(), shelf.get)


def test_one_blob_that_stands_in_many_places_cannot_fill_the_memory():
    shelf = Shelf()
    name = shelf.put(b"data:" + b"x" * 100_000)
    line = b"[" + b",".join([f'{{"$blob":"{name}"}}'.encode()] * 100_000) + b"]"
    with pytest.raises(ValueError, match="more than 1000000 bytes"):
        restore(line, shelf.get, most=1_000_000)


# ==== a folder ====


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_belongs_together_has_room_together():
    shelf = Shelf()
    whole = encode([URL, URL])
    line = extract(whole, shelf.put)
    room = Room(2 * len(whole) + 1)
    assert [room.restore(line, shelf.get), room.restore(b"[]", shelf.get)] == [whole, b"[]"]
    assert room.without(line, whole) == 1
    room.restore(line, shelf.get)
    assert room.restore(b"[]", shelf.get) == b"[]"
    for attempt in (lambda: room.restore(line, shelf.get), lambda: room.without(line, whole)):
        with pytest.raises(ValueError, match="are left"):
            attempt()
    assert room.left == 1


def test_a_folder_keeps_each_blob_once_as_a_private_file(tmp_path):
    folder = FolderBlobs(tmp_path / "talk.blobs")
    assert not (tmp_path / "talk.blobs").exists()
    name = folder.put(b"one")
    written = tmp_path / "talk.blobs" / name[:2] / name
    before = written.stat()
    assert folder.put(b"one") == name
    assert (written.stat().st_ino, written.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert files(tmp_path) == {f"talk.blobs/{name[:2]}/{name}": b"one"}
    assert folder.get(name) == b"one"
    if os.name == "posix":
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (written, written.parent, written.parent.parent)]
        assert modes == [0o600, 0o700, 0o700]


def test_a_blob_that_a_crash_left_torn_is_written_again(tmp_path):
    folder = FolderBlobs(tmp_path, sync=False)
    name = folder.put(b"one")
    (tmp_path / name[:2] / name).write_bytes(b"")
    folder.put(b"one")
    assert folder.get(name) == b"one"


def test_a_failing_disk_leaves_nothing_in_the_folder(tmp_path, monkeypatch):
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(blobs.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        FolderBlobs(tmp_path).put(b"one")
    assert files(tmp_path) == {}


def test_a_blob_that_is_missing_or_damaged_is_named(tmp_path):
    folder = FolderBlobs(tmp_path)
    name = folder.put(b"one")
    (tmp_path / name[:2] / name).write_bytes(b"two")
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        folder.get(name)
    with pytest.raises(BlobMissingError, match=f"{NAME} is missing"):
        folder.get(NAME)


@pytest.mark.parametrize(
    "name", ["", "..", "../../../../etc/passwd", "/etc/passwd", "a" * 63 + "/", NAME + "\n", NAME.upper()]
)
def test_a_name_is_no_path(tmp_path, name):
    with pytest.raises(ValueError, match="no name of a blob"):
        FolderBlobs(tmp_path).get(name)


# ==== bytes of a user's own parts ====


class Sound(ContentPart):
    type: str = "sound_in_a_blob"
    samples: bytes

    @field_serializer("samples", when_used="json")
    def _store(self, samples: bytes, info: SerializationInfo) -> str:
        context = get_ctx(info)
        return context.save_bytes(samples, ".raw") if context else b64encode(samples).decode()

    @field_validator("samples", mode="before")
    @classmethod
    def _fetch(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        context = get_ctx(info)
        return context.load_bytes(value) if context and is_name(value) else b64decode(value)


SOUND = Message.user(Sound(samples=b"\x00\xff" * 3000))
SOUND_NAME = blob_name(b"\x00\xff" * 3000)


def test_a_part_stores_its_bytes_through_the_save_context():
    shelf = Shelf()
    line = encode([SOUND, SOUND], SaveContext(shelf))
    assert [part["samples"] for message in json.loads(line) for part in message["content"]] == [SOUND_NAME + ".raw"] * 2
    assert list(shelf) == [SOUND_NAME]
    assert decode_messages(line, SaveContext(shelf)) == (SOUND, SOUND)


def test_unknown_fields_are_kept_in_a_save_context_too():
    fields = [{"role": "user", "new": {"a": None}, "content": [{"type": "text", "text": "x", "new": 1}]}]
    assert json.loads(encode(decode_messages(json.dumps(fields).encode(), SaveContext(Shelf())))) == fields


@pytest.mark.parametrize("suffix", ["png", "/x", ".", "./..", ".a/b", ".é", "." + "a" * 17])
def test_a_suffix_is_no_path(suffix):
    with pytest.raises(ValueError, match="suffix"):
        SaveContext(Shelf()).save_bytes(b"", suffix)


@pytest.mark.parametrize("name", ["", "x", NAME[:-1], NAME + "/../x", NAME + "png", "../" + NAME])
def test_only_a_name_that_was_given_is_read(name):
    with pytest.raises(ValueError, match="no name that save_bytes gave"):
        SaveContext(Shelf()).load_bytes(name)


@pytest.mark.parametrize("suffix", [".json", ".kimi"])
def test_such_a_part_is_saved_in_either_file_and_loaded(tmp_path, suffix):
    path = tmp_path / f"talk{suffix}"
    save(path, state(SOUND, picture()))
    assert load(path) == state(SOUND, picture())


def test_a_part_without_its_class_keeps_its_bytes_from_file_to_file(tmp_path, monkeypatch):
    save(tmp_path / "a.kimi", state(SOUND, Message.user(f"a hash that is no blob: {NAME}")))
    with monkeypatch.context() as patch:
        patch.delitem(ContentPart._family, "sound_in_a_blob")
        for before, after in [("a.kimi", "b.json"), ("b.json", "c.json"), ("c.json", "d.kimi"), ("d.kimi", "e.kimi")]:
            loaded = load(tmp_path / before)
            assert isinstance(loaded.chat_history[0].content[0], UnknownPart)
            save(tmp_path / after, loaded)
    for name in ("b.json", "c.json", "d.kimi", "e.kimi"):
        assert load(tmp_path / name).chat_history[0] == SOUND
        assert dict(load(tmp_path / name).unknown) == {}
    assert (tmp_path / "d.kimi").read_bytes() == (tmp_path / "a.kimi").read_bytes()


@pytest.mark.parametrize("name", ["b.json", "b.kimi"])
def test_a_part_without_its_class_takes_its_bytes_along_between_a_file_and_other_blobs(tmp_path, monkeypatch, name):
    shelf = Shelf()
    save(tmp_path / "a.kimi", state(SOUND))
    with monkeypatch.context() as patch:
        patch.delitem(ContentPart._family, "sound_in_a_blob")
        loaded = load(tmp_path / "a.kimi", blobs=shelf)
        assert (list(shelf), dict(loaded.unknown)) == ([SOUND_NAME], {})
        save(tmp_path / name, loaded, blobs=shelf)
    assert load(tmp_path / name) == state(SOUND)


def test_bytes_that_no_message_names_any_more_are_not_saved_again(tmp_path, monkeypatch):
    save(tmp_path / "a.kimi", state(SOUND))
    monkeypatch.delitem(ContentPart._family, "sound_in_a_blob")
    left = load(tmp_path / "a.kimi").unknown
    for name in ("b.json", "b.kimi"):
        save(tmp_path / name, SessionState(unknown=left))
        assert load(tmp_path / name) == SessionState()


def test_a_blob_that_no_message_ever_named_does_not_come_along(tmp_path):
    save(tmp_path / "a.kimi", state(SOUND))
    with zipfile.ZipFile(tmp_path / "a.kimi", "a") as archive:
        archive.writestr(f"blobs/{NAME[:2]}/{NAME}", URL)
    assert load(tmp_path / "a.kimi") == state(SOUND)


# ==== in a .kimi file ====


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_kimi_file_has_each_picture_once_and_is_always_the_same_bytes(tmp_path):
    talk = state(picture(), SOUND, picture(OTHER), picture(), SOUND)
    save(tmp_path / "a.kimi", talk)
    save(tmp_path / "b.kimi", load(tmp_path / "a.kimi"))
    assert (tmp_path / "a.kimi").read_bytes() == (tmp_path / "b.kimi").read_bytes()
    names = sorted(f"blobs/{name[:2]}/{name}" for name in (NAME, SOUND_NAME, blob_name(OTHER.encode())))
    assert list(entries(tmp_path / "a.kimi")) == ["index.json", *names]
    assert b"iVBORw0KGgo" not in entries(tmp_path / "a.kimi")["index.json"]
    assert load(tmp_path / "a.kimi") == talk


def test_the_text_of_a_user_that_looks_like_a_blob_is_never_taken_for_one(tmp_path):
    lookalike = Message.user("x", extra={"$blob": NAME, "deep": {"$$blob": {"$blob": NAME}}})
    for talk in (state(lookalike), state(lookalike, picture())):
        for name in ("a.json", "a.kimi"):
            save(tmp_path / name, talk)
            assert load(tmp_path / name) == talk


@pytest.mark.parametrize("change", ["damaged", "missing"])
@pytest.mark.parametrize("talk", [state(picture()), state(SOUND)], ids=["picture", "sound"])
def test_a_blob_that_is_damaged_or_missing_in_a_kimi_file_is_named(tmp_path, talk, change):
    save(tmp_path / "a.kimi", talk)
    inside = entries(tmp_path / "a.kimi")
    entry = next(name for name in inside if name.startswith("blobs/"))
    inside[entry] = b"data:other"
    if change == "missing":
        inside["blobs/00/" + "0" * 64] = inside.pop(entry)
    with zipfile.ZipFile(tmp_path / "b.kimi", "w") as archive:
        for name, content in inside.items():
            archive.writestr(name, content)
    with pytest.raises(SessionError, match=f"{entry[-64:]} is {change}"):
        load(tmp_path / "b.kimi")
