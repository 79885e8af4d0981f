"""The agent of `kimi-agent demo`: small tools that need nothing but Python."""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Callable, Mapping
from datetime import date
from typing import Annotated, Any, Final

from pydantic import Field

from ...agent import Agent
from ...errors import ModelRetry
from ...tools.function import AIParam, ai_function

__all__ = ["DemoAgent", "calculated"]


class DemoAgent(Agent):
    """An agent with a calculator, a calendar and dice."""

    @ai_function()
    def calculate(self, expression: Annotated[str, AIParam("arithmetic, such as (17 + 4) * 23")]) -> dict[str, Any]:
        """Calculate with numbers."""
        return {"expression": expression, "result": calculated(expression)}

    @ai_function()
    def today(self) -> date:
        """The date of today."""
        return date.today()

    @ai_function()
    def days_between(
        self,
        first: Annotated[date, AIParam("the earlier day, such as 2026-01-31")],
        last: Annotated[date, AIParam("the later day")],
    ) -> dict[str, Any]:
        """Count the days from one date to another."""
        return {"first": first, "last": last, "days": (last - first).days}

    @ai_function()
    def roll_dice(
        self,
        dice: Annotated[int, AIParam("how many"), Field(ge=1, le=100)] = 1,
        sides: Annotated[int, AIParam("of each die"), Field(ge=2, le=1000)] = 6,
    ) -> dict[str, Any]:
        """Roll dice."""
        rolls = [random.randint(1, sides) for _ in range(dice)]
        return {"rolls": rolls, "sum": sum(rolls)}


# ==== the calculator ====

MAX_LENGTH: Final = 200
"""Of an expression, in characters. It also keeps its nesting shallow and its products small."""
MAX_BITS: Final = 4096
"""Of a whole number."""
TOO_LARGE: Final = "The result is too large."

BINARY: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
    ast.FloorDiv: lambda left, right: left // right,
    ast.Mod: lambda left, right: left % right,
    ast.Pow: lambda base, exponent: _power(base, exponent),
}
UNARY: Final[Mapping[type[ast.unaryop], Callable[[Any], Any]]] = {
    ast.UAdd: lambda operand: operand,
    ast.USub: lambda operand: -operand,
}


def calculated(expression: str) -> int | float:
    """The value of an arithmetic expression, which is read and never executed.

    Raises:
        ModelRetry: it is no arithmetic, or its value is too large or no real number.
    """
    if len(expression) > MAX_LENGTH:
        raise ModelRetry(f"The expression is longer than {MAX_LENGTH} characters. Calculate it in steps.")
    try:
        return _checked(_value(ast.parse(expression.strip(), mode="eval").body))
    except SyntaxError:
        raise ModelRetry(f"{expression!r} is no arithmetic expression.") from None
    except (ArithmeticError, ValueError) as error:
        raise ModelRetry(f"{expression!r} has no value: {error}.") from None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            return BINARY[type(op)](_value(left), _value(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in UNARY:
            return UNARY[type(op)](_value(operand))
        case _:
            raise ModelRetry("Only numbers, parentheses and + - * / // % ** are understood.")


def _power(base: Any, exponent: Any) -> Any:
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and base.bit_length() * abs(exponent) > MAX_BITS:
        raise ModelRetry(TOO_LARGE)
    power = base**exponent
    if isinstance(power, complex):
        raise ModelRetry("The result is no real number.")
    return power


def _checked(value: Any) -> int | float:
    """Only numbers that JSON can carry."""
    if not (value.bit_length() <= MAX_BITS if isinstance(value, int) else math.isfinite(value)):
        raise ModelRetry(TOO_LARGE)
    return value
