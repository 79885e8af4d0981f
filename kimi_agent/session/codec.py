"""Values as JSON and back, for everything that keeps a conversation.

`encode` writes what reads back as the same value, or refuses: an object that JSON cannot say, NaN, infinity. A lone
surrogate, which models and terminals do produce, is written as JSON's own escape and read back. `decode_messages` reads
many messages at once, which is several times as fast as one by one; only if that fails it looks for the one to blame.

The context goes to the serialisers and validators of a user's own parts: a `SaveContext` where bytes can be stored
beside the text, else `KEEP_UNKNOWN` on reading and none on writing.
"""

from __future__ import annotations

import functools
import gc
import json
import math
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json, to_jsonable_python

from ..message import KEEP_UNKNOWN, KeepUnknown, Message, Value

__all__ = [
    "decode_messages",
    "encode",
    "kind_of",
    "parse",
    "reason_of",
    "uncollected",
    "value_of",
    "values_of",
]

V = TypeVar("V", bound=Value)


# ==== writing ====


def encode(value: Any, context: KeepUnknown | None = None) -> bytes:
    """`value` as compact JSON: a message, or mappings and sequences of whatever JSON and pydantic know.

    Raises:
        ValueError: JSON cannot say it. A serialiser of a user's own part may raise anything else.
    """
    try:
        line = to_json(value, context=context, inf_nan_mode="null")
    except ValueError:  # a lone surrogate, which pydantic cannot write; or something that nobody can
        return _with_surrogates(value, context)
    if _LOST in line:
        return _with_surrogates(value, context)
    if b"null" in line:  # what pydantic writes for NaN and infinity too
        _refuse_not_finite(_plain(value, context))
    return line


_LOST: Final = "\ufffd".encode() * 3  # what pydantic makes of a lone surrogate in the key of a mapping


def _with_surrogates(value: Any, context: KeepUnknown | None) -> bytes:
    try:
        plain = _plain(value, context)
        _refuse_not_finite(plain)
        text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"), default=to_jsonable_python)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return text.encode("utf-8", "backslashreplace")  # its escape for a surrogate, \udXXX, is JSON's


def _written(value: Value, context: KeepUnknown | None) -> Any:
    """A value as its own serialisers write it for JSON."""
    given = value.model_dump(context=context)
    _refuse_not_finite(given)
    try:
        return _with_keys_of(given, value.model_dump(mode="json", context=context))
    except UnicodeEncodeError:  # some keys with lone surrogates are more than pydantic takes
        return given


def _with_keys_of(given: Any, plain: Any) -> Any:
    """What JSON can say of `given`, with its own keys: those of pydantic have lost their lone surrogates."""
    if isinstance(given, Mapping) and isinstance(plain, Mapping):
        pairs = zip(cast(Mapping[Any, Any], given).items(), cast(Mapping[str, Any], plain).items(), strict=True)
        return {
            own if isinstance(own, str) else key: _with_keys_of(item, written) for (own, item), (key, written) in pairs
        }
    if isinstance(given, list | tuple) and isinstance(plain, list):
        pairs = zip(cast(Sequence[Any], given), cast(list[Any], plain), strict=True)
        return [_with_keys_of(item, written) for item, written in pairs]
    return plain


def _plain(value: Any, context: KeepUnknown | None) -> Any:
    """`value` with every pydantic value in it as what it is written from."""
    if isinstance(value, Message):
        fields = value.model_dump(context=context)
        if not isinstance(fields.get("content"), str):
            fields["content"] = [_plain(part, context) for part in value.content]
        return fields
    if isinstance(value, Value):
        return _written(value, context)
    if isinstance(value, Mapping):
        return {key: _plain(item, context) for key, item in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item, context) for item in cast(Sequence[Any], value)]
    return value


def _refuse_not_finite(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"JSON has no number {value}")
    if isinstance(value, Mapping):
        value = list(cast(Mapping[Any, Any], value).values())
    if isinstance(value, list | tuple | set | frozenset):
        for item in cast(Sequence[Any], value):
            _refuse_not_finite(item)


# ==== reading ====


def decode_messages(content: bytes, context: KeepUnknown = KEEP_UNKNOWN) -> tuple[Message, ...]:
    """The messages of a JSON array.

    Raises:
        ValueError: it is no such array; of a message that is wrong, the index and the field.
    """
    if not _has_constant(content):
        try:
            return tuple(_messages_adapter().validate_json(content, context=context))
        except Exception:  # the reason is looked for below, where a lone surrogate is none
            pass
    values = parse(content)
    if not isinstance(values, list):
        raise ValueError(f"it must be a list of messages, not {kind_of(values)}")
    return values_of(Message, cast(list[Any], values), context=context)


@functools.cache
def _messages_adapter() -> TypeAdapter[list[Message]]:
    return TypeAdapter(list[Message])


def parse(content: bytes) -> Any:
    """JSON as Python's own values.

    Raises:
        ValueError: it is none, and where; NaN, infinity and numbers as large, which are none either.
    """
    try:
        value = _parsed(content)
        if _may_overflow(content):
            _refuse_not_finite(value)
    except RecursionError as error:
        raise ValueError("not JSON that can be read: nested too deeply") from error
    return value


def _may_overflow(content: bytes) -> bool:
    """Whether a number may be in it that floats take for infinity. The first look is fast, the second one is sharp."""
    shape = content.translate(_SHAPE, b"+")
    return (b"0e000" in shape or _HUGE in shape) and _OVERFLOWING.search(content) is not None


_SHAPE: Final = bytes.maketrans(b"123456789E", b"000000000e")
_HUGE: Final = b"0" * 309
_OVERFLOWING: Final = re.compile(rb"(?:^|[\s,:\[])-?(?:[0-9][0-9.]*[eE]\+?[0-9]{3}|[0-9]{309})")


def _parsed(content: bytes) -> Any:
    try:
        return from_json(content, allow_inf_nan=False)
    except ValueError as error:  # the decoder of the standard library takes lone surrogates, and says line and column
        if len(content) > _DEEP and "recursion" in str(error):
            raise ValueError("not JSON that can be read: nested too deeply") from error
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except ValueError as error:
        if (number := _TOO_LONG.search(content)) is None or "digits" not in str(error):
            raise
        raise ValueError(f"{_place(content, number.start())}: a number of {len(number[0])} digits") from error


def _place(content: bytes, byte: int) -> str:
    line, before = content.count(b"\n", 0, byte) + 1, content.rfind(b"\n", 0, byte)
    return f"not JSON that can be read at line {line}, column {byte - before}"


_TOO_LONG: Final = re.compile(rb'(?<![0-9.eE"\w])[0-9]{4301,}(?![0-9.eE"])')
"""A whole number that Python does not read: it takes 4,300 digits unless somebody says otherwise."""


_DEEP: Final = 2**26
"""In bytes. What is longer and nested beyond the fast decoder is not tried again: it would be copied several times."""


def _has_constant(content: bytes) -> bool:
    """Whether NaN or infinity may be in it, which pydantic reads as numbers."""
    return b"NaN" in content or b"Infinity" in content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"not JSON: {name}")


def values_of(
    kind: type[V], values: Sequence[Any], name: str = "", context: KeepUnknown = KEEP_UNKNOWN
) -> tuple[V, ...]:
    """Plain values as values of `kind`.

    Raises:
        ValueError: of the first that is none, its index and field; `name` is of the list.
    """
    return tuple([value_of(kind, value, name, index, context) for index, value in enumerate(values)])


def value_of(
    kind: type[V], fields: Any, name: str = "", index: int | None = None, context: KeepUnknown = KEEP_UNKNOWN
) -> V:
    """Plain fields as a value of `kind`.

    Raises:
        ValueError: they are none; which field, never what is in it. `name` and `index` say where it stands.
    """
    try:
        return kind.model_validate(fields, context=context)
    except Exception as error:  # a validator of the caller's own parts may raise anything
        raise ValueError(f"{_where(name, index)}{reason_of(error)}") from error


def _where(name: str, index: int | None) -> str:
    quoted = f"`{name}`" if name else "it"
    if index is None:
        return quoted
    return f"message {index} of {quoted}" if name else f"message {index}"


def reason_of(error: Exception) -> str:
    """The first thing that is wrong, and how many there are; never the content itself."""
    if not isinstance(error, ValidationError):
        return f": {type(error).__name__}: {error}"
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{f', field {field}' if field else ''}: {first['msg']}{more}"


def kind_of(value: object) -> str:
    """What JSON calls it."""
    if value is None:
        return "absent"
    return _KINDS.get(type(value), "a number")


_KINDS: Final[Mapping[type, str]] = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}


# ==== reading much ====


@contextmanager
def uncollected() -> Generator[None]:
    """Without looking for garbage: nothing of what is read is any, and looking costs as much as reading."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
