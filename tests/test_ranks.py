"""The rank file: where it is looked for, what is taken for it, how it is fetched, and texts cut as Kimi cuts them."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import platformdirs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_agent.prompt import ranks
from kimi_agent.prompt.ranks import BLOCK, RUN, Ranks, RanksError, download, load, pieces, ranks_path


@pytest.fixture(scope="session")
def file(data: Path) -> Path:
    return data / "tiktoken.model"


@pytest.fixture(scope="session")
def loaded(file: Path) -> Ranks:
    return load(file)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache" / "ranks"
    monkeypatch.setenv("KIMI_AGENT_RANKS", str(path))
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A file that is taken for the rank file, so that no test has to have the real one."""
    content = b"YQ== 0\nYg== 1\n"
    monkeypatch.setattr(ranks, "SIZE", len(content))
    monkeypatch.setattr(ranks, "SHA256", hashlib.sha256(content).hexdigest())
    return content


# ==== where it is ====


def test_the_environment_names_the_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KIMI_AGENT_RANKS", "~/kimi/ranks")
    assert ranks_path() == Path.home() / "kimi" / "ranks"


@pytest.mark.parametrize("named", [None, "", "  "])
def test_otherwise_it_is_in_the_cache_folder_of_the_user(named: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KIMI_AGENT_RANKS", raising=False)
    if named is not None:
        monkeypatch.setenv("KIMI_AGENT_RANKS", named)
    assert ranks_path().parent == platformdirs.user_cache_path("kimi_agent", appauthor=False)


# ==== what is taken for it ====


def test_a_missing_file_is_an_error_that_tells_how_to_get_it(tmp_path: Path):
    with pytest.raises(RanksError, match="kimi-agent tokenizer download"):
        load(tmp_path / "none")


def test_a_folder_is_no_rank_file(tmp_path: Path):
    with pytest.raises(RanksError, match="cannot read the rank file"):
        load(tmp_path)


def test_a_file_of_another_size_is_refused_by_its_size(tmp_path: Path):
    (tmp_path / "ranks").write_bytes(b"YQ== 0\n")
    with pytest.raises(RanksError, match=r"has 7 bytes in place of 2,795,286"):
        load(tmp_path / "ranks")


def test_a_longer_file_is_not_read_to_its_end(tmp_path: Path, small: bytes):
    (tmp_path / "ranks").write_bytes(small + b"x")
    with pytest.raises(RanksError, match="more than 14 bytes"):
        load(tmp_path / "ranks")


def test_a_file_with_a_changed_byte_is_refused_by_its_checksum(file: Path, tmp_path: Path):
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    (tmp_path / "ranks").write_bytes(content)
    with pytest.raises(RanksError, match="its sha256 is"):
        load(tmp_path / "ranks")


def test_a_file_is_loaded_once_whoever_asks(file: Path, loaded: Ranks):
    together = threading.Barrier(4)

    def ask(_: int) -> Ranks:
        together.wait(10)
        return load(file)

    with ThreadPoolExecutor(4) as pool:
        assert {id(found) for found in pool.map(ask, range(4))} == {id(loaded)}


def test_a_copy_elsewhere_shares_the_memory(file: Path, loaded: Ranks, tmp_path: Path):
    copy = tmp_path / "copy"
    copy.symlink_to(file)
    assert load(copy) is loaded


# ==== counting ====


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("hello", 1),
        ("Reply with exactly OK", 4),
        ("You are a helpful assistant.", 6),
        ("1234567", 3),
        ("你好", 1),
        ("image 640x480", 5),
        ("image 1920x1080", 7),
    ],
)
def test_texts_have_the_tokens_that_kimi_counts(loaded: Ranks, text: str, tokens: int):
    assert loaded.count(text) == tokens


@pytest.mark.parametrize("text", ["<|open|>", "<|im_end|>", "<|end_of_msg|>"])
def test_what_looks_like_a_control_token_is_plain_characters(loaded: Ranks, text: str):
    assert loaded.count(text) >= 4


def test_lone_surrogates_are_counted(loaded: Ranks):
    assert loaded.count("a\ud800b") == 3


@given(text=st.text(st.characters(), max_size=200))
@settings(max_examples=60)
def test_any_text_has_between_none_and_four_tokens_per_character(loaded: Ranks, text: str):
    assert (loaded.count(text) > 0) == bool(text)
    assert loaded.count(text) <= 4 * len(text)


@pytest.mark.parametrize("letter", ["A", "a", "あ", "中", " ", "\n", "\t", "_", "1", "é", "\u0301"])
def test_the_longest_run_of_anything_is_counted_without_an_error(loaded: Ranks, letter: str):
    run = letter * RUN
    assert loaded.count(f"{run}x") in range(loaded.count(run) - 1, loaded.count(run) + 3)


# ==== giant texts ====


def test_a_run_is_cut_after_every_so_many_characters():
    run = "x" * (2 * RUN + 1)
    assert [len(piece) for piece in pieces(f"a {run} b")] == [2 + RUN, RUN, 3]


def test_white_space_is_cut_the_same_way():
    assert [len(piece) for piece in pieces("a" + "\n" * (RUN + 5) + "b")] == [1 + RUN, 6]


def test_a_run_of_just_so_many_characters_is_whole():
    text = "x" * RUN + " " + "y" * RUN
    assert list(pieces(text)) == [text]


def test_blocks_are_cut_before_runs():
    text = "ab " * BLOCK
    assert [len(piece) for piece in pieces(text)] == [BLOCK, BLOCK, BLOCK]


@given(
    text=st.lists(
        st.tuples(st.sampled_from("a \n中"), st.sampled_from([1, 3, RUN - 1, RUN, RUN + 1, 2 * RUN + 7])), max_size=40
    )
)
@settings(max_examples=60)
def test_the_pieces_are_the_text_and_none_has_a_longer_run(text: list[tuple[str, int]]):
    joined = "".join(letter * length for letter, length in text)
    cut = list(pieces(joined))
    assert "".join(cut) == joined
    assert all(len(piece) <= BLOCK for piece in cut)
    assert all(len(run) <= RUN for piece in cut for run in piece.split())


def test_a_text_of_blocks_costs_what_its_pieces_cost(loaded: Ranks):
    text = "x" * (RUN + 10)
    assert loaded.count(text) == loaded.count("x" * RUN) + loaded.count("x" * 10)


# ==== fetching it ====


class _Shelf(BaseHTTPRequestHandler):
    """A server with one file, one that is cut off, and nothing else."""

    content = b""

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.end_headers()
            return
        found = self.path in ("/file", "/cut")
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(self.content) if found else 0))
        self.end_headers()
        self.wfile.write(self.content[: {"/file": None, "/cut": 3}.get(self.path, 0)])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def shelf(small: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(_Shelf, "content", small)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Shelf) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("page", ["file", "moved"])
def test_a_download_is_where_it_is_looked_for(shelf: str, page: str, small: bytes, target: Path):
    assert download(f"{shelf}/{page}") == target
    assert target.read_bytes() == small
    assert os.listdir(target.parent) == [target.name]


def test_without_a_source_it_comes_from_where_it_is_published(
    shelf: str, small: bytes, target: Path, monkeypatch: pytest.MonkeyPatch
):
    assert ranks.SOURCE.startswith("https://")
    monkeypatch.setattr(ranks, "SOURCE", f"{shelf}/file")
    download()
    assert target.read_bytes() == small


def test_a_path_is_copied(small: bytes, target: Path, tmp_path: Path):
    (tmp_path / "mine").write_bytes(small)
    download(str(tmp_path / "mine"))
    assert target.read_bytes() == small


@pytest.mark.parametrize("page", ["none", "cut"])
def test_a_download_that_fails_leaves_what_was_there(shelf: str, page: str, target: Path):
    target.parent.mkdir()
    target.write_bytes(b"old")
    with pytest.raises(RanksError, match=f"/{page}"):
        download(f"{shelf}/{page}")
    assert target.read_bytes() == b"old"
    assert os.listdir(target.parent) == [target.name]


def test_another_file_is_not_kept(shelf: str, target: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_Shelf, "content", b"YQ== 0\nYg== 2\n")
    with pytest.raises(RanksError, match="its sha256 is"):
        download(f"{shelf}/file")
    assert not target.parent.exists()


@pytest.mark.parametrize("source", ["ftp://host/file", "file:///etc/hostname", "http://127.0.0.1:1/file", "http://[/"])
def test_what_cannot_be_fetched_is_an_error_that_names_it(source: str, target: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(RanksError) as raised:
        download(source)
    assert source in str(raised.value)


def test_a_missing_copy_is_an_error(target: Path, tmp_path: Path):
    with pytest.raises(RanksError, match="no rank file at"):
        download(str(tmp_path / "none"))


def test_a_place_that_cannot_be_written_is_an_error(small: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine").write_bytes(small)
    monkeypatch.setenv("KIMI_AGENT_RANKS", str(tmp_path / "mine" / "below" / "a file"))
    with pytest.raises(RanksError, match="cannot write the rank file"):
        download(str(tmp_path / "mine"))


def test_importing_the_counter_opens_neither_tiktoken_nor_platformdirs_nor_a_connection():
    code = (
        "import sys, kimi_agent.prompt.exact;"
        "print(sorted({'tiktoken', 'platformdirs', 'urllib.request', 'regex'} & sys.modules.keys()))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
