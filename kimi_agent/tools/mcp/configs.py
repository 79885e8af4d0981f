"""Which MCP servers there are: what a user writes, and what may be said of it without telling secrets."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Final, TypeAlias, cast
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from ..results import truncate

__all__ = ["HttpServer", "ServerConfig", "Servers", "StdioServer", "read_servers"]

Servers: TypeAlias = str | Sequence[str] | Mapping[str, Any]
"""A URL, a command, or servers by name."""


@dataclass(frozen=True, slots=True)
class StdioServer:
    """A server that is a process of ours; it is spoken to through its standard input and output.

    Args:
        name: for error messages and prefixes.
        command: the program.
        args: of the program.
        env: variables beside those that every process needs, such as `PATH` and `HOME`.
        cwd: its working directory.
    """

    name: str
    command: str
    args: tuple[str, ...] = field(default=(), repr=False)
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    cwd: str | None = None

    @property
    def shown(self) -> str:
        """The command, without what looks like a secret."""
        words = [self.command, *_shown_args(self.args)]
        return truncate(" ".join(word if HIDDEN in word else shlex.quote(word) for word in words), _LONGEST_SHOWN)

    @property
    def secrets(self) -> Iterator[str]:
        """What no text may contain."""
        yield from self.env.values()
        yield from (said for said, shown in zip(self.args, _shown_args(self.args), strict=True) if said != shown)


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A server at a URL; it speaks streamable HTTP.

    Args:
        name: for error messages and prefixes.
        url: of its endpoint.
        headers: sent with every request.
    """

    name: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    @property
    def shown(self) -> str:
        """The URL, without what looks like a secret."""
        return shown_url(self.url)

    @property
    def secrets(self) -> Iterator[str]:
        """What no text may contain."""
        for value in self.headers.values():
            yield value
            yield from value.split()[1:]
        parts = urlsplit(self.url)
        asked = [value for _, value in parse_qsl(parts.query)]
        written = [part for part in (parts.password, parts.query, *_long_segments(parts.path)) if part]
        yield from (*asked, *written, *map(unquote, written))


ServerConfig: TypeAlias = StdioServer | HttpServer

# ==== what may be said ====

_SECRET_FLAG: Final = re.compile(r"(?i)key|token|secret|passw|auth|credential|header|cookie")
_LEAST_SECRET: Final = 4
"""Shorter values, such as `1`, stand in many texts and are no secrets."""

_LONGEST_SHOWN: Final = 300
HIDDEN: Final = "***"


def hidden(config: ServerConfig, text: str) -> str:
    """A text about a server, without its secrets."""
    secrets = {form for secret in config.secrets if len(secret) >= _LEAST_SECRET for form in _forms(secret)}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


_ALWAYS_THE_SAME: Final = re.compile(r"[\w.~-]+", re.ASCII)


def _forms(secret: str) -> set[str]:
    """How a text may have it: as it is, within JSON, within a URL."""
    if _ALWAYS_THE_SAME.fullmatch(secret):
        return {secret}
    escaped = {json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)}
    said = secret.encode(errors="replace")
    return {secret, *escaped, quote(said), quote(said, safe=""), quote_plus(said)}


def _shown_args(args: Sequence[str]) -> list[str]:
    before = ("", *args)
    return [_shown_arg(flag, arg) for flag, arg in zip(before, args, strict=False)]


def _shown_arg(flag: str, arg: str) -> str:
    if "://" in arg.partition("=")[0]:
        return shown_url(arg)
    name, has_value, value = arg.partition("=")
    if has_value and _SECRET_FLAG.search(name):
        return f"{name}={HIDDEN}"
    if flag.startswith("-") and "=" not in flag and _SECRET_FLAG.search(flag) and not arg.startswith("-"):
        return HIDDEN
    return f"{name}={shown_url(value)}" if "://" in value else arg


def shown_url(url: str) -> str:
    """A URL without user, password, query and the long parts of its path, which are often keys."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return HIDDEN
    path = parts.path
    for segment in _long_segments(path):
        path = path.replace(segment, HIDDEN)
    return f"{parts.scheme}://{host}{path}{'?' + HIDDEN if parts.query else ''}"


def _long_segments(path: str) -> list[str]:
    return [segment for segment in path.split("/") if len(segment) >= 20]


# ==== what is written ====

_URL: Final = re.compile(r"(?i)https?://")
_STDIO_KINDS: Final = ("stdio",)
_HTTP_KINDS: Final = ("http", "streamable-http", "streamable_http", "streamableHttp")
_CONFIG_KEYS: Final = {"command", "args", "env", "cwd", "url", "headers", "type", "transport"}


def read_servers(servers: Servers) -> list[ServerConfig]:
    """The servers that are meant, in their order, without those that are `disabled`.

    Raises:
        ValueError: something else was written; the text names the server and the key, never a value.
    """
    if not isinstance(servers, Mapping):
        return [_read("", servers)]
    if not servers:
        raise ValueError("there is no server in an empty mapping")
    named: Any = servers.get("mcpServers", servers) if len(servers) == 1 else servers
    if not isinstance(named, Mapping):
        raise ValueError("mcpServers is a mapping from names to servers")
    named = cast(Mapping[str, Any], named)
    if named and named.keys() <= _CONFIG_KEYS and {"command", "url"} & named.keys():
        raise ValueError('a server in a mapping has a name: {"my-server": {"command": ...}}')
    return [_read(str(name), written) for name, written in named.items() if not _is_disabled(written)]


def _is_disabled(written: Any) -> bool:
    return isinstance(written, Mapping) and cast(Mapping[str, Any], written).get("disabled") is True


def _read(name: str, written: Any) -> ServerConfig:
    if isinstance(written, str):
        return (
            _http(name, {"url": written}) if _URL.match(written) else _stdio(name, {"command": _split(name, written)})
        )
    if isinstance(written, Mapping):
        fields = cast(Mapping[str, Any], written)
        _check_keys(name, fields)
        return _stdio(name, fields) if "command" in fields else _http(name, fields)
    if isinstance(written, Sequence) and not isinstance(written, bytes | bytearray):
        return _stdio(name, {"command": written})
    raise ValueError(f"{_of(name)} is a URL, a command or a mapping, not a {type(written).__name__}")


def _check_keys(name: str, fields: Mapping[str, Any]) -> None:
    """Make sure that it is clear what kind of server is meant. Other keys are those of other programs."""
    if "command" in fields and "url" in fields:
        raise ValueError(f"{_of(name)} needs either a command or a url, and has both")
    if "command" not in fields and "url" not in fields:
        keys = ", ".join(repr(key) for key in fields) or "nothing"
        raise ValueError(f"{_of(name)} needs either a command or a url, and has {keys}")


def _of(name: str) -> str:
    return f"the MCP server {name!r}" if name else "the MCP server"


def _split(name: str, command: str) -> list[str]:
    if re.match(r"\w+://", command):
        raise ValueError(f"{_of(name)} has a URL that is neither http nor https")
    try:
        return shlex.split(command, posix=os.name != "nt")
    except ValueError as error:
        raise ValueError(f"{_of(name)}: the command cannot be split: {error}") from None


def _stdio(name: str, fields: Mapping[str, Any]) -> StdioServer:
    _check_kind(name, fields, "command", _STDIO_KINDS)
    command: Any = fields["command"]
    program: Any = [command] if isinstance(command, str | PurePath) else command
    words = [*_texts(name, "command", program), *_texts(name, "args", fields.get("args"))]
    if not words or not words[0]:
        raise ValueError(f"{_of(name)} has an empty command")
    cwd: Any = fields.get("cwd")
    return StdioServer(
        name=name or PurePath(words[0]).stem,
        command=words[0],
        args=tuple(words[1:]),
        env=_table(name, "env", fields.get("env")),
        cwd=None if cwd is None else str(Path(_text(name, "cwd", cwd))),
    )


def _http(name: str, fields: Mapping[str, Any]) -> HttpServer:
    _check_kind(name, fields, "url", _HTTP_KINDS)
    url: Any = fields["url"]
    if not isinstance(url, str) or not _URL.match(url) or not _host(url):
        raise ValueError(f"{_of(name)} has a url that is no http or https URL")
    return HttpServer(name=name or _host(url), url=url, headers=_table(name, "headers", fields.get("headers")))


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _check_kind(name: str, fields: Mapping[str, Any], what: str, kinds: Sequence[str]) -> None:
    for key in ("type", "transport"):
        if fields.get(key) is not None and fields[key] not in kinds:
            raise ValueError(
                f"{_of(name)}: with a {what}, {key} is {kinds[0]}; SSE, the older transport, is not supported"
            )


def _texts(name: str, key: str, values: Any) -> list[str]:
    if values is None:
        return []
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise ValueError(f"{_of(name)}: {key} is a list of texts")
    values = cast(Sequence[Any], values)
    return [_text(name, f"{key}[{number}]", value) for number, value in enumerate(values)]


def _table(name: str, key: str, table: Any) -> dict[str, str]:
    if table is None:
        return {}
    if not isinstance(table, Mapping):
        raise ValueError(f"{_of(name)}: {key} is a mapping of texts")
    return {str(item): _text(name, f"{key}[{item}]", value) for item, value in cast(Mapping[Any, Any], table).items()}


def _text(name: str, key: str, value: Any) -> str:
    if isinstance(value, str | PurePath) and "\0" not in str(value):
        return str(value)
    raise ValueError(f"{_of(name)}: {key} is no text")
