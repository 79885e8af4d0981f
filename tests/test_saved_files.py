"""Files that were saved by any release load for ever: `sessions/<version>/`, as `sessions/make.py` wrote them."""

import json
import shutil
from pathlib import Path

import pytest
from sessions.make import NEWER, READERS, conversation, digest, write

from kimi_agent import Agent, __version__
from kimi_agent.history import problems
from kimi_agent.message import ContentPart, Message, UnknownPart
from kimi_agent.session import file
from kimi_agent.session.state import SessionState
from kimi_agent.testing import ScriptedKimi

FOLDER = Path(__file__).parent / "sessions"
DIGESTS = {
    path.parent.relative_to(FOLDER) / name: content
    for path in sorted(FOLDER.glob("*/digests.json"))
    for name, content in json.loads(path.read_bytes()).items()
}
SAVED = pytest.mark.parametrize("path", DIGESTS, ids=str)
FILES = [path for path in DIGESTS if READERS.get(path.suffix) is file.load]


def copied(path: Path, folder: Path) -> Path:
    """A copy of a saved file, with what stands beside it: reading some kinds writes."""
    for beside in (FOLDER / path).parent.glob(f"{path.name}*"):
        copy = shutil.copytree if beside.is_dir() else shutil.copy
        copy(beside, folder / beside.name)
    return folder / path.name


@SAVED
def test_a_saved_file_loads_as_what_was_saved(tmp_path, path):
    state = READERS[path.suffix](copied(path, tmp_path))
    assert digest(state) == DIGESTS[path]
    assert state.damage == ()


def test_every_kind_of_file_and_every_file_is_tried():
    saved = {path.relative_to(FOLDER) for path in FOLDER.glob("*/*") if path.suffix in READERS}
    assert {path for path in saved if path.name != "digests.json"} == DIGESTS.keys()
    assert {path.suffix for path in DIGESTS} == READERS.keys()


@pytest.mark.parametrize("path", FILES, ids=str)
def test_an_agent_goes_on_with_it(tmp_path, path):
    agent = Agent(ScriptedKimi([]))
    agent.load(FOLDER / path)
    assert problems(agent.chat_history) == []
    agent.save(tmp_path / "again.kimi")
    assert file.load(tmp_path / "again.kimi").chat_history == tuple(agent.chat_history)


@pytest.mark.parametrize("path", [path for path in FILES if path.stem != "empty"], ids=str)
@pytest.mark.parametrize("suffix", [".json", ".kimi"])
def test_what_nobody_knows_any_more_survives_a_load_and_save(tmp_path, monkeypatch, path, suffix):
    with monkeypatch.context() as patch:
        patch.delitem(ContentPart._family, "saved_sound")
        state = file.load(FOLDER / path)
        assert sum(isinstance(part, UnknownPart) for message in state.chat_history for part in message.content) == 3
        file.save(tmp_path / f"again{suffix}", state)
    again = file.load(tmp_path / f"again{suffix}")
    assert digest(again) == DIGESTS[path]
    newer = next(message for message in again.chat_history if message.__pydantic_extra__)
    assert json.loads(newer.model_dump_json())["content"][1] == {"type": "later", "a": None, **NEWER}
    assert again.unknown["later"]["new"]["deep"] == (1, None, {"x": None})


def test_what_this_version_saves_is_the_conversation_of_its_script(tmp_path):
    write(tmp_path / "now")
    digests = json.loads((tmp_path / "now" / "digests.json").read_bytes())
    assert {digests[f"talk{suffix}"] for suffix in READERS} == {digest(conversation())}
    assert digests["empty.json"] == digest(SessionState())


def test_a_message_of_each_kind_is_among_them():
    said = file.load(FOLDER / __version__ / "talk.kimi").chat_history
    assert said == conversation().chat_history
    assert {message.role for message in said} == {"user", "assistant", "tool"}
    assert isinstance(said[0], Message)
