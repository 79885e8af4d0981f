"""What a program that uses the package depends on: every public name with its signature, as text.

    python tests/signatures.py        writes tests/signatures.txt anew

It is read from the code and not from objects, so it is the same with every Python and every pydantic. Public is what
the modules of `ENTRANCES` export, and whatever else the pages of the site import. A class has its public members, and
those of bases that only it has and nobody else may name. What public signatures refer to beside that comes last.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cache, cached_property
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple, TypeAlias

ROOT = Path(__file__).parent.parent
SNAPSHOT = Path(__file__).with_name("signatures.txt")
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
ENTRANCES = ("", "session", "testing")
"""Modules that are public as a whole, below the package."""

WIDTH = 120
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
UNSAID = {
    *("__repr__", "__str__", "__eq__", "__hash__", "__del__", "__copy__", "__deepcopy__", "__reduce__"),
    *("__getattr__", "__setattr__", "__delattr__", "__getstate__", "__setstate__", "__slots__", "__post_init__"),
    *("model_config", "model_post_init"),
}
"""Members that every object has, or that speak to Python and pydantic alone."""

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


# ==== what there is ====


class Place(NamedTuple):
    """Where a name is defined. The name is `""` for a module itself."""

    module: str
    name: str


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Those that a type checker sees."""
    for node in body:
        match node:
            case ast.If(test=ast.UnaryOp(op=ast.Not(), operand=ast.Name(id="TYPE_CHECKING"))):
                yield from statements(node.orelse)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from statements(node.body)
            case ast.If():
                yield from statements([*node.body, *node.orelse])
            case _:
                yield node


def names_in(node: ast.stmt) -> list[str]:
    """What a statement defines."""
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return [name]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case _:
            return []


class Module:
    """A module: what it defines, and what it imports from the rest of the package."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.is_package = path.name == "__init__.py"
        self.defined: dict[str, list[ast.stmt]] = {}
        self.imported: dict[str, Place] = {}
        for node in statements(ast.parse(path.read_text("utf-8")).body):
            self._define("", node)
            if isinstance(node, ast.ImportFrom) and node.level:
                source = self._source(node)
                self.imported |= {alias.asname or alias.name: Place(source, alias.name) for alias in node.names}

    def _define(self, outer: str, node: ast.stmt) -> None:
        for name in names_in(node):
            self.defined.setdefault(f"{outer}{name}", []).append(node)
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.ClassDef):
                    self._define(f"{outer}{node.name}.", inner)

    def _source(self, node: ast.ImportFrom) -> str:
        above = self.name.split(".") if self.name else []
        kept = above[: len(above) - node.level + self.is_package]
        return ".".join([*kept, *filter(None, [node.module])])

    @property
    def exported(self) -> list[str]:
        """Its `__all__`."""
        (node,) = self.defined["__all__"]
        assert isinstance(node, ast.Assign)
        return sorted(ast.literal_eval(node.value))


class Package:
    """A package, read module by module as they are asked for.

    Args:
        folder: of the package.
        pages: whose code says what is public beside the entrances.
    """

    def __init__(self, folder: Path, pages: Iterable[Path] = ()) -> None:
        self.folder, self.pages = folder, pages
        self.module = cache(self._module)

    def _module(self, name: str) -> Module | None:
        base = self.folder.joinpath(*filter(None, name.split(".")))
        paths = (base / "__init__.py", base.with_suffix(".py"))
        return next((Module(name, path) for path in paths if path.is_file()), None)

    def find(self, module: str, name: str) -> Place | None:
        """Where what a module calls `name` is defined; `None` outside of the package."""
        if (here := self.module(module)) is None:
            return None
        if name in here.defined:
            return Place(module, name)
        if name in here.imported:
            return self.find(*here.imported[name])
        inner = f"{module}.{name}".lstrip(".")
        return Place(inner, "") if here.is_package and self.module(inner) else None

    def place(self, module: str, node: ast.expr) -> Place | None:
        """Where what an expression begins with is defined."""
        match node:
            case ast.Name(id=name):
                return self.find(module, name)
            case ast.Attribute(value=value, attr=name):
                above = self.place(module, value)
                return self.find(above.module, f"{above.name}.{name}".lstrip(".")) if above else None
            case ast.Subscript(value=value) | ast.Call(func=value):
                return self.place(module, value)
            case _:
                return None

    def nodes(self, place: Place) -> list[ast.stmt]:
        module = self.module(place.module)
        return module.defined.get(place.name, []) if module else []

    @cached_property
    def sections(self) -> dict[str, dict[str, Place]]:
        """The public names of each public module, and where they are defined."""
        found: dict[str, dict[str, Place]] = {}
        whole = [(module, name) for module in ENTRANCES for name in self._exported(module)]
        for module, name in [*whole, *self._shown()]:
            place = self.find(module, name)
            assert place, f"{module or 'the package'} is to have {name!r}, which is defined nowhere"
            if place.name:
                found.setdefault(module, {}).update(self._with_inner(name, place))
            else:
                found[place.module] = {each: Place(place.module, each) for each in self._exported(place.module)}
        return found

    def _exported(self, name: str) -> list[str]:
        module = self.module(name)
        return module.exported if module else []

    def _with_inner(self, name: str, place: Place) -> dict[str, Place]:
        """A public name, and those of the classes inside of it."""
        module = self.module(place.module)
        inner = [each for each in module.defined if each.startswith(f"{place.name}.")] if module else []
        return {
            name: place,
            **{each.replace(place.name, name, 1): Place(place.module, each) for each in inner if "._" not in each},
        }

    def _shown(self) -> list[tuple[str, str]]:
        """What the pages import: the module, below the package, and the name."""
        package = self.folder.name
        blocks = [(page, block) for page in self.pages for block in FENCE.findall(page.read_text("utf-8"))]
        imports = [
            (f"{node.module}.", alias.name)
            for page, block in blocks
            for node in ast.walk(ast.parse(dedent(block), str(page)))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        ]
        inside = {(module, name) for module, name in imports if module.startswith(f"{package}.")}
        return sorted((module.removeprefix(f"{package}.").rstrip("."), name) for module, name in inside)

    @cached_property
    def public(self) -> set[Place]:
        return {place for names in self.sections.values() for place in names.values()}

    def bases(self, place: Place) -> Iterator[tuple[ast.expr, Place | None]]:
        for node in self.nodes(place):
            if isinstance(node, ast.ClassDef):
                yield from ((base, self.place(place.module, base)) for base in node.bases)

    def private_bases(self, place: Place) -> list[Place]:
        """The bases of a class that are not public, each behind all that come from it."""
        found: dict[Place, None] = {}

        def visit(place: Place) -> None:
            for _, base in reversed([*self.bases(place)]):
                if base and base not in self.public and base not in found:
                    visit(base)
            found[place] = None

        visit(place)
        return [*reversed(found)][1:]

    @cached_property
    def inherited(self) -> Counter[Place]:
        """How many public classes have a base that is not public."""
        return Counter(base for place in self.public for base in self.private_bases(place))


# ==== expressions ====


class Plain(ast.NodeTransformer):
    """An annotation as a type checker sees it: no quotes, nothing for pydantic."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        match node:
            case ast.Subscript(value=ast.Name(id="Literal")):
                return node
            case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[kind, *_])):
                return self.visit(kind)
            case _:
                return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        for keyword in node.keywords:
            self.visit(keyword)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return self.visit(ast.parse(node.value, mode="eval").body) if isinstance(node.value, str) else node


def plain(annotation: ast.expr) -> ast.expr:
    copy = ast.parse(ast.unparse(annotation), mode="eval").body
    return Plain().visit(copy)


@dataclass
class Words:
    """Expressions of a package as text; remembers what they refer to."""

    package: Package
    referred: dict[Place, None] = field(default_factory=dict[Place, None])

    def type(self, module: str, annotation: ast.expr) -> str:
        kind = plain(annotation)
        self.refer(module, kind)
        return ast.unparse(kind)

    def refer(self, module: str, kind: ast.expr) -> None:
        named = [node for node in ast.walk(kind) if isinstance(node, ast.Name | ast.Attribute)]
        places = [self.package.place(module, node) for node in named]
        self.referred |= dict.fromkeys(place for place in places if place and place.name)

    def default(self, module: str, node: ast.expr) -> str:
        """A default, as far as whoever calls could write it; else `...`."""
        match node:
            case ast.Constant() | ast.UnaryOp(operand=ast.Constant()) | ast.List(elts=[]) | ast.Dict(keys=[]):
                return ast.unparse(node)
            case ast.BinOp(left=left, right=right):
                sides = [self.default(module, side) for side in (left, right)]
                return "..." if "..." in sides else ast.unparse(node)
            case ast.Tuple(elts=items):
                shown = [self.default(module, item) for item in items]
                return "..." if "..." in shown else f"({', '.join(shown)}{',' * (len(shown) == 1)})"
            case ast.Call() if self.package.place(module, node) in self.package.public:
                return ast.unparse(node)
            case ast.Name():
                return self._value(module, node)
            case ast.Attribute(value=value, attr=name):
                return self._of_object(module, value, name)
            case _:
                return "..."

    def _value(self, module: str, node: ast.expr) -> str:
        """What a name stands for, unless it is public itself."""
        place = self.package.place(module, node)
        if place in self.package.public:
            return ast.unparse(node)
        match self.package.nodes(place) if place else []:
            case [ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value)] if place:
                return self.default(place.module, value)
            case [ast.ClassDef() | ast.FunctionDef()]:
                return ast.unparse(node)
            case _:
                return "..."

    def _of_object(self, module: str, node: ast.expr, name: str) -> str:
        """A field of an object that was made without arguments, `RETRIES: Final = Retries()`."""
        place = self.package.place(module, node)
        match self.package.nodes(place) if place else []:
            case [ast.AnnAssign(value=ast.Call(args=[], keywords=[]) as call)] if place:
                kind = self.package.place(place.module, call) or place
                fields = [each for own in self.package.nodes(kind) for each in ast.walk(own)]
                values = [each.value for each in fields if isinstance(each, ast.AnnAssign) and names_in(each) == [name]]
                return "".join(self.field_default(kind.module, value) or "..." for value in values)
            case _:
                return "..."

    def field_default(self, module: str, node: ast.expr | None) -> str | None:
        """The default of a field; `None` for one that has to be given."""
        match node:
            case None:
                return None
            case ast.Call(func=ast.Name(id="absent")):
                return "None"
            case ast.Call(func=ast.Name(id="Field" | "field"), args=args, keywords=keywords):
                given = {keyword.arg: keyword.value for keyword in keywords}
                if value := args[0] if args else given.get("default"):
                    return self.default(module, value)
                return made_by(given["default_factory"]) if "default_factory" in given else None
            case _:
                return self.default(module, node)


def made_by(factory: ast.expr) -> str:
    """A default that is made anew each time."""
    name = ast.unparse(factory)
    return f"{name}()" if name.isidentifier() and is_public(name) else "..."


# ==== functions ====


def is_public(name: str) -> bool:
    is_special = name.startswith("__") and name.endswith("__") and "pydantic" not in name
    return (is_special or not name.startswith("_")) and name not in UNSAID


def gives_at_once(function: Function) -> bool:
    """Whether a call needs no `await`: also of an `async def` that yields."""
    waiting: list[ast.AST] = [*function.body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Yield):
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return isinstance(function, ast.FunctionDef)


def decorated(node: Function | ast.ClassDef) -> str:
    return "".join(f"@{ast.unparse(decorator)} " for decorator in node.decorator_list)


def without_implementation(nodes: Sequence[ast.stmt]) -> Sequence[ast.stmt]:
    """Of a function with overloads, these; who calls it sees nothing else."""
    overloads = [node for node in nodes if isinstance(node, Function) and "@overload " in decorated(node)]
    return overloads or nodes


def parameters(words: Words, module: str, function: Function) -> list[str]:
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [*[None] * (len(positional) - len(given.defaults)), *given.defaults, *given.kw_defaults]

    def shown(argument: ast.arg, default: ast.expr | None = None, stars: str = "") -> str:
        kind = f": {words.type(module, argument.annotation)}" if argument.annotation else ""
        value = "" if default is None else f" = {words.default(module, default)}"
        return f"{stars}{argument.arg}{kind}{value if kind else value.replace(' ', '')}"

    named = [shown(*each) for each in zip([*positional, *given.kwonlyargs], defaults, strict=True)]
    only_positional, usual = named[: len(given.posonlyargs)], named[len(given.posonlyargs) : len(positional)]
    return [
        *([*only_positional, "/"] if only_positional else []),
        *usual,
        *([shown(given.vararg, stars="*")] if given.vararg else ["*"] * bool(given.kwonlyargs)),
        *named[len(positional) :],
        *([shown(given.kwarg, stars="**")] if given.kwarg else []),
    ]


def function_lines(words: Words, module: str, function: Function, indent: str) -> list[str]:
    """One line, or one for each parameter."""
    start = f"{indent}{decorated(function)}{'' if gives_at_once(function) else 'async '}def {function.name}("
    end = f") -> {words.type(module, function.returns)}" if function.returns else ")"
    given = parameters(words, module, function)
    line = f"{start}{', '.join(given)}{end}"
    return [line] if len(line) <= WIDTH else [start, *(f"{indent}    {each}," for each in given), f"{indent}{end}"]


# ==== classes ====


def assigned_to_self(node: ast.ClassDef) -> dict[str, ast.expr | None]:
    """The attributes that a constructor sets, with the type that stands there or with the parameter."""
    found: dict[str, ast.expr | None] = {}
    for function in node.body:
        if not isinstance(function, ast.FunctionDef) or function.name != "__init__":
            continue
        kinds = {argument.arg: argument.annotation for argument in [*function.args.args, *function.args.kwonlyargs]}
        for statement in ast.walk(function):
            match statement:
                case ast.AnnAssign(target=ast.Attribute(value=ast.Name(id="self"), attr=name), annotation=kind):
                    found[name] = kind
                case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)], value=value):
                    found.setdefault(name, kinds.get(value.id) if isinstance(value, ast.Name) else None)
                case ast.Assign(targets=[ast.Tuple(elts=targets)]):
                    selves = [target.attr for target in targets if isinstance(target, ast.Attribute)]
                    found |= {name: kinds.get(name) for name in selves if name not in found}
                case _:
                    pass
    return found


def fields_of(words: Words, module: str, node: ast.ClassDef) -> dict[str, str]:
    found: dict[str, str] = {}
    for statement in statements(node.body):
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=value) if is_public(name):
                default = words.field_default(module, value)
                found[name] = f"    {name}: {words.type(module, kind)}{'' if default is None else f' = {default}'}"
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if is_public(name):
                found[name] = f"    {name} = {words.default(module, value)}"
            case _:
                pass
    for name, kind in sorted(assigned_to_self(node).items()):
        if is_public(name) and name not in found:
            found[name] = f"    {name}: {words.type(module, kind)}" if kind else f"    {name}"
    return found


def methods_of(words: Words, module: str, node: ast.ClassDef) -> dict[str, list[str]]:
    named: dict[str, list[ast.stmt]] = {}
    for statement in statements(node.body):
        if isinstance(statement, Function) and is_public(statement.name):
            named.setdefault(statement.name, []).append(statement)
    return {
        name: [
            line
            for function in without_implementation(functions)
            if isinstance(function, Function)
            for line in function_lines(words, module, function, "    ")
        ]
        for name, functions in named.items()
    }


def class_lines(words: Words, place: Place) -> Iterator[str]:
    """A class with its members: fields in their order, those of bases first, then functions by name."""
    package = words.package
    family = [place, *(base for base in package.private_bases(place) if package.inherited[base] == 1)]
    classes = [(each.module, node) for each in family for node in package.nodes(each) if isinstance(node, ast.ClassDef)]
    fields: dict[str, str] = {}
    methods: dict[str, list[str]] = {}
    for module, node in reversed(classes):
        found = fields_of(words, module, node)
        fields |= {name: line for name, line in found.items() if ":" in line or name not in fields}
        methods |= methods_of(words, module, node)
    bases = dict.fromkeys(
        words.type(each.module, base)
        for each in family
        for base, origin in package.bases(each)
        if origin not in family and (each is place or ast.unparse(base) != "Protocol")
    )
    own = classes[0][1]
    named = ", ".join([*bases, *map(ast.unparse, own.keywords)])
    yield f"{decorated(own)}class {place.name}{f'({named})' if named else ''}"
    yield from (line for name, line in fields.items() if name not in methods)
    for _, lines in sorted(methods.items()):
        yield from lines


# ==== the whole ====


def definition_lines(words: Words, place: Place) -> Iterator[str]:
    nodes = words.package.nodes(place)
    for node in without_implementation(nodes):
        match node:
            case ast.ClassDef():
                yield from class_lines(words, place)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from function_lines(words, place.module, node, "")
            case ast.AnnAssign(value=ast.expr() as value) | ast.Assign(value=value):
                yield f"{place.name} = {words.type(place.module, value)}"
            case _:
                raise AssertionError(f"{place} is defined in a way that is not known here: {ast.unparse(node)}")


def is_spelled_out(package: Package, place: Place) -> bool:
    """Whether a program has to know what is in it: aliases, bases, values, and what a caller has to write or to be."""
    if place in package.inherited:
        return True
    kinds = [node for node in package.nodes(place) if isinstance(node, ast.ClassDef)]
    written = "".join(f"{decorated(node)}{[ast.unparse(base) for base in node.bases]}" for node in kinds)
    known = any(word in written for word in ("@dataclass", "TypedDict", "Protocol", "Enum"))
    return not place.name.startswith("_") and (known or not kinds)


def referred_lines(words: Words) -> Iterator[str]:
    """What is not public, but stands in what is; and what stands in that."""
    written: dict[Place, tuple[str, ...]] = dict.fromkeys(words.package.public, ())
    while waiting := words.referred.keys() - written.keys():
        for place in sorted(waiting):
            written[place] = tuple(definition_lines(words, place)) if is_spelled_out(words.package, place) else ()
    for lines in sorted({*written.values()} - {()}):
        yield from [*lines, ""]


def snapshot(package: Package) -> list[str]:
    """Every public name with its signature, line by line."""
    words = Words(package)
    written: dict[Place, str] = {}
    lines: list[str] = []
    for module, names in package.sections.items():
        whole_name = ".".join(filter(None, [package.folder.name, module]))
        lines += [f"# {whole_name}", ""]
        for name, place in sorted(names.items()):
            lines += [f"{name} = {written[place]}"] if place in written else definition_lines(words, place)
            lines.append("")
            written.setdefault(place, f"{whole_name}.{name}")
    return [*lines, "# what these refer to", "", *referred_lines(words)][:-1]


def depth(line: str) -> int:
    """How deep a line stands. What closes a signature stands in it."""
    return len(line) - len(line.lstrip()) + line.lstrip().startswith(")") if line else 99


def where(lines: list[str], position: int) -> str:
    """What a line stands in: its module, class and function."""
    above: list[str] = []
    level = depth(lines[position]) if position < len(lines) else 0
    for line in reversed(lines[:position]):
        if line.startswith("#"):
            return ": ".join([line.removeprefix("# "), *reversed(above)])
        if depth(line) < level:
            level = depth(line)
            above.append(line.strip().rstrip("("))
    return ": ".join(reversed(above))


def difference(old: list[str], new: list[str]) -> list[str]:
    """What has changed, under what it stands in."""
    found: list[str] = []
    for kind, begin, end, other_begin, other_end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind != "equal":
            place = where(old, begin) if kind != "insert" else where(new, other_begin)
            changed = [*(f"- {line}" for line in old[begin:end]), *(f"+ {line}" for line in new[other_begin:other_end])]
            found += [f"@@ {place}", *(line for line in changed if line.strip("+- "))]
    return found


if __name__ == "__main__":
    written = snapshot(Package(ROOT / "kimi_agent", PAGES))
    SNAPSHOT.write_text("\n".join(written) + "\n", "utf-8")
    print(f"{len(written)} lines in {SNAPSHOT}")
