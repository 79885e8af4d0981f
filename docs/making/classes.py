"""For the reference: what griffe does not read in the code of a class.

pydantic makes the constructors of values, and a class tells of what is its own before it tells of what it inherits.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterator
from inspect import Signature, isclass, signature
from operator import attrgetter
from typing import Any, Final

from griffe import Alias, Attribute, Class, Extension, Function, Module, Parameter, ParameterKind, Parameters
from pydantic import BaseModel

__all__ = ["Classes"]

LAST: Final = 1_000_000
"""More than any file has lines: members stand in the order of their lines."""


class Classes(Extension):
    """Gives pydantic models their constructors, and classes what they inherit, behind what is their own."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """A package was read."""
        classes = list(_classes(pkg))
        public = {name for module in (pkg, *pkg.modules.values()) if module.is_init_module for name in _exports(module)}
        for each, inherited in [(each, _inherited(each, public)) for each in classes]:
            for member in inherited:
                each.set_member(member.name, member)
        for each in classes:
            if each.docstring is not None:
                each.docstring.value = _NUMBER.sub(r"\1\.", each.docstring.value)
            if "__init__" not in each.members and (model := _model(each)) is not None:
                each.set_member("__init__", _constructor(each, model))


_NUMBER: Final = re.compile(r"^(\d+)\.")
"""What markdown would take for the beginning of a list."""


def _exports(module: Module) -> list[str]:
    return [str(name) for name in module.exports or ()]


def _classes(module: Module | Class) -> Iterator[Class]:
    for member in module.members.values():
        if isinstance(member, Class):
            yield member
        if isinstance(member, Class | Module):
            yield from _classes(member)


def _inherited(written: Class, public: Collection[str]) -> list[Alias]:
    """What a class has of bases that are told of nowhere else."""
    elsewhere = {name for base in written.mro() if base.name in public for name in base.all_members}
    here = [name for name in written.inherited_members if not name.startswith("_") and name not in elsewhere]
    return [
        Alias(name, written.inherited_members[name].final_target, lineno=LAST + place, parent=written)
        for place, name in enumerate(here)
    ]


def _model(written: Class) -> type[BaseModel] | None:
    """The class as it is at run time, if it is a model. What is declared in a function cannot be reached."""
    module = sys.modules.get(written.module.path)
    if module is None:
        return None
    found = attrgetter(written.path.removeprefix(f"{module.__name__}."))(module)
    return found if isclass(found) and issubclass(found, BaseModel) else None


def _constructor(written: Class, model: type[BaseModel]) -> Function:
    own = Parameter("self", kind=ParameterKind.positional_or_keyword)
    given = [each for each in signature(model).parameters.values() if each.kind is each.KEYWORD_ONLY]
    fields = [_parameter(written, each.name, each.default) for each in given]
    return Function("__init__", parent=written, parameters=Parameters(own, *fields), returns="None")


def _parameter(written: Class, name: str, default: object) -> Parameter:
    member = written.all_members.get(name)
    declared = member.final_target if isinstance(member, Alias) else member
    annotation = declared.annotation if isinstance(declared, Attribute) else None
    return Parameter(name, annotation=annotation, kind=ParameterKind.keyword_only, default=_shown(default))


def _shown(default: object) -> str | None:
    """A default as code; dots for one that is made anew each time."""
    if default is Signature.empty:
        return None
    try:
        ast.literal_eval(repr(default))
    except (SyntaxError, ValueError):
        return "..."
    return repr(default)
