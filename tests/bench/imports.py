"""What starting costs: importing the package, and constructing an agent with 20 functions the second time.

The import is compared with importing httpx, loguru and pydantic and defining one model, in fresh processes that take
turns; the medians count. All of them run from compiled files, as an installed package does. Where rich is installed,
httpx imports it for a command of its own: it is hidden from all of them, so that the floor is the same everywhere.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import timeit

from kimi_agent import Agent, ai_function
from kimi_agent.testing import ScriptedKimi

BOUND = 1.25
"""Times the floor that an import may take."""
CONSTRUCTION = 30.0
"""Microseconds that an agent with 20 functions may take to construct, the first of its class aside."""

FLOOR = "import httpx, loguru, pydantic\nclass One(pydantic.BaseModel):\n    name: str"
IMPORTS = {
    "import kimi_agent": "import kimi_agent",
    "from kimi_agent import Agent, Kimi, ai_function": "from kimi_agent import Agent, Kimi, ai_function",
}
TIMED = """import sys, time
sys.modules["rich"] = None
before = time.perf_counter()
{}
print(time.perf_counter() - before)"""


def seconds(code: str) -> float:
    """How long `code` takes in a fresh interpreter, its start not counted."""
    environment = {**os.environ, "PYDANTIC_DISABLE_PLUGINS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", TIMED.format(code)]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def measure_imports(runs: int) -> dict[str, float]:
    """Print the table; the ratios to the floor."""
    floors: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(runs):
        floors.append(seconds(FLOOR))
        for name, code in IMPORTS.items():
            times[name].append(seconds(code))
    floor = statistics.median(floors)
    print(f"httpx + loguru + pydantic + one model            {floor * 1e3:7.1f} ms   1.00 x")
    ratios = {name: statistics.median(measured) / floor for name, measured in times.items()}
    for name, ratio in ratios.items():
        print(f"{name:48} {statistics.median(times[name]) * 1e3:7.1f} ms   {ratio:.2f} x")
    return ratios


def agent_class() -> type[Agent]:
    """An agent with 20 functions."""

    def function(number: int) -> object:
        @ai_function(name=f"function_{number}")
        async def run(self: Agent, city: str, days: int = 3, unit: str = "c") -> str:
            """Forecast for a city."""
            return city

        return run

    return type("Many", (Agent,), {f"function_{number}": function(number) for number in range(20)})


def microseconds_to_construct() -> float:
    """The best of several runs, the first agent of the class aside."""
    many, provider = agent_class(), ScriptedKimi([])
    first = timeit.timeit(lambda: many(provider, "You are terse."), number=1)
    again = min(timeit.repeat(lambda: many(provider, "You are terse."), number=200, repeat=20)) / 200
    print(f"agent with 20 functions: first {first * 1e3:.1f} ms, then {again * 1e6:.1f} us")
    return again * 1e6


def main() -> None:
    """Print the table; fail where a bound is broken."""
    for code in (FLOOR, *IMPORTS.values()):
        seconds(code)  # compiles what is not compiled yet
    ratios = measure_imports(runs=11)
    construction = microseconds_to_construct()
    for name, ratio in ratios.items():
        assert ratio <= BOUND, f"{name}: {ratio:.2f} times the floor; the bound is {BOUND}"
    assert construction < CONSTRUCTION, f"an agent takes {construction:.1f} us; the bound is {CONSTRUCTION}"


if __name__ == "__main__":
    main()
