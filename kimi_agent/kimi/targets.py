"""Where the references of a JSON Schema lead: pointers, anchors, and addresses relative to an `$id`. No I/O.

An address outside the document leads nowhere. Escapes are undone as RFC 6901 has it; a name that is there as it is
written is found, too.
"""

from __future__ import annotations

from itertools import count
from typing import Any, Final, cast
from urllib.parse import unquote, urljoin

from .mfjs import Schema, as_list, as_mapping, names_with_slash

__all__ = ["REFERENCES", "Targets"]

REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


class Targets:
    """What the references of a document mean, and what their targets are called in the result."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._resources: dict[str, Schema] = {}
        self._anchors: dict[tuple[str, str], Schema] = {}
        self._bases: dict[int, tuple[str, Schema]] = {}
        self._has_slashes = any(names_with_slash(root))
        definitions = as_mapping(root.get("$defs")).items()
        self._names = {id(node): name for name, node in definitions if _is_safe(name)}
        self._taken = set(self._names.values())

    def find(self, node: Schema, ref: str) -> Any:
        """What `ref` in `node` means: a schema, `True`, `False`, or `None` when nobody knows."""
        if not self._bases:
            self._index()
        base, resource = self._bases.get(id(node), ("", self._root))
        uri, _, fragment = ref.partition("#")
        address = _absolute(base, uri)
        document = self._resources.get(address, self._resources.get(uri)) if uri else resource
        if document is None or not fragment:
            return document
        if not fragment.startswith("/"):
            return self._anchors.get((address, unquote(fragment)))
        found = _pointed(document, fragment)
        return _pointed(self._root, fragment) if found is None else found

    def _index(self) -> None:
        open_values: list[tuple[Any, str, Schema]] = [(self._root, "", self._root)]
        self._resources[""] = self._root
        while open_values:
            value, base, resource = open_values.pop()
            if isinstance(value, dict):
                node = cast(Schema, value)
                base, resource = self._enter(node, base, resource)
                self._bases[id(node)] = base, resource
            inner = cast(Schema, value).values() if isinstance(value, dict) else cast(list[Any], value)
            open_values += [(item, base, resource) for item in inner if isinstance(item, dict | list)]

    def _enter(self, node: Schema, base: str, resource: Schema) -> tuple[str, Schema]:
        """Note what names a node has; its base and its resource are those of what is inside it."""
        identity = node.get("$id")
        uri, _, fragment = identity.partition("#") if isinstance(identity, str) else ("", "", "")
        if uri:
            base, resource = _absolute(base, uri), node
            self._resources.setdefault(base, node)
        for anchor in (fragment, node.get("$anchor"), node.get("$dynamicAnchor")):
            if anchor and isinstance(anchor, str):
                self._anchors.setdefault((base, anchor), node)
        return base, resource

    def name(self, node: Schema, ref: str) -> str:
        """What a target is called in the result: as in the document, or after the `ref` that found it first."""
        if (known := self._names.get(id(node))) is not None:
            return known
        last = unquote(ref).rstrip("/").rpartition("/")[2].rpartition("#")[2].replace("~1", "_").replace("~0", "_")
        wanted = "".join("_" if letter in "/~%" else letter for letter in last) or "definition"
        numbered = (f"{wanted}_{number}" for number in count(2))
        name = wanted if wanted not in self._taken else next(name for name in numbered if name not in self._taken)
        self._names[id(node)] = name
        self._taken.add(name)
        return name

    def names(self) -> list[str]:
        """All names, in the order of the document's `$defs` and then of their discovery."""
        return list(self._names.values())

    def reaches_slash(self, node: Schema) -> bool:
        """Whether a name with a slash, which must not stand in `$defs`, is found at a target or behind it."""
        met: set[int] = set()
        open_values: list[Any] = [node] if self._has_slashes else []
        while open_values:
            value = open_values.pop()
            if not isinstance(value, dict | list) or id(cast(Any, value)) in met:
                continue
            met.add(id(cast(Any, value)))
            if isinstance(value, dict):
                inner = cast(Schema, value)
                if any(isinstance(name, str) and "/" in name for name in inner):
                    return True
                open_values += [self.find(inner, ref) for ref in map(inner.get, REFERENCES) if isinstance(ref, str)]
                open_values += inner.values()
            else:
                open_values += cast(list[Any], value)
        return False


def _is_safe(name: Any) -> bool:
    """Whether a name means the same in a pointer, whether its escapes are undone or not."""
    return isinstance(name, str) and name != "" and not set("/~%") & set(name)


def _absolute(base: str, uri: str) -> str:
    try:
        return urljoin(base, uri)
    except ValueError:
        return uri


def _pointed(value: Any, pointer: str) -> Any:
    """What a JSON pointer leads to; `None` when that is no schema."""
    for token in pointer[1:].split("/"):
        name = unquote(token).replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            inner = cast(Schema, value)
            value = inner.get(name, inner.get(token))
        else:
            items = as_list(value)
            value = items[int(name)] if name.isdecimal() and len(name) < 9 and int(name) < len(items) else None
    return cast(Any, value) if isinstance(value, dict | bool) else None
