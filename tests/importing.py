"""What a module imports when it runs."""

import ast
from functools import cache
from pathlib import Path


@cache
def imports_at_run_time(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """The imports of a file, wherever in it they stand, but those for types only."""
    found: list[ast.Import | ast.ImportFrom] = []
    waiting: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while waiting:
        match waiting.pop():
            case ast.Import() | ast.ImportFrom() as node:
                found.append(node)
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=otherwise):
                waiting += otherwise
            case ast.expr():
                pass
            case node:
                waiting += ast.iter_child_nodes(node)
    return found
