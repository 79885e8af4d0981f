"""Which messages a step of a prompt pipeline is about."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar, get_args

from ..message import Message, Role

__all__ = ["Filter", "Predicate", "Roles", "checked_role", "function", "name_of"]

Roles: TypeAlias = Role | Collection[Role]
"""One role, or several."""

Predicate: TypeAlias = Callable[[Message], bool]
"""Whether a step is to do anything with a message."""

ROLES: Final[tuple[Role, ...]] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which messages a step is about: those that have one of the roles and that the predicate accepts."""

    roles: tuple[Role, ...] | None
    predicate: Predicate | None

    @classmethod
    def of(cls, role: Roles | None, predicate: Predicate | None) -> Filter:
        """The filter that the arguments of a step mean.

        Raises:
            ValueError: a role is none, or `role` is empty.
            TypeError: `predicate` cannot be called.
        """
        return cls(None if role is None else _roles(role), None if predicate is None else function(predicate))

    @property
    def role(self) -> Role | None:
        """The one role that every match has, if that is known."""
        return self.roles[0] if self.roles is not None and len(self.roles) == 1 else None

    def __call__(self, message: Message) -> bool:
        return (self.roles is None or message.role in self.roles) and (
            self.predicate is None or bool(self.predicate(message))
        )

    def may_be(self, role: Role) -> bool:
        """Whether the roles, if there are any, name this one."""
        return self.roles is not None and role in self.roles

    def words(self, *, plural: bool = False) -> str:
        """The messages, in words."""
        kinds = "" if self.roles is None else f"{' or '.join(self.roles)} "
        accepted = "" if self.predicate is None else f" that {name_of(self.predicate)} accepts"
        return f"{kinds}message{'s' if plural else ''}{accepted}"


def _roles(role: Roles) -> tuple[Role, ...]:
    several: Collection[str] = (role,) if isinstance(role, str) else role
    checked: list[Role] = [checked_role(one) for one in several]
    roles = tuple(dict.fromkeys(checked))
    if not roles:
        raise ValueError("role has no role in it; leave it out to mean every message")
    return roles


def checked_role(role: str) -> Role:
    """The role.

    Raises:
        ValueError: it is none.
    """
    for known in ROLES:
        if known == role:
            return known
    hint = " (results of functions have the role 'tool')" if role == "function" else ""
    raise ValueError(f"{role!r} is no role; there are {', '.join(map(repr, ROLES))}{hint}")


C = TypeVar("C")


def function(value: C) -> C:
    """The function.

    Raises:
        TypeError: it cannot be called.
    """
    if not callable(value):
        raise TypeError(f"{value!r} is no function")
    return value


def name_of(value: object) -> str:
    """What to call a function in a sentence."""
    name = getattr(value, "__name__", type(value).__name__)
    return "a lambda" if name == "<lambda>" else f"{name}()"
