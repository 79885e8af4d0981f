"""An answer as an object of a given type: asked for as JSON, checked, and asked for again when it does not fit.

The model gets the JSON schema of the type as `response_format`. Kimi keeps to it; other hosts may not, so the answer is
checked in any case, and what is wrong with it is said to the model.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from functools import lru_cache
from types import UnionType
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

from pydantic import BaseModel, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import from_json

from ..errors import StructuredOutputError
from ..generate import GenerateResult
from ..message import Message
from ..stream import MessageStream, Round
from ..tools.texts import ToolTexts, described, fields_of

__all__ = ["Output", "Snapshot", "Snapshots"]

T = TypeVar("T")

Snapshot: TypeAlias = dict[str, Any] | list[Any] | str | int | float | bool | None
"""JSON as far as it has come."""


# ==== a type as JSON ====


class Shape(Generic[T]):
    """A type, as a model is asked for it and as its answer is read.

    An answer is a JSON object. What is none - a list, a number, one of several types - stands in the field `value` of
    one.

    Raises:
        TypeError: the type cannot be described as JSON.
    """

    def __init__(self, kind: type[T] | UnionType) -> None:
        self.name: str = getattr(kind, "__name__", "") or "answer"
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(cast(Any, kind))
            schema = self._adapter.json_schema()
            self._wrapped = not _is_object(schema)
            if self._wrapped:
                self._adapter = TypeAdapter(_with_value(kind))
                schema = self._adapter.json_schema()
        except _NOT_JSON as error:
            raise TypeError(f"{self.name} cannot be described as JSON: {error}") from error
        described = {"name": _NO_NAME.sub("_", self.name)[:64], "schema": schema, "strict": True}
        self.response_format: dict[str, Any] = {"type": "json_schema", "json_schema": described}

    def read(self, text: str) -> T:
        """The object that an answer is.

        Raises:
            ValidationError: it is none.
        """
        try:
            value = self._adapter.validate_json(text)
        except ValidationError as error:
            if not _is_no_json(error) or (object_in_it := _OBJECT.search(text)) is None:
                raise
            value = self._adapter.validate_json(object_in_it[0])
        return value.value if self._wrapped else value

    def so_far(self, text: str) -> Snapshot:
        """What there is of an answer that is not whole.

        Raises:
            ValueError: nothing, or no JSON.
        """
        value = from_json(text[text.find("{") :] if "{" in text else text, allow_partial="trailing-strings")
        if not self._wrapped:
            return value
        if not isinstance(value, dict) or "value" not in value:
            raise ValueError("the value has not begun")
        return cast(Snapshot, value["value"])


_NOT_JSON: Final = (PydanticUserError, PydanticUndefinedAnnotation)
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_-]")


def _is_object(schema: Mapping[str, Any]) -> bool:
    reference = schema.get("$ref")
    root = schema["$defs"][reference.removeprefix("#/$defs/")] if reference else schema
    return root.get("type") == "object"


def _with_value(kind: Any) -> type[BaseModel]:
    return create_model("Answer", value=(kind, ...))


_OBJECT: Final = re.compile(r"\{.*\}", re.DOTALL)
"""What is left of an answer without the fence and the words that some hosts put around JSON."""


def _is_no_json(error: ValidationError) -> bool:
    return error.errors(include_url=False, include_context=False, include_input=False)[0]["type"] == "json_invalid"


@lru_cache(maxsize=256)
def _shape_of(kind: type[T] | UnionType) -> Shape[T]:
    return Shape(kind)


def shape_of(kind: type[T] | UnionType) -> Shape[T]:
    """The shape of a type; that of a class is made once. Unions in another order are equal, and read otherwise.

    Raises:
        TypeError: the type cannot be described as JSON.
    """
    return _shape_of(kind) if isinstance(kind, type) else Shape(kind)


def _reason(error: ValidationError) -> str:
    """What is wrong, by field; of what is no JSON at all there is no field."""
    return fields_of(error).partition(": ")[2] if _is_no_json(error) else fields_of(error)


# ==== an object that is wanted ====


class Output(Generic[T]):
    """The object that a round is to end with.

    Args:
        kind: its type.
        repair_attempts: how often the model may try again.
        texts: what it is told then.

    Raises:
        TypeError: the type cannot be described as JSON.
        ValueError: `repair_attempts` is negative.
    """

    def __init__(self, kind: type[T] | UnionType, repair_attempts: int, texts: ToolTexts) -> None:
        if repair_attempts < 0:
            raise ValueError(f"repair_attempts is 0 or more, not {repair_attempts}")
        self.shape = shape_of(kind)
        self._left = repair_attempts
        self._texts = texts
        self._found: list[T] = []

    def asked(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """What each request of the round asks for.

        Raises:
            TypeError: the overrides say how the answer is to look.
        """
        if given := overrides.keys() & {"response_format", "format"}:
            raise TypeError(f"the type says how the answer is to look; leave out {', '.join(sorted(given))}")
        return {**overrides, "response_format": self.shape.response_format}

    def check(self, result: GenerateResult) -> Message | None:
        """Read an answer. What the model is to be told if it is not the wanted object, and may try again.

        Raises:
            StructuredOutputError: it may not.
        """
        text = result.message.text
        if result.is_cut_off:
            raise StructuredOutputError(
                f"The answer was cut off ({result.finish_reason}), so it is no whole JSON.", text
            )
        try:
            self._found = [self.shape.read(text)]
            return None
        except ValidationError as error:
            wrong = StructuredOutputError(f"The answer is no {self.shape.name}: {_reason(error)}.", text)
            if not self._left:
                raise wrong from error
        except Exception as error:  # of a validator of the caller's: the model cannot mend that
            raise StructuredOutputError(
                f"The answer cannot be read as {self.shape.name}: {described(error)}", text
            ) from error
        self._left -= 1
        return Message.user(self._texts.wrong_shape(wrong))

    async def at_end_of(self, round_: Round[Any]) -> T:
        """What a round has found when it ends.

        Raises:
            StructuredOutputError: nothing.
        """
        async with round_:
            async for _ in round_:
                pass
        return self.value

    @property
    def value(self) -> T:
        """What was found.

        Raises:
            StructuredOutputError: nothing was.
        """
        if not self._found:
            raise StructuredOutputError(f"The round ended with calls, and without the {self.shape.name}.", "")
        return self._found[0]


class Snapshots(Generic[T]):
    """Advances a round of streams by what there is of the object. The last item is the object itself.

    A long answer is not read anew at each piece: then it would cost the square of its length. It is read when it has
    grown by a fiftieth.
    """

    def __init__(self, output: Output[T]) -> None:
        self._output = output
        self._text: AsyncIterator[str] | None = None
        self._pieces: list[str] = []
        self._length = self._due = 0
        self._last: list[Snapshot] = []
        self._ended = self._given = False

    async def __call__(self, steps: AsyncGenerator[MessageStream, None]) -> T | Snapshot:
        while not self._ended:
            if self._text is None:
                await self._next_stream(steps)
            elif await self._has_grown(self._text) and (new := self._snapshot()):
                return new[0]
        if self._given:
            raise StopAsyncIteration
        self._given = True
        return self._output.value

    async def _next_stream(self, steps: AsyncGenerator[MessageStream, None]) -> None:
        try:
            stream = await anext(steps)
        except StopAsyncIteration:
            self._ended = True
            return
        if stream.role == "assistant":
            self._text, self._pieces, self._last = stream.text(), [], []
            self._length = self._due = 0

    async def _has_grown(self, text: AsyncIterator[str]) -> bool:
        """Read on; whether enough has come to look at it."""
        piece = await anext(text, None)
        if piece is None:
            self._text = None
            return False
        self._pieces.append(piece)
        self._length += len(piece)
        return self._length >= self._due

    def _snapshot(self) -> list[Snapshot]:
        """What there is, if it is JSON and something else than before."""
        self._due = self._length + self._length // 50
        self._pieces = ["".join(self._pieces)]
        try:
            now = [self._output.shape.so_far(self._pieces[0])]
        except ValueError:
            return []
        if now == self._last:
            return []
        self._last = now
        return now
