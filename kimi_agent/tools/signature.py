"""What a function takes: the JSON Schema that the model reads, and the check of what the model sends.

Both come from one pydantic schema of the parameters, so what is described is what is accepted. A function that cannot
be described is refused when it is read, not when it is called. `Signature.validate` says what is wrong in lines for the
model to read; no pydantic error leaves this module.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MethodType, SimpleNamespace, UnionType
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin, get_type_hints

from pydantic import (
    BaseModel,
    Field,
    GetCoreSchemaHandler,
    TypeAdapter,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, JsonSchemaWarningKind
from pydantic_core import CoreSchema, ErrorDetails, PydanticSerializationError, from_json
from typing_extensions import TypedDict  # pydantic refuses the one of `typing` before Python 3.12

from ..errors import FunctionSpecError, ToolArgumentsError
from .context import ToolContext
from .param import AIParam

__all__ = [
    "Signature",
    "context_parameters",
    "docstring_of",
    "is_async",
    "model_signature",
    "name_of",
    "qualified_name_of",
    "read_signature",
]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes.

    Args:
        description: of the function, from its docstring; `""` without one.
        json_schema: of its arguments; the root is an object.
        only: its only parameter and the class that it takes, if it has only one and that takes a class.
        contexts: its parameters that take the `ToolContext`; the model is not told of them.
    """

    description: str
    json_schema: dict[str, Any]
    _adapter: TypeAdapter[Any] = field(repr=False)
    _names: tuple[str, ...]
    only: tuple[str, type] | None = None
    contexts: tuple[str, ...] = ()

    def validate(self, arguments: Any, *, retry: bool = True) -> Any:
        """The arguments as python values: of a function ready to be passed by name, of a model an instance of it.

        A string that holds JSON where an array or an object is wanted is decoded once: models encode twice.

        Args:
            arguments: by name, as JSON gives them.
            retry: whether the model may try again when they do not fit.

        Raises:
            ToolArgumentsError: they do not fit. One line per problem: the field, what was expected, what came.
        """
        given: Any = dict(cast(Mapping[str, Any], arguments)) if isinstance(arguments, Mapping) else arguments
        while True:
            try:
                return self._adapter.validate_python(given)
            except ValidationError as error:
                decoded = _decode_strings(given, error)
                if decoded is given:
                    raise ToolArgumentsError(self._problems(error, given), retry=retry) from None
                given = decoded

    def _problems(self, error: ValidationError, given: Any) -> str:
        details = error.errors(include_url=False, include_context=False)
        lines = list(dict.fromkeys(_problem(detail, given, self._names) for detail in details))
        hidden = len(lines) - _MAX_PROBLEMS
        return "\n".join(lines[:_MAX_PROBLEMS] + ([f"and {hidden} more problems"] if hidden > 0 else []))


def read_signature(function: Callable[..., Any], *, json_schema: Mapping[str, Any] | None = None) -> Signature:
    """Read what `function` takes from its parameters, their types and its docstring.

    Args:
        function: a function, a bound method, a partial (what it fixes is not for the model) or a callable object.
        json_schema: describes the arguments instead of a generated schema. They are checked against the types all the
            same.

    Raises:
        FunctionSpecError: the function cannot be described; the text names the parameter and what to do.
    """
    where = qualified_name_of(function)
    _refuse_generators(function, where)
    description, texts = _read_docstring(docstring_of(function))
    parameters, hints = _hinted(function, where)
    fields = {
        parameter.name: _field(parameter, hints[parameter.name], texts.get(parameter.name), where)
        for parameter in parameters
        if not _is_context(hints[parameter.name])
    }
    contexts = tuple(name for name, hint in hints.items() if _is_context(hint))
    adapter, schema = _described(fields, where, json_schema)
    return Signature(description, schema, adapter, tuple(schema.get("properties", fields)), _only(fields), contexts)


def context_parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """The parameters of a function that take the `ToolContext`; none, if its types cannot be read."""
    try:
        _, hints = _hinted(function, qualified_name_of(function))
    except FunctionSpecError:
        return ()
    return tuple(name for name, hint in hints.items() if _is_context(hint))


def _is_context(hint: Any) -> bool:
    """Whether a parameter takes the `ToolContext`, perhaps `None`, too."""
    if get_origin(hint) is Annotated:
        return _is_context(hint.__origin__)
    if get_origin(hint) in (Union, UnionType):
        return any(map(_is_context, get_args(hint)))
    return isinstance(hint, type) and issubclass(hint, ToolContext)


def _only(fields: Mapping[str, Any]) -> tuple[str, type] | None:
    """The parameter that is alone, and its class."""
    kinds: list[tuple[str, Any]] = [(name, get_args(annotated)[0]) for name, annotated in fields.items()]
    return kinds[0] if len(kinds) == 1 and isinstance(kinds[0][1], type) else None


def model_signature(model: type[BaseModel]) -> Signature:
    """What a function takes whose only parameter is the pydantic model `model`, filled by the arguments.

    Raises:
        FunctionSpecError: the model cannot be described.
    """
    adapter = TypeAdapter[Any](model)
    try:
        schema = adapter.json_schema(schema_generator=_Untitled)
    except Exception as error:
        raise FunctionSpecError(f"{model.__qualname__} cannot be described to a model: {_first_line(error)}") from error
    schema.pop("title", None)
    return Signature(inspect.cleandoc(model.__doc__ or ""), schema, adapter, tuple(schema.get("properties", ())))


# ==== the function ====


def _peeled(function: Any) -> Any:
    """The function inside partials and bound methods."""
    while isinstance(function, functools.partial | MethodType):
        is_partial = isinstance(function, functools.partial)
        function = cast(Any, function.func if is_partial else function.__func__)
    return function


def name_of(function: Any) -> str:
    """The name of a function; the name of its class for a callable object."""
    peeled = _peeled(function)
    return str(getattr(peeled, "__name__", type(peeled).__name__))


def qualified_name_of(function: Any) -> str:
    """The name with the class around it, for error texts."""
    peeled = _peeled(function)
    return str(getattr(peeled, "__qualname__", type(peeled).__qualname__))


def docstring_of(function: Any) -> str:
    """The docstring; of a callable object the one of its `__call__`, else of its class. `""` without one."""
    peeled = _peeled(function)
    own = None if inspect.isroutine(peeled) else type(peeled).__call__.__doc__
    return inspect.cleandoc(own or peeled.__doc__ or "")


def is_async(function: Any) -> bool:
    """Whether calling `function` gives a coroutine and runs nothing yet."""
    return _is(inspect.iscoroutinefunction, function)


def _is(kind: Callable[[Any], bool], function: Any) -> bool:
    peeled = _peeled(function)
    return kind(peeled) or kind(type(peeled).__call__)


def _refuse_generators(function: Any, where: str) -> None:
    if not callable(function) or isinstance(function, type):
        raise FunctionSpecError(f"{where} is no function; pass a function, a method or a callable object")
    if _is(inspect.isgeneratorfunction, function) or _is(inspect.isasyncgenfunction, function):
        raise FunctionSpecError(f"{where} is a generator, which gives no result; return a list or a text instead")


# ==== its parameters ====

# Python 3.14 evaluates annotations when they are read; one that cannot be is reported by its parameter, and the return
# type, which nobody needs, may stay unresolved.
_LAZILY: Final[dict[str, Any]] = {}
if sys.version_info >= (3, 14):
    import annotationlib

    _LAZILY["annotation_format"] = annotationlib.Format.FORWARDREF

_REFUSED: Final = {
    inspect.Parameter.POSITIONAL_ONLY: "is positional-only, and a model passes arguments by name; remove the `/`",
    inspect.Parameter.VAR_POSITIONAL: "takes any number of values; replace it by one list parameter",
    inspect.Parameter.VAR_KEYWORD: "takes any names; write out the parameters, or take one dict",
}


def _parameters(function: Any, where: str) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(function, **_LAZILY).parameters.values()
    except (TypeError, ValueError) as error:
        raise FunctionSpecError(f"{where}: its parameters cannot be read ({error}); wrap it in a function") from error
    fixed = _fixed_names(function)
    wanted = [parameter for parameter in parameters if parameter.name not in fixed]
    for parameter in wanted:
        _check_parameter(parameter, where)
    return wanted


def _fixed_names(function: Any) -> set[str]:
    names: set[str] = set()
    while isinstance(function, functools.partial):
        names |= function.keywords.keys()
        function = cast(Any, function.func)
    return names


def _check_parameter(parameter: inspect.Parameter, where: str) -> None:
    if reason := _REFUSED.get(parameter.kind):
        raise FunctionSpecError(f"{where}: parameter {str(parameter).partition(':')[0]!r} {reason}")
    if parameter.annotation is inspect.Parameter.empty:
        raise FunctionSpecError(f"{where}: parameter {parameter.name!r} has no type; annotate it")


def _namespace(function: Any) -> dict[str, Any]:
    """Where the annotations of `function` look for names: its closure, its module, then the body of its class."""
    source = inspect.unwrap(_peeled(function))
    if not inspect.isroutine(source):
        source = type(source).__call__
    owner = getattr(function, "__self__", None)
    body = vars(owner if isinstance(owner, type) else type(owner))
    return {**body, **vars(builtins), **getattr(source, "__globals__", {}), **_closure(source)}


def _closure(function: Any) -> dict[str, Any]:
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    found: dict[str, Any] = {}
    for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=False):
        with suppress(ValueError):  # a cell is empty while the function around it still runs
            found[name] = cell.cell_contents
    return found


def _hinted(function: Any, where: str) -> tuple[list[inspect.Parameter], dict[str, Any]]:
    """The parameters of a function, and their types by name."""
    parameters, namespace = _parameters(function, where), _namespace(function)
    return parameters, {parameter.name: _hint(parameter, namespace, where) for parameter in parameters}


def _hint(parameter: inspect.Parameter, namespace: dict[str, Any], where: str) -> Any:
    holder = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return get_type_hints(holder, globalns=namespace, include_extras=True)[parameter.name]
    except Exception as error:
        raise _unresolved(parameter, where, error) from error


def _field(parameter: inspect.Parameter, hint: Any, text: str | None, where: str) -> Any:
    try:
        return _annotated(hint, parameter, text)
    except Exception as error:
        raise _unresolved(parameter, where, error) from error


def _unresolved(parameter: inspect.Parameter, where: str, error: Exception) -> FunctionSpecError:
    return FunctionSpecError(
        f"{where}: the type of parameter {parameter.name!r} cannot be resolved ({error}); "
        "define or import it at the top of the module, outside `if TYPE_CHECKING`"
    )


def _annotated(hint: Any, parameter: inspect.Parameter, text: str | None) -> Any:
    """The type with everything that is known about the parameter. Of several fields pydantic lets the last one win."""
    inner, metadata = (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())
    ours = [_field_of(item) for item in metadata if isinstance(item, AIParam)]
    return Annotated[(inner, Field(description=text), *metadata, *_default(parameter), *ours)]  # type: ignore[return-value]


def _field_of(param: AIParam) -> FieldInfo:
    return Field(description=param.desc) if param.title is None else Field(description=param.desc, title=param.title)


def _default(parameter: inspect.Parameter) -> tuple[FieldInfo, ...]:
    default = parameter.default
    if default is inspect.Parameter.empty:
        return ()
    return (default if isinstance(default, FieldInfo) else Field(default=default),)


# ==== its schema ====


class _NoOtherNames:
    """Refuses arguments that are no parameters. As a setting it would reach into dataclasses among the parameters."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        cast(dict[str, Any], handler.resolve_ref_schema(schema))["extra_behavior"] = "forbid"
        return schema


class _Untitled(GenerateJsonSchema):
    """JSON Schema without the titles that pydantic makes up, and with defaults only where JSON has them."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {"skipped-choice", "non-serializable-default"}

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def generate_inner(self, schema: Any) -> JsonSchemaValue:
        result = super().generate_inner(schema)
        described = self.get_schema_from_definitions(result["$ref"]) if "$ref" in result else result
        if described and described.get("title") == getattr(schema.get("cls"), "__name__", None):
            described.pop("title", None)
        return result

    def encode_default(self, dft: Any) -> Any:
        encoded = super().encode_default(dft)
        try:
            json.dumps(encoded, ensure_ascii=False, allow_nan=False).encode()
        except ValueError as error:
            raise PydanticSerializationError(str(error)) from error
        return encoded


_ROOT_KEYS: Final = ("type", "properties", "required", "$defs")


def _adapter(fields: dict[str, Any]) -> TypeAdapter[dict[str, Any]]:
    shape = cast(Any, TypedDict)("Arguments", fields)
    return cast(Any, TypeAdapter)(cast(Any, Annotated)[shape, _NoOtherNames()])


def _generated(adapter: TypeAdapter[dict[str, Any]]) -> dict[str, Any]:
    schema = adapter.json_schema(schema_generator=_Untitled)
    return {key: schema[key] for key in _ROOT_KEYS if key in schema}


def _described(
    fields: dict[str, Any], where: str, given: Mapping[str, Any] | None
) -> tuple[TypeAdapter[dict[str, Any]], dict[str, Any]]:
    try:
        adapter = _adapter(fields)
        return adapter, dict(given) if given is not None else _generated(adapter)
    except Exception as error:
        raise FunctionSpecError(_culprit(fields, where, error)) from error


def _culprit(fields: dict[str, Any], where: str, error: Exception) -> str:
    """Which parameter it is that pydantic cannot describe."""
    for name, hint in fields.items():
        try:
            _generated(_adapter({name: hint}))
        except Exception as own:
            return f"{where}: the type of parameter {name!r} cannot be described to a model: {_first_line(own)}"
    return f"{where}: its parameters cannot be described to a model: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


# ==== its docstring ====


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The description without the sections, and the texts of the parameters by name."""
    if "\n" not in text and not text.startswith(":"):
        return text, {}
    from docstring_parser import ParseError, parse  # importing it takes longer than everything else here

    try:
        parsed = parse(text)
    except ParseError:
        return text, {}
    texts = {
        name.strip(): " ".join(param.description.split())
        for param in parsed.params
        for name in param.arg_name.split(",")
        if param.description
    }
    return (parsed.description or "").strip(), texts


# ==== arguments that do not fit ====

_MAX_PROBLEMS: Final = 20
_MAX_SHOWN: Final = 60
_MAX_PATH: Final = 200

_CONTAINER_WANTED: Final = frozenset(
    {
        "arguments_type",
        "counter_type",
        "dataclass_type",
        "deque_type",
        "dict_type",
        "frozen_set_type",
        "list_type",
        "mapping_type",
        "model_attributes_type",
        "model_type",
        "named_tuple_type",
        "ordered_dict_type",
        "sequence_str",
        "set_type",
        "tuple_type",
    }
)


def _locate(location: Iterable[int | str], value: Any) -> tuple[tuple[int | str, ...], Any]:
    """The path through `value` that `location` takes, and where it ends. Names of union members are not on the path."""
    path: list[int | str] = []
    for step in location:
        if _has(value, step):
            path.append(step)
            value = value[step]
    return tuple(path), value


def _has(value: Any, step: int | str) -> bool:
    if isinstance(value, Mapping):
        return step in value
    return isinstance(value, list | tuple) and isinstance(step, int) and step < len(cast(Sequence[Any], value))


def _decode_strings(given: Any, error: ValidationError) -> Any:
    """`given` with the strings decoded that hold JSON where `error` wanted a container; `given` itself without any."""
    for detail in error.errors(include_url=False, include_context=False):
        path, value = _locate(detail["loc"], given)
        if detail["type"] in _CONTAINER_WANTED and path and isinstance(value, str) and value is detail["input"]:
            decoded = _decoded(value)
            given = given if decoded is None else _with(given, path, decoded)
    return given


def _decoded(text: str) -> Any:
    """The object or array in `text`; `None` if there is none."""
    try:
        value = cast(object, from_json(text))
    except ValueError:
        return None
    return cast(Any, value) if isinstance(value, dict | list) else None


def _with(container: Any, path: Sequence[int | str], value: Any) -> Any:
    if not path:
        return value
    kind: type[Any] = dict if isinstance(container, Mapping) else list  # a copy, and one that can be changed
    copied = kind(container)
    copied[path[0]] = _with(copied[path[0]], path[1:], value)
    return copied


def _problem(detail: ErrorDetails, given: Any, names: Sequence[str]) -> str:
    location, kind = detail["loc"], detail["type"]
    path, _ = _locate(location, given)
    if kind.startswith("missing"):
        return f"{_dotted((*path, location[-1]))}: missing"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        known = f"; the parameters are: {', '.join(names) or 'none'}" if len(location) == 1 else ""
        return f"{_dotted(path)}: unexpected{known}"
    return f"{_dotted(path) or 'arguments'}: {_expectation(detail['msg'])}; got {_shown(detail['input'])}"


def _dotted(path: Iterable[int | str]) -> str:
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in path]
    dotted = "".join(steps).removeprefix(".")
    return dotted if len(dotted) <= _MAX_PATH else dotted[: _MAX_PATH - 3] + "..."


def _expectation(text: str) -> str:
    for prefix in ("Value error, ", "Assertion failed, "):
        text = text.removeprefix(prefix)
    return " ".join(text.replace("Input should be", "must be", 1).split()) or "not valid"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
