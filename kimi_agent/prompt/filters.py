"""What a prompt pipeline is given: which messages its steps are about, and whether all that it gets is what it takes.

An argument that does not fit is a `TypeError` or a `ValueError` while the pipeline is built. What comes wrong out of a
function while it runs is a `PromptError`, and every error then says in which step and at which message it came up.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import CoroutineType, UnionType
from typing import Any, Final, TypeAlias, TypeVar, cast, get_args

from ..errors import PromptError
from ..message import Message, Role
from ..tools import signature
from ..tools.base import Tool, ToolLike

__all__ = [
    "Filter",
    "Predicate",
    "Roles",
    "called",
    "check_messages",
    "check_optional_function",
    "check_optional_texts",
    "check_texts",
    "checked_role",
    "definitions",
    "each",
    "function",
    "listed",
    "name_of",
    "noted",
    "place_of",
    "signature_of",
    "takes",
]

Roles: TypeAlias = Role | Collection[Role]
"""One role, or several."""

Predicate: TypeAlias = Callable[[Message], bool]
"""Whether a step is to do anything with a message."""

ROLES: Final[tuple[Role, ...]] = get_args(Role)

T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., Any])


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
            TypeError: `predicate` is no function of a message.
        """
        check_optional_function("predicate", predicate, "a message")
        return cls(None if role is None else _roles(role), predicate)

    @property
    def role(self) -> Role | None:
        """The one role that every match has, if that is known."""
        return self.roles[0] if self.roles is not None and len(self.roles) == 1 else None

    def __call__(self, message: Message) -> bool:
        return (self.roles is None or message.role in self.roles) and (
            self.predicate is None or bool(called(self.predicate, message))
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
    several = role if isinstance(role, Iterable) and not isinstance(role, str | bytes) else (role,)
    checked: list[Role] = [checked_role(one) for one in several]
    roles = tuple(dict.fromkeys(checked))
    if not roles:
        raise ValueError("role has no role in it; leave it out to mean every message")
    return roles


# ==== arguments ====


def checked_role(role: object) -> Role:
    """The role.

    Raises:
        ValueError: it is none.
    """
    for known in ROLES:
        if known == role:
            return known
    hint = " (results of functions have the role 'tool')" if role == "function" else ""
    raise ValueError(f"{role!r} is no role; there are {', '.join(map(repr, ROLES))}{hint}")


def check_texts(**texts: object) -> None:
    """Raises TypeError: one of the arguments is no text."""
    for name, value in texts.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} has to be a text, not {value!r}")


def check_optional_texts(**texts: object) -> None:
    """Raises TypeError: one of the arguments is neither a text nor `None`."""
    check_texts(**{name: value for name, value in texts.items() if value is not None})


def function(name: str, value: C, *given: str) -> C:
    """The function that is given as an argument.

    Args:
        name: of the argument.
        value: the function.
        given: what it is called with, in words; nothing, if that is looked at elsewhere.

    Raises:
        TypeError: it cannot be called, it is async, or it takes something else.
    """
    if not callable(value):
        raise TypeError(f"{name}: {value!r} is no function")
    if signature.is_async(value):
        raise TypeError(f"{name}: {name_of(value)} is async; {_WAITS_FOR_NOTHING}")
    if given and not takes(value, len(given)):
        raise TypeError(
            f"{name}: {name_of(value)} takes {signature_of(value)}; it is called with {' and '.join(given)}"
        )
    return value


def check_optional_function(name: str, value: Callable[..., Any] | None, *given: str) -> None:
    """Raises TypeError: it is neither `None` nor a `function`."""
    if value is not None:
        function(name, value, *given)


_WAITS_FOR_NOTHING: Final = (
    "a pipeline waits for nothing, so await it before, and let a plain function use what it gave"
)


def signature_of(value: Callable[..., Any]) -> inspect.Signature | None:
    """What a function takes; `None` for builtins that do not say."""
    try:
        return inspect.signature(value)
    except (TypeError, ValueError):
        return None


def takes(value: Callable[..., Any], number: int) -> bool:
    """Whether a function can be called with so many arguments, as far as it says."""
    says = signature_of(value)
    try:
        return says is None or bool(says.bind(*[None] * number))
    except TypeError:
        return False


def name_of(value: object) -> str:
    """What to call a function in a sentence."""
    name = signature.name_of(value)
    return "a lambda" if name == "<lambda>" else f"{name}()"


# ==== what a pipeline runs on ====


def listed(messages: Iterable[Message]) -> list[Message]:
    """The messages as a list.

    Raises:
        PromptError: they are something that cannot be one.
    """
    given: object = messages
    waits = inspect.isawaitable(given)
    if isinstance(given, Iterable) and not isinstance(given, Message) and not waits:
        return list(messages)
    if isinstance(given, CoroutineType):
        given.close()
    advice = "await it first, as in `await agent.get_prompt()`" if waits else _GIVE_MESSAGES
    raise PromptError(f"{_GIVEN} is no list of messages but of type {type(given).__name__}; {advice}")


_GIVEN: Final = "what the pipeline is given"
_GIVE_MESSAGES: Final = "give it a list of Message"


def check_messages(value: object, what: str = _GIVEN, advice: str = _GIVE_MESSAGES) -> None:
    """Raises PromptError: there is something other than messages."""
    if not isinstance(value, list | tuple):
        raise PromptError(f"{what} is no list of messages but of type {type(value).__name__}; {advice}")
    for index, item in enumerate(cast("Iterable[object]", value)):
        if not isinstance(item, Message):
            raise PromptError(f"message {index} of {what} is no Message but of type {type(item).__name__}; {advice}")


def definitions(functions: Iterable[Tool | ToolLike] | None) -> list[Tool]:
    """What the model is told of the functions.

    Raises:
        TypeError: there is something else among them.
    """
    return [_definition(offered) for offered in functions or ()]


def _definition(offered: Tool | ToolLike) -> Tool:
    base: object = offered if isinstance(offered, Tool) else getattr(offered, "base", None)
    if not isinstance(base, Tool):
        raise TypeError(
            f"{offered!r} is no function of a model; give a Tool, or something that has one as `base`, "
            "as agent.functions.values() are"
        )
    return base


# ==== running functions of the caller ====


def called(func: Callable[..., T], *arguments: Any, gives: type | UnionType = object) -> T:
    """What a function of the caller gives.

    Args:
        func: the function.
        arguments: what it is called with.
        gives: of what type that has to be.

    Raises:
        PromptError: it is of another type, or a coroutine.
    """
    given = func(*arguments)
    if isinstance(given, CoroutineType):
        given.close()
        raise PromptError(f"{name_of(func)} gives a coroutine; {_WAITS_FOR_NOTHING}")
    if gives is not object and not isinstance(given, gives):
        wanted = getattr(gives, "__name__", str(gives))
        raise PromptError(f"{name_of(func)} gives something of type {type(given).__name__}; it has to give {wanted}")
    return given


def each(func: Callable[..., T], messages: Sequence[Message], *beside: Iterable[Any]) -> Iterator[T]:
    """What a function gives for each message, as `map` would give it. An error says at which message it came up."""
    done = 0
    try:
        for arguments in zip(messages, *beside, strict=False):  # what is beside may never end
            yield func(*arguments)
            done += 1
    except Exception as error:
        error.add_note(place_of(done, messages[done]))
        raise


def place_of(index: int, message: Message) -> str:
    """Where a message stands, for the note of an error."""
    return f"at message {index} ({message.role})"


@contextmanager
def noted(place: str) -> Generator[None]:
    """Lets an error say where it came up."""
    try:
        yield
    except Exception as error:
        error.add_note(place)
        raise
