"""Validated objects out of markdown while it arrives, by the placeholders of a format."""

from __future__ import annotations

import re
import types
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from inspect import isawaitable
from typing import Annotated, Any, Final, Generic, Literal, Self, TypeAlias, TypeVar, Union, get_args, get_origin

from loguru import logger
from pydantic import AliasChoices, AliasPath, BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ..errors import StructuredOutputError
from ..tools.texts import described, fields_of
from .entries import Entry, EntryParser
from .format import MarkdownFormat
from .parsing import Parsed, Pieces

__all__ = ["RecordParser", "Records", "records"]

Model = TypeVar("Model", bound=BaseModel)
Answer: TypeAlias = Callable[[StructuredOutputError], Awaitable[Model | None] | Model | None]
OnInvalid: TypeAlias = Literal["raise", "skip"] | Answer[Model]


def records(
    stream: Pieces, model: type[Model], format: MarkdownFormat, *, on_invalid: OnInvalid[Model] = "raise"
) -> Records[Model]:
    """Objects out of markdown while it arrives, each as soon as its section closes, as an async iterator.

    The first block of the format with a placeholder begins a record: another one like it, a heading above it or the end
    of the text closes the record. A field that is a list, tuple or set takes all that comes for its placeholder, any
    other the first; for what does not come, defaults apply. Errors of the stream are raised as they are, after the
    records that were whole.

    Args:
        stream: of text or of frames, async or not.
        model: of a record. Its fields are the placeholders of the format, by name or alias.
        format: what the text looks like.
        on_invalid: what to do about a section that is no valid record, about the last one of an answer that was cut
            off, and about a text without any: raise the error, after which iterating goes on with the next record; skip
            it; or call a function with the error, sync or async, whose result takes the place of the record, unless it
            is `None`.

    Raises:
        StructuredOutputError: while iterating, with `on_invalid="raise"`. `raw` is the markdown of the section, and the
            cause is pydantic's error; of a text without records `raw` is the whole text.
        TypeError: `stream` is a text, and not a stream, or the records are to be something else than pydantic models.
        ValueError: the format has no placeholders, a placeholder is no field, a required field has no placeholder, or
            `on_invalid` is something else.
    """
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise TypeError(f"records are pydantic models, and {model!r} is none")
    parser = RecordParser(model, format)
    return Records(Parsed(stream, parser, parser.cut_off), model, _answer(on_invalid))


class Records(Generic[Model]):
    """Objects out of markdown while it arrives.

    Closing it closes the stream. It is an object and no generator, so that dropping it leaves nothing to clean up.
    """

    def __init__(
        self, found: Parsed[Model | StructuredOutputError], model: type[Model], on_invalid: Answer[Model]
    ) -> None:
        self._found = found
        self._model = model
        self._on_invalid = on_invalid

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Model:
        while True:
            found = await anext(self._found)
            if not isinstance(found, StructuredOutputError):
                return found
            if (instead := await self._instead_of(found)) is not None:
                return instead

    async def aclose(self) -> None:
        """Close the stream, and end here."""
        await self._found.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _instead_of(self, error: StructuredOutputError) -> Model | None:
        answer = self._on_invalid(error)
        instead = await answer if isawaitable(answer) else answer
        if instead is not None and not isinstance(instead, self._model):
            raise TypeError(f"on_invalid gives {self._model.__name__} or None, not {type(instead).__name__}") from error
        return instead


# ==== what is not valid ====


def _raise(error: StructuredOutputError) -> None:
    raise error


def _skip(error: StructuredOutputError) -> None:
    logger.debug("skipped: {}", error)


_ANSWERS: Final[Mapping[str, Callable[[StructuredOutputError], None]]] = {"raise": _raise, "skip": _skip}


def _answer(on_invalid: OnInvalid[Model]) -> Answer[Model]:
    if callable(on_invalid):
        return on_invalid
    if not isinstance(on_invalid, str) or on_invalid not in _ANSWERS:
        raise ValueError(f'on_invalid is "raise", "skip" or a function, not {on_invalid!r}')
    return _ANSWERS[on_invalid]


# ==== the parser ====


class RecordParser(Generic[Model]):
    """Finds records in markdown, however it is cut. A section that is no valid record is an error in its place.

    Args:
        model: of a record. Its fields are the placeholders of the format, by name or alias.
        format: what the text looks like.

    Raises:
        ValueError: the format has no placeholders, a placeholder is no field, or a required field has no placeholder.
    """

    def __init__(self, model: type[Model], format: MarkdownFormat) -> None:
        _refuse_misfits(model, format)
        self._model = model
        self._format = format
        self._lists = _lists_of(model)
        self._wrapping = Wrapping(format.template.has_code)
        self._entries = EntryParser(format.template, self._lists)
        self._cut_off: str | None = None

    def cut_off(self, reason: str) -> None:
        """The text has ended before its end, so the record that is open is not whole. `close` comes next."""
        self._cut_off = reason

    def feed(self, piece: str) -> list[Model | StructuredOutputError]:
        """More markdown; the records that are whole now and were not before."""
        return [self._record(entry) for entry in self._entries.feed(self._wrapping.feed(piece))]

    def close(self) -> list[Model | StructuredOutputError]:
        """The text has ended; the record that was open, or an error if there was text and no record in it."""
        entries = [*self._entries.feed(self._wrapping.close()), *self._entries.close()]
        if not self._entries.has_found:
            return [*self._nothing()]
        found = [self._record(entry) for entry in entries]
        if entries and self._cut_off is not None:
            text = f"{_named(entries[-1])} is not whole: the answer was cut off ({self._cut_off})."
            found[-1] = StructuredOutputError(text, entries[-1].raw)
        return found

    def _record(self, entry: Entry) -> Model | StructuredOutputError:
        values = {name: values if name in self._lists else values[0] for name, values in entry.values.items()}
        try:
            return self._model.model_validate(values, strict=False, by_alias=True, by_name=True)
        except Exception as error:  # of pydantic, or of a validator of the caller's
            reason = fields_of(error) if isinstance(error, ValidationError) else described(error)
            invalid = StructuredOutputError(f"{_named(entry)} is no {self._model.__name__}: {reason}.", entry.raw)
            invalid.__cause__ = error
            return invalid

    def _nothing(self) -> Iterator[StructuredOutputError]:
        if (text := self._entries.unread).strip():
            yield StructuredOutputError(f"The text has nothing in the format {self._format.id!r}.", text)


def _named(entry: Entry) -> str:
    return f"The section in line {entry.line}"


class Wrapping:
    """Takes away the code fence that some models put around the whole of an answer in markdown.

    What is left of its end is an empty block of code, for which a template without code has no place.

    Args:
        is_content: whether code belongs to the format, so that nothing is taken away.
    """

    def __init__(self, is_content: bool) -> None:
        self._held: str | None = None if is_content else ""

    def feed(self, piece: str) -> str:
        """What can be passed on of the text, now that there is more of it."""
        if self._held is None:
            return piece
        held = self._held + piece
        text = held.lstrip() if not self._held else held
        blank, self._held = held[: len(held) - len(text)], text
        if fence := _OPENING.match(text):
            return blank + self._passed()[fence.end() :]
        return blank + ("" if not text or _MAY_OPEN.fullmatch(text) else self._passed())

    def close(self) -> str:
        """What was held back."""
        return self._passed()

    def _passed(self) -> str:
        held, self._held = self._held or "", None
        return held


_OPENING: Final = re.compile(r"`{3,9}(?:markdown|md)?[ \t]{0,9}\r?\n", re.IGNORECASE)
_MAY_OPEN: Final = re.compile(r"`{1,9}[a-z]{0,8}[ \t]{0,9}\r?", re.IGNORECASE)


# ==== the model ====


def _refuse_misfits(model: type[BaseModel], format: MarkdownFormat) -> None:
    given = set(format.placeholders)
    if not given:
        raise ValueError(f"the format {format.id!r} has no placeholders, so there are no records in it")
    fields = {name: _names_of(name, field) for name, field in model.model_fields.items()}
    if unknown := given.difference(*fields.values()):
        raise ValueError(
            f"{model.__name__} has no field {', '.join(sorted(unknown))}, which the format {format.id!r} has"
        )
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    if missing := [name for name in required if not fields[name] & given]:
        raise ValueError(f"the format {format.id!r} has no {{{missing[0]}}}, which {model.__name__} requires")


def _names_of(name: str, field: FieldInfo) -> set[str]:
    """What a field may be called in a format: its name and its aliases."""
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    ways = [choice.path if isinstance(choice, AliasPath) else [choice] for choice in choices]
    return {name, *(way[0] for way in ways if len(way) == 1 and isinstance(way[0], str))}


def _lists_of(model: type[BaseModel]) -> frozenset[str]:
    """What those fields may be called that take more than one value."""
    lists = [field for field in model.model_fields.items() if _is_many(field[1].annotation)]
    return frozenset(name for field in lists for name in _names_of(*field))


def _is_many(annotation: Any) -> bool:
    """Whether a type is one of lists, tuples or sets, or may be one."""
    annotation = getattr(annotation, "__value__", annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        return _is_many(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return any(_is_many(kind) for kind in get_args(annotation))
    kind = origin or annotation
    return isinstance(kind, type) and issubclass(kind, Collection) and not issubclass(kind, _SINGLE)


_SINGLE: Final = (str, bytes, bytearray, Mapping)
"""Collections that one text is read as."""
