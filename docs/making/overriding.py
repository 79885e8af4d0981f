"""The hooks of an agent: which there are, how each is declared, and the top of its page."""

from __future__ import annotations

import ast
import re
from functools import cache
from textwrap import dedent
from typing import Final

from addresses import ROOT

__all__ = ["HOOKS", "hook_of", "hooks", "with_declaration"]

HOOKS: Final = "hooks/"
"""The folder of the site that has a page for each."""
SOURCE: Final = ROOT / "kimi_agent" / "agent.py"
NO_HOOKS: Final = frozenset(("compact", "counts_exactly", "cost"))
"""What stands between the hooks and is none: nothing but the program itself asks for it."""


@cache
def hooks() -> dict[str, str]:
    """The hooks of `Agent` by name, each with its declaration as it stands in the code."""
    source = SOURCE.read_text("utf-8")
    first, last = (source[: source.index(ruler)].count("\n") for ruler in ("# ==== hooks:", "# ==== internals:"))
    agent = next(each for each in ast.parse(source).body if isinstance(each, ast.ClassDef) and each.name == "Agent")
    methods = [each for each in agent.body if isinstance(each, ast.AsyncFunctionDef | ast.FunctionDef)]
    lines = source.splitlines(keepends=True)
    return {
        method.name: _narrow(dedent("".join(lines[method.lineno - 1 : method.body[0].lineno - 1])))
        for method in methods
        if first < method.lineno <= last and method.name not in NO_HOOKS
    }


WIDTH: Final = 76
"""Of a line that a page shows whole."""
_COMMA: Final = re.compile(r",\s+(?![^\[]*\])")
"""Between two arguments."""


def _narrow(declaration: str) -> str:
    """The same with an argument on each line, if it is too wide."""
    if max(map(len, declaration.splitlines())) <= WIDTH:
        return declaration
    name, _, rest = declaration.partition("(")
    arguments, _, gives = rest.rpartition(") ->")
    each = "".join(f"    {argument},\n" for argument in _COMMA.split(arguments.strip().rstrip(",")))
    return f"{name}(\n{each}) ->{gives}"


def hook_of(page: str) -> str | None:
    """The hook that a page of the site is about."""
    name = page.removeprefix(HOOKS).removesuffix(".md")
    return name if page.startswith(HOOKS) and name in hooks() else None


def with_declaration(markdown: str, hook: str) -> str:
    """The page of a hook with its declaration below the first heading, and the way to its docstring.

    Args:
        markdown: of the page.
        hook: that it is about.
    """
    heading, _, text = markdown.partition("\n")
    more = f"[In the reference][kimi_agent.Agent.{hook}]"
    return f"{heading}\n\n```python\n{hooks()[hook]}```\n\n{more}\n{text}"
