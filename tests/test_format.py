"""One definition says what the model is told and how its answer is read, and is refused if it cannot work."""

from typing import Any

import pytest

from kimi_agent.message import Message
from kimi_agent.structured.format import MarkdownFormat

GATSBY = "# The Great Gatsby\n- F. Scott Fitzgerald\n- A novel set in the Jazz Age."
SCHEMA = "# {title}\n- {author}\n- {description}"
BOOKS = MarkdownFormat("book_list", SCHEMA, GATSBY)


def test_the_instructions_have_all_that_the_model_needs():
    assert BOOKS.instructions() == (
        'Answer in the format "book_list". The whole answer is plain markdown in exactly the structure below: nothing '
        "stands before or after it, and it is not wrapped in a code fence.\n"
        "\n"
        "<structure>\n# {title}\n- {author}\n- {description}\n</structure>\n"
        "\n"
        "Each name in braces is a placeholder: put the text that it names in its place, and no braces. Repeat the "
        "structure for each thing that you describe. Where a list item or a table row stands for several, write each.\n"
        "\n"
        "<example>\n# The Great Gatsby\n- F. Scott Fitzgerald\n- A novel set in the Jazz Age.\n</example>"
    )


def test_every_example_is_in_the_instructions():
    told = MarkdownFormat("f", "# {a}", ["# one", "# two"]).instructions()
    assert "<example>\n# one\n</example>\n\n<example>\n# two\n</example>" in told


def test_without_placeholders_and_examples_nothing_is_said_of_them():
    told = MarkdownFormat("plain", "# Summary\n\nThree sentences.").instructions()
    assert "# Summary\n\nThree sentences." in told
    assert "placeholder" not in told
    assert "example" not in told


def test_code_is_not_forbidden_where_the_schema_has_some():
    told = MarkdownFormat("f", "# {title}\n```python\n{code}\n```").instructions()
    assert "```python\n{code}\n```" in told
    assert "backtick" not in told


def test_doubled_braces_are_shown_as_the_model_is_to_write_them():
    told = MarkdownFormat("f", '```json\n{{"a": {a}, "b": {{}}}}\n```').instructions()
    assert '{"a": {a}, "b": {}}' in told


def test_the_wording_can_be_replaced():
    assert MarkdownFormat("f", "# {a}", instructions="Do as you like.").instructions() == "Do as you like."


def test_the_wording_can_be_made_from_the_format():
    format = MarkdownFormat("f", "# {a}", instructions=lambda format: f"{format.id}: {format.schema}")
    assert format.instructions() == "f: # {a}"
    assert format.message == Message.system("f: # {a}")


def test_the_message_is_made_once():
    assert BOOKS.message == Message.system(BOOKS.instructions())
    assert BOOKS.message is BOOKS.message


def test_a_schema_may_be_indented_like_the_code_around_it():
    format = MarkdownFormat(
        "book_list",
        """
        # {title}
        - {author}
        - {description}
        """,
        """
        # The Great Gatsby
        - F. Scott Fitzgerald
        - A novel set in the Jazz Age.""",
    )
    assert format == BOOKS


def test_a_format_is_a_value():
    same = MarkdownFormat("book_list", SCHEMA, [GATSBY])
    assert same == BOOKS
    assert hash(same) == hash(BOOKS)
    assert same != MarkdownFormat("books", SCHEMA, GATSBY)
    assert BOOKS.examples == (GATSBY,)
    assert BOOKS.placeholders == ("title", "author", "description")
    with pytest.raises(AttributeError):
        BOOKS.id = "other"  # pyright: ignore[reportAttributeAccessIssue]


REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "no id": ((" ", "# {a}"), "a format needs an id"),
    "no schema": (("f", "\n "), "the format 'f' needs a schema"),
    "a placeholder twice": (("f", "# {a}\n- {b}\n- {a}"), r"'f': the placeholder \{a\} stands there twice"),
    "a placeholder twice in a line": (("f", "# {a}: {a}"), r"\{a\} stands there twice"),
    "a name with a space": (("f", "# {first name}"), r"'f': the placeholder \{first name\} is no name"),
    "no name": (("f", "# {}"), r"\{\} is no name"),
    "a number": (("f", "# {1}"), r"\{1\} is no name"),
    "a conversion": (("f", "# {a!r}"), r"\{a!r\} is no name"),
    "an attribute": (("f", "# {a.b}"), r"\{a.b\} is no name"),
    "an opening brace": (("f", "# {a"), r"a single '\{' .*doubled: '\{\{'"),
    "a closing brace": (("f", "# a}"), r"a single '\}' .*doubled: '\}\}'"),
    "neighbours": (("f", "# {a}**{b}"), r"nothing stands between \{a\} and \{b\}"),
    "neighbours in code": (("f", "```\n{a}{b}\n```"), r"nothing stands between \{a\} and \{b\}"),
    "a row without a table": (("f", "| {a} | {b} |"), r"the row with \{a\} is no table"),
    "an example of something else": (
        ("f", SCHEMA, "The Great Gatsby"),
        r"example 1 of the format 'f' has no \{title\}",
    ),
    "an example with something missing": (
        ("f", SCHEMA, [GATSBY, "# Dune\n- Frank Herbert", GATSBY]),
        r"example 2 of the format 'f' has no \{description\}$",
    ),
    "an example that is blank": (("f", "# {a}", ""), r"example 1 of the format 'f' has no \{a\}"),
    "an example with an empty value": (("f", "# {a}", "#"), r"example 1 of the format 'f' has no \{a\}"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_definition_that_cannot_work_is_refused(name: str):
    arguments, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        MarkdownFormat(*arguments)


@pytest.mark.parametrize(
    ("schema", "example"),
    [
        (SCHEMA, f"{GATSBY}\n# Dune"),
        ("## Pros\n- {pros}\n## Cons\n- {cons}", "## Pros\n- a\n- b\n## Cons\n- c\n- d"),
        ("| N | P |\n|---|---|\n| {n} | {p} |", "| N | P |\n|---|---|\n| a | 1 |\n| b | 2 |"),
        ("No placeholders", "Anything"),
        ("a {b}\n\n---\n\n{c}", "A x\n\n---\n\ny"),
    ],
)
def test_an_example_needs_one_whole_record(schema: str, example: str):
    assert MarkdownFormat("f", schema, example).examples == (example,)
