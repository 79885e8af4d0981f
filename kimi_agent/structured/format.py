"""One definition of how an answer is to look: what the model is told, and how its answer is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from textwrap import dedent
from typing import Final, TypeAlias

from ..message import Message
from .entries import Entry, EntryParser
from .placeholders import without_doubled_braces
from .template import Template

__all__ = ["MarkdownFormat"]


@dataclass(frozen=True, init=False)
class MarkdownFormat:
    """A format of answers in markdown.

        MarkdownFormat("book_list", "# {title}\\n- {author}\\n- {description}")

    A `{placeholder}` stands where the answer has a text of its own. Each name stands there once, and two in one line
    need something between them: `- {title} ({year})`. Markdown without placeholders will do where nothing is read by
    the format. A brace that is text is doubled, in code as well: `{{` and `}}`.

    Args:
        id: names the format to the model.
        schema: markdown that looks like the answer, with placeholders. It may be indented as a whole.
        examples: one or more answers in this format, likewise. Each has something for every placeholder.
        instructions: what the model is told, or what makes it from the format, in place of the usual text.

    Raises:
        ValueError: the id or the schema is empty, a placeholder is no identifier or stands there twice, nothing stands
            between two placeholders, a brace stands alone, or an example is not in this format.
    """

    id: str
    schema: str
    examples: tuple[str, ...]
    _wording: Wording = field(repr=False)

    def __init__(
        self, id: str, schema: str, examples: str | Sequence[str] = (), *, instructions: Wording = None
    ) -> None:
        given = (examples,) if isinstance(examples, str) else examples
        values = {"schema": _plain(schema), "examples": tuple(map(_plain, given)), "_wording": instructions}
        for name, value in {"id": id, **values}.items():
            object.__setattr__(self, name, value)
        for problem in self._problems():
            raise ValueError(problem)

    def instructions(self) -> str:
        """What the model is told: the exact text."""
        if self._wording is None:
            return _usual_wording(self)
        return self._wording if isinstance(self._wording, str) else self._wording(self)

    @property
    def message(self) -> Message:
        """The instructions as a message, for the end of a prompt; always the same object."""
        return self._message

    @cached_property
    def _message(self) -> Message:
        return Message.system(self.instructions())

    @cached_property
    def template(self) -> Template:
        """The schema, as what reads answers."""
        return Template(self.schema)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Their names, in order."""
        return self.template.names

    def _problems(self) -> Iterator[str]:
        if not self.id.strip():
            yield "a format needs an id"
        if not self.schema:
            yield f"the format {self.id!r} needs a schema"
        try:
            names = self.template.names
        except ValueError as error:
            yield f"the schema of the format {self.id!r}: {error}"
            return
        for number, example in enumerate(self.examples, 1):
            if missing := names and _missing_in(example, self.template):
                yield f"example {number} of the format {self.id!r} has no {', '.join(missing)}"


def _plain(markdown: str) -> str:
    """Without what only the code around it asks for: the indentation of the whole, and blank lines at the ends."""
    return dedent(markdown).strip("\n")


Wording: TypeAlias = str | Callable[[MarkdownFormat], str] | None


def _missing_in(example: str, template: Template) -> list[str]:
    """The placeholders for which an example has nothing, in the entry that has most."""
    parser = EntryParser(template)
    entries: list[Entry] = [*parser.feed(example), *parser.close()]
    fullest = max((entry.values.keys() for entry in entries), key=len, default=())
    return [f"{{{name}}}" for name in template.names if name not in fullest]


# ==== the usual wording ====


def _usual_wording(format: MarkdownFormat) -> str:
    paragraphs = [
        f'Answer in the format "{format.id}". The whole answer is plain markdown in exactly the structure below: '
        "nothing stands before or after it, and it is not wrapped in a code fence.",
        _tagged("structure", without_doubled_braces(format.schema)),
        *([_PLACEHOLDERS] if format.placeholders else []),
        *(_tagged("example", example) for example in format.examples),
    ]
    return "\n\n".join(paragraphs)


_PLACEHOLDERS: Final = (
    "Each name in braces is a placeholder: put the text that it names in its place, and no braces. Repeat the "
    "structure for each thing that you describe. Where a list item or a table row stands for several, write each."
)


def _tagged(tag: str, text: str) -> str:
    return f"<{tag}>\n{text}\n</{tag}>"
