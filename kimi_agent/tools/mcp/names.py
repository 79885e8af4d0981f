"""Names of tools that Kimi takes, from the names that MCP servers give them.

A name that Kimi takes stays. Another one is made safe in a way that depends on nothing but the name:

- every run of other characters becomes `_`, and a name that is too short or begins wrongly gets `tool_` before it;
- letters of other scripts are lost, so such a name gets a short hash of the original behind it;
- a name that is too long is cut and gets that hash, too.

Two names that become the same one get their hashes; one that was safe already stays as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final, TypeAlias

from ...errors import FunctionSpecError
from ..base import is_safe_name

__all__ = ["Owned", "named_tools", "safe_name"]

Owned: TypeAlias = tuple[str, str]
"""The name of a server, and the name of a tool as it calls it."""

_LONGEST: Final = 64
_SHORTEST: Final = 3
_OTHERS: Final = re.compile(r"[^A-Za-z0-9_-]+")


def safe_name(name: str) -> str:
    """A name that Kimi takes, always the same for the same `name`."""
    if is_safe_name(name):
        return name
    safe = _OTHERS.sub("_", name)
    if len(safe.strip("_-")) == 0 or not name.isascii():
        return _with_hash(safe.strip("_-"), name)
    if not re.match(r"[A-Za-z_]", safe) or len(safe) < _SHORTEST:
        safe = f"tool_{safe}"
    return safe if len(safe) <= _LONGEST else _with_hash(safe, name)


def _with_hash(safe: str, name: str) -> str:
    digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    if not re.match(r"[A-Za-z_]", safe):
        safe = f"tool_{safe}" if safe else "tool"
    return f"{safe[: _LONGEST - 9].rstrip('_')}_{digest}"


def named_tools(tools: Sequence[Owned], prefix: bool | None, known: Mapping[Owned, str]) -> dict[Owned, str]:
    """A name for each tool; no two have the same, and those that have one keep it.

    Args:
        tools: in their order.
        prefix: put the name of the server before each name; `None` does so for names that two servers use.
        known: the names that are given already.

    Raises:
        FunctionSpecError: two servers use a name, and `prefix` is `False`.
    """
    owned = list(dict.fromkeys([*known, *tools]))
    users = Counter(name for _, name in {(server, safe_name(name)) for server, name in owned})
    taken: dict[str, Owned] = {name: owner for owner, name in known.items()}
    wanted = {owner: _wanted(owner, prefix, users, taken) for owner in owned if owner not in known}
    exact = sorted(wanted, key=lambda owner: wanted[owner] != owner[1])  # what was safe already comes first
    clashing = Counter(wanted.values())
    for owner in exact:
        name = wanted[owner]
        if name in taken or (clashing[name] > 1 and name != owner[1]):
            name = _with_hash(name, "\0".join(owner))
        taken[name] = owner
    names = {owner: name for name, owner in taken.items()}
    return {owner: names[owner] for owner in owned}


def _wanted(owner: Owned, prefix: bool | None, users: Mapping[str, int], taken: Mapping[str, Owned]) -> str:
    server, name = owner
    safe = safe_name(name)
    shared = users[safe] > 1 or (safe in taken and taken[safe][0] != server)
    if prefix is False and shared:
        raise FunctionSpecError(f"two MCP servers have a tool {safe!r}; leave prefix=False out")
    return safe_name(f"{_plain(server)}_{name}") if prefix or (prefix is None and shared) else safe


def _plain(server: str) -> str:
    """The name of a server as the beginning of a name."""
    return _OTHERS.sub("_", server)
