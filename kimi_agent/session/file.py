"""A conversation in one file: `.json` for reading, `.kimi` (a zip with `index.json`) for keeping.

`save` is all or nothing: the new file is complete and on the disk before it takes the place of the old one, and a save
that fails leaves the old file as it was and nothing beside it. `load` gives back what was saved, or says where the file
is damaged. What JSON cannot say (an object in `extra`, NaN, infinity) is refused, never written as something else.

    {"format": "kimi_agent", "version": "1.0", "always_included_messages": [...], "chat_history": [...],
     "usage": {...}, "window": {"cut": 0, "scale": 1.0}, "prompt_cache_key": "..."}

A newer minor version adds fields: they are kept, wherever they stand, and written back. A newer major version is
refused. Only a process that is killed during a save can leave its temporary file (`.kimi_agent-*.tmp`) behind.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, TypeAlias, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import from_json, to_json, to_jsonable_python

from ..errors import SessionError
from ..limits import Spent
from ..message import KEEP_UNKNOWN, FrozenDict, Message, Value, freeze

__all__ = ["SessionState", "load", "save"]

FORMAT: Final = "kimi_agent"
VERSION: Final = (1, 0)
INDEX: Final = "index.json"

FilePath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
V = TypeVar("V", bound=Value)


@dataclass(frozen=True, slots=True)
class SessionState:
    """Everything about a conversation that lasts.

    Args:
        always_included_messages: the pinned messages.
        chat_history: the conversation.
        usage: what it has cost so far.
        cut: index in `chat_history` of the first message that the window keeps.
        scale: how many tokens an estimated one really is, as the window has learnt.
        prompt_cache_key: under which the provider caches the prompt; `None` for none.
        unknown: fields of the file that only a newer version knows. The next save writes them back.
        counted: what the server counted last, as `Window.counted` has it.
    """

    always_included_messages: tuple[Message, ...]
    chat_history: tuple[Message, ...]
    usage: Spent = Spent()  # noqa: RUF009 - frozen
    cut: int = 0
    scale: float = 1.0
    prompt_cache_key: str | None = None
    unknown: FrozenDict = FrozenDict()  # noqa: RUF009 - frozen
    counted: Mapping[str, Any] | None = None


def save(path: FilePath, state: SessionState) -> None:
    """Write `state` to `path`, which ends in `.json` or `.kimi` (upper case will do).

    A new file is readable by its owner alone; an existing one keeps its mode. A symbolic link stays, what it points to
    is replaced.

    Raises:
        SessionError: the file cannot be written, or something in `state` cannot be said in JSON.
    """
    with _session_errors("save", path):
        pack = _packing(os.fsdecode(path))
        _replace(os.path.realpath(os.fsdecode(path)), pack(_encode(state)))


def load(path: FilePath) -> SessionState:
    """Read what `save` wrote. The content decides how, not the suffix.

    Raises:
        SessionError: there is no such file, or it is damaged, foreign or of a newer major version.
    """
    with _session_errors("load", path):
        with open(path, "rb") as file:
            content = file.read()
        return _decode(_unzipped(content) if content.startswith(b"PK") else content)


@contextmanager
def _session_errors(verb: str, path: FilePath) -> Generator[None]:
    """Below this line an error is a `ValueError` that says where, or an `OSError`; above it names the file."""
    try:
        yield
    except OSError as error:
        raise SessionError(f"cannot {verb} {os.fsdecode(path)}: {error.strerror or error}") from error
    except ValueError as error:
        raise SessionError(f"cannot {verb} {os.fsdecode(path)}: {error}") from error
    except RecursionError as error:
        raise SessionError(f"cannot {verb} {os.fsdecode(path)}: it is nested too deeply") from error


# ==== the container ====


def _as_is(content: bytes) -> bytes:
    return content


def _zipped(content: bytes) -> bytes:
    buffer = BytesIO()
    entry = zipfile.ZipInfo(INDEX)  # without the time of day: the same conversation is the same file
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o600 << 16
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(entry, content)
    return buffer.getvalue()


def _unzipped(content: bytes) -> bytes:
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            return archive.read(INDEX)
    except KeyError as error:
        raise ValueError(f"it is a zip file without {INDEX}, which kimi_agent does not write") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"the zip file is damaged: {error}") from error


_PACKINGS: Final[Mapping[str, Callable[[bytes], bytes]]] = {".json": _as_is, ".kimi": _zipped}


def _packing(path: str) -> Callable[[bytes], bytes]:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in _PACKINGS:
        raise ValueError(f"the name must end in {' or '.join(_PACKINGS)}, not {suffix or 'without a suffix'}")
    return _PACKINGS[suffix]


_KNOWN: Final = frozenset(
    {"format", "version", "always_included_messages", "chat_history", "usage", "window", "prompt_cache_key"}
)


# ==== writing ====


def _encode(state: SessionState) -> bytes:
    """The file: one line per message, so that a longer conversation is a small diff."""
    window = {**state.unknown.get("window", {}), "cut": state.cut, "scale": state.scale}
    window |= {"counted": state.counted} if state.counted else {}
    fields = {
        "format": to_json(FORMAT),
        "version": to_json("{}.{}".format(*VERSION)),
        "always_included_messages": _lines("always_included_messages", state.always_included_messages),
        "chat_history": _lines("chat_history", state.chat_history),
        "usage": _json(state.usage, "usage"),
        "window": _json(window, "window"),
        **({"prompt_cache_key": _json(key, "prompt_cache_key")} if (key := state.prompt_cache_key) else {}),
        **{key: _json(value, key) for key, value in state.unknown.items() if key not in _KNOWN},
    }
    return b"{\n" + b",\n".join(_json(key, key) + b": " + value for key, value in fields.items()) + b"\n}\n"


def _lines(name: str, messages: Sequence[Message]) -> bytes:
    if not messages:
        return b"[]"
    return b"[\n  " + b",\n  ".join([_json(message, name, index) for index, message in enumerate(messages)]) + b"\n]"


def _json(value: Any, name: str, index: int | None = None) -> bytes:
    try:
        line = _strict_json(value)
    except Exception as error:  # a serialiser of the caller's own types may raise anything
        where = name if index is None else f"message {index} of {name}"
        raise ValueError(f"{where} is not JSON: {error}. Keep only what JSON can say in `extra`") from error
    return line


def _strict_json(value: Any) -> bytes:
    try:
        line = to_json(value)
    except ValueError:  # a lone surrogate, which pydantic cannot write; or something that nobody can
        return _json_with_surrogates(value)
    if _LOST in line:
        return _json_with_surrogates(value)
    if b"null" in line:  # what pydantic writes for NaN and infinity too
        _refuse_not_finite(_plain(value))
    return line


_LOST: Final = "\ufffd".encode() * 3  # what pydantic makes of a lone surrogate in the key of a mapping


def _json_with_surrogates(value: Any) -> bytes:
    plain = _plain(value)
    _refuse_not_finite(plain)
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"), default=to_jsonable_python)
    return text.encode("utf-8", "backslashreplace")  # its escape for a surrogate, \udXXX, is JSON's


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Value) else value


def _refuse_not_finite(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"JSON has no number {value}")
    if isinstance(value, Mapping):
        value = list(cast(Mapping[Any, Any], value).values())
    if isinstance(value, list | tuple | set | frozenset):
        for item in cast(Sequence[Any], value):
            _refuse_not_finite(item)


def _replace(target: str, content: bytes) -> None:
    """Put `content` in the place of `target` in one step."""
    folder = os.path.dirname(target)
    mode = _mode_for(target)
    descriptor, temporary = tempfile.mkstemp(prefix=".kimi_agent-", suffix=".tmp", dir=folder)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.chmod(temporary, mode)
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _mode_for(target: str) -> int:
    """The mode that the file is to have."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return 0o600
    if not os.access(target, os.W_OK):  # a rename would not ask
        raise PermissionError("the file is write-protected")
    return stat.S_IMODE(mode)


def _sync_folder(folder: str) -> None:
    """Make the rename itself last. Not every platform can open a folder, and the file is in place by now."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ==== reading ====


def _decode(content: bytes) -> SessionState:
    fields = _parse(content)
    if not isinstance(fields, dict) or cast(dict[str, Any], fields).get("format") != FORMAT:
        raise ValueError(f'it is no conversation of kimi_agent: there is no "format": "{FORMAT}" at its top')
    fields = cast(dict[str, Any], fields)
    _check_version(fields.get("version"))
    history = _messages(fields, "chat_history")
    window = _object(fields, "window")
    unknown = {key: value for key, value in fields.items() if key not in _KNOWN}
    if new := {key: value for key, value in window.items() if key not in ("cut", "scale", "counted")}:
        unknown["window"] = new
    return SessionState(
        always_included_messages=_messages(fields, "always_included_messages"),
        chat_history=history,
        usage=_value(Spent, _object(fields, "usage"), "usage"),
        cut=_cut(window, len(history)),
        scale=_scale(window),
        prompt_cache_key=_cache_key(fields),
        unknown=freeze(unknown),
        counted=_counted(window, len(history)),
    )


def _parse(content: bytes) -> Any:
    try:
        return from_json(content, allow_inf_nan=False)
    except ValueError:
        pass  # the decoder of the standard library takes lone surrogates, and says line and column
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError("not JSON that can be read: nested too deeply") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"not JSON: {name}")


def _check_version(version: object) -> None:
    numbers = re.fullmatch(r"(\d{1,9})\.(\d{1,9})", version) if isinstance(version, str) else None
    if numbers is None:
        raise ValueError(f'its `version` must look like "{VERSION[0]}.{VERSION[1]}", not {_shown(version)}')
    if int(numbers[1]) != VERSION[0]:
        raise ValueError(
            f"its format has version {version}, this kimi_agent reads {VERSION[0]}.x; use the kimi_agent that wrote it"
        )


def _shown(value: object) -> str:
    return "absent" if value is None else repr(value)[:40]


def _object(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must be an object, not {_kind(value)}")
    return cast(dict[str, Any], value)


def _messages(fields: Mapping[str, Any], name: str) -> tuple[Message, ...]:
    values = fields.get(name)
    if not isinstance(values, list):
        raise ValueError(f"`{name}` must be a list of messages, not {_kind(values)}")
    return tuple([_value(Message, value, name, index) for index, value in enumerate(cast(list[Any], values))])


def _value(kind: type[V], fields: Any, name: str, index: int | None = None) -> V:
    try:
        return kind.model_validate(fields, context=KEEP_UNKNOWN)
    except Exception as error:  # a validator of the caller's own parts may raise anything
        where = f"`{name}`" if index is None else f"message {index} of `{name}`"
        raise ValueError(f"{where}{_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The first thing that is wrong, and how many there are; never the content itself."""
    if not isinstance(error, ValidationError):
        return f": {type(error).__name__}: {error}"
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{f', field {field}' if field else ''}: {first['msg']}{more}"


def _cut(window: Mapping[str, Any], length: int) -> int:
    cut = window.get("cut", 0)
    if not isinstance(cut, int) or isinstance(cut, bool):
        raise ValueError(f"`window.cut` must be a whole number, not {_kind(cut)}")
    return max(0, min(cut, length - 1))


_COUNTED: Final = ("tokens", "overhead", "answer")


_MOST: Final = 2**63


def _counted(window: Mapping[str, Any], length: int) -> dict[str, Any] | None:
    if window.get("counted") is None:
        return None
    fields = _object(window, "counted")
    for name in _COUNTED:
        if type(fields.get(name)) is not int or not 0 <= fields[name] < _MOST:
            raise ValueError(f"`window.counted.{name}` must be a whole number from 0, not {_kind(fields.get(name))}")
    if not isinstance(by := fields.get("by"), str):
        raise ValueError(f"`window.counted.by` must be a string, not {_kind(by)}")
    return {**{name: fields[name] for name in _COUNTED}, "by": by} if fields["answer"] < length else None


def _scale(window: Mapping[str, Any]) -> float:
    scale = window.get("scale", 1.0)
    if not isinstance(scale, int | float) or isinstance(scale, bool) or scale <= 0:
        raise ValueError(f"`window.scale` must be a number above 0, not {_kind(scale)}")
    return float(scale)


def _cache_key(fields: Mapping[str, Any]) -> str | None:
    key = fields.get("prompt_cache_key")
    if key is not None and not isinstance(key, str):
        raise ValueError(f"`prompt_cache_key` must be a string, not {_kind(key)}")
    return key


def _kind(value: object) -> str:
    """What JSON calls it."""
    if value is None:
        return "absent"
    return _KINDS.get(type(value), "a number")


_KINDS: Final[Mapping[type, str]] = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
