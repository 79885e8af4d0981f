"""A tool under another name, and whether tools are enabled."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ..errors import FunctionSpecError
from .base import NAME_RULE, Tool, ToolLike, ToolReturnValue, is_safe_name

__all__ = ["RenamedTool", "inner_of", "is_enabled", "switch"]


class RenamedTool:
    """Another name for a tool. All else is the tool's own, at any time: its options, and whether it is enabled.

    Args:
        inner: what is called.
        name: for the model.

    Raises:
        FunctionSpecError: Kimi refuses the name.
    """

    __slots__ = ("__weakref__", "_base", "_inner", "_name")

    def __init__(self, inner: ToolLike, name: str) -> None:
        self._inner: ToolLike = inner_of(inner)
        self._name = name
        if name != self._inner.base.name and not is_safe_name(name):
            raise FunctionSpecError(f"Kimi refuses the tool name {name!r}; it has to be {NAME_RULE}")
        self._base = self._inner.base, self._renamed()

    def __repr__(self) -> str:
        return f"RenamedTool({self._inner!r}, {self._name!r})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in RenamedTool.__slots__:  # a copy that is being made has no inner tool yet
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in RenamedTool.__slots__ or name == "enabled":
            object.__setattr__(self, name, value)
        else:
            setattr(self._inner, name, value)

    @property
    def inner(self) -> ToolLike:
        """The tool itself."""
        return self._inner

    @property
    def name(self) -> str:
        """The name that the model uses."""
        return self._name

    @property
    def base(self) -> Tool:
        """The definition under this name; the same object as long as the tool's own is."""
        known, renamed = self._base
        if known is not self._inner.base:
            self._base = self._inner.base, (renamed := self._renamed())
        return renamed

    def _renamed(self) -> Tool:
        base = self._inner.base
        return Tool(name=self._name, description=base.description, parameters=base.parameters, extra=base.extra)

    @property
    def enabled(self) -> bool:
        """Whether the model is told of the tool, under whatever name."""
        return is_enabled(self._inner)

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        switch(self._inner, enabled)

    async def call(self, arguments: Any) -> ToolReturnValue:
        """Call the tool."""
        return await self._inner.call(arguments)


def inner_of(tool: ToolLike) -> ToolLike:
    """The tool itself, whatever it is called here."""
    return tool.inner if isinstance(tool, RenamedTool) else tool


# ==== enabled or not ====


def is_enabled(tool: ToolLike) -> bool:
    """Whether the model is told of a tool: unless its `enabled` is false."""
    return bool(getattr(tool, "enabled", True))


def switch(tool: ToolLike, enabled: bool) -> None:
    """Enable or disable a tool, wherever it is used; also one that is frozen, or has no `enabled` so far.

    Raises:
        FunctionSpecError: it decides that itself, or has no place for it.
    """
    inner = inner_of(tool)
    for put in (setattr, object.__setattr__):  # the latter for what is frozen, as `cached_property` does it
        with suppress(Exception):
            put(inner, "enabled", enabled)
            if is_enabled(inner) is enabled:
                return
    raise FunctionSpecError(
        f"the tool {tool.base.name!r} cannot be {'enabled' if enabled else 'disabled'} from outside: an attribute"
        " `enabled` that can be set is missing"
    )
