"""Kimi's byte-pair ranks: where the file is, how it gets there, and counting with it.

One file serves every text model of Kimi. It belongs to Moonshot AI and is not part of this package: it is fetched when
somebody asks for it, by `kimi-agent tokenizer download` or `download`, and never otherwise. Only the file with the
known checksum is used, so a count means the same wherever it was made.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import RanksError

if TYPE_CHECKING:
    from tiktoken import Encoding

__all__ = ["PATH_NAME", "SHA256", "SIZE", "SOURCE", "Ranks", "download", "load", "ranks_path"]

PATH_NAME: Final = "KIMI_AGENT_RANKS"
"""The environment variable that names the file."""
SIZE: Final = 2_795_286
"""Bytes of the file."""
SHA256: Final = "b6c497a7469b33ced9c38afb1ad6e47f03f5e5dc05f15930799210ec050c5103"
SOURCE: Final = (
    "https://huggingface.co/moonshotai/Kimi-K2.6/resolve/7eb5002f6aadc958aed6a9177b7ed26bb94011bb/tiktoken.model"
)
"""Where Moonshot AI publishes it, at a revision that stays. The files of the other models are the same."""
TIMEOUT: Final = 60.0
"""Seconds of silence after which a download is given up."""


# ==== counting ====

_HEAD: Final = r"[^\r\n\p{L}\p{N}]?"
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_CONTRACTION: Final = r"(?i:'(?:[sdmt]|ll|re|ve))?"
PATTERN: Final = "|".join(
    (
        r"\p{Han}+",
        f"{_HEAD}{_UPPER}*{_LOWER}+{_CONTRACTION}",
        f"{_HEAD}{_UPPER}+{_LOWER}*{_CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""How a text is cut into pieces before bytes are merged, in the syntax of tiktoken."""

BLOCK: Final = 400_000
"""Characters. A longer text is cut into blocks of so many before anything else."""
RUN: Final = 25_000
"""Characters. A longer run of white space, or of anything else, is cut after every so many."""
_LONG_RUN: Final = re.compile(rf"(?<!\S)\S{{{RUN + 1},}}|(?<!\s)\s{{{RUN + 1},}}")


class Ranks:
    """The ranks of one file, ready to count with. Made by `load`; may be used from any thread."""

    def __init__(self, encoding: Encoding) -> None:
        self._encode = encoding.encode_ordinary

    def count(self, text: str) -> int:
        """Tokens of a text on its own. What looks like a control token is plain characters."""
        if len(text) <= RUN:
            return len(self._encode(text))
        return sum(len(self._encode(piece)) for piece in pieces(text))


def pieces(text: str) -> Iterator[str]:
    """A text as Kimi cuts it before it looks at words: it only matters for giant ones."""
    for start in range(0, len(text), BLOCK):
        block = text[start : start + BLOCK]
        cuts = [cut for run in _LONG_RUN.finditer(block) for cut in range(run.start() + RUN, run.end(), RUN)]
        yield from (block[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(block)], strict=True))


# ==== the file ====


def ranks_path() -> Path:
    """Where the file is looked for, and downloaded to: what `KIMI_AGENT_RANKS` names, or the user's cache folder."""
    named = os.environ.get(PATH_NAME, "").strip()
    if named:
        return Path(named).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("kimi_agent", appauthor=False) / "tiktoken.model"


_loading: Final = threading.Lock()
_loaded: Final[dict[Path, Ranks]] = {}


def load(path: str | os.PathLike[str] | None = None) -> Ranks:
    """The ranks of a file. Each file is read and checked once per process, which takes about 0.3 s and 67 MB.

    Args:
        path: of the file; that of `ranks_path` unless given.

    Raises:
        RanksError: it is missing, or is another file.
    """
    place = (Path(path) if path is not None else ranks_path()).absolute()
    with _loading:
        if place not in _loaded:
            content = _read(place)
            _loaded[place] = next(iter(_loaded.values()), None) or Ranks(_encoding(content))
        return _loaded[place]


def _read(place: Path) -> bytes:
    try:
        with place.open("rb") as file:
            content = file.read(SIZE + 1)
    except FileNotFoundError as error:
        raise RanksError(
            f"there is no rank file at {place}; fetch it with `kimi-agent tokenizer download`, or let {PATH_NAME} name"
            " a copy"
        ) from error
    except OSError as error:
        raise RanksError(f"cannot read the rank file {place}: {error.strerror or error}") from error
    return _checked(content, str(place))


def _checked(content: bytes, where: str) -> bytes:
    """The content, if it is that of the rank file."""
    if len(content) != SIZE:
        size = f"more than {SIZE:,}" if len(content) > SIZE else f"{len(content):,}"
        raise RanksError(f"{where} is not Kimi's rank file: it has {size} bytes in place of {SIZE:,}")
    if (digest := hashlib.sha256(content).hexdigest()) != SHA256:
        raise RanksError(f"{where} is not Kimi's rank file: its sha256 is {digest} in place of {SHA256}")
    return content


def _encoding(content: bytes) -> Encoding:
    import tiktoken

    lines = map(bytes.split, content.splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    return tiktoken.Encoding("kimi", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})


# ==== fetching it ====


def download(source: str | None = None) -> Path:
    """Fetch the rank file to where it is looked for. It is checked first, and is there as a whole or not at all.

    Args:
        source: an `http:` or `https:` URL, or the path of a copy; Moonshot AI's own file unless given.

    Returns:
        Where it is now.

    Raises:
        RanksError: it could not be fetched or written, or is another file. What was there before still is.
    """
    origin = SOURCE if source is None else source
    content = _fetched(origin) if "://" in origin else _read(Path(origin).expanduser())
    target = ranks_path()
    try:
        _replace(target, content)
    except OSError as error:
        raise RanksError(f"cannot write the rank file {target}: {error.strerror or error}") from error
    return target


def _fetched(url: str) -> bytes:
    if not url.lower().startswith(("http://", "https://")):
        raise RanksError(f"cannot fetch {url}: give an http: or https: URL, or a path")
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(url, headers={"User-Agent": "kimi_agent"}), timeout=TIMEOUT) as answer:
            content: bytes = answer.read(SIZE + 1)
    except (OSError, HTTPException, ValueError) as error:
        raise RanksError(f"cannot fetch {url}: {error}") from error
    return _checked(content, url)


def _replace(target: Path, content: bytes) -> None:
    """Put `content` in the place of `target` in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".kimi_agent-", suffix=".tmp", dir=target.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # there is nothing private in it, and others of the machine may want it
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
