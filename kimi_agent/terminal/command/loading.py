"""The agent that a command line describes: who answers, of which class, with which tools.

What is named is a Python object, `module:name`; the working directory is looked through first. Whatever is wrong with
it is a `KimiAgentError` of one line: an agent that does not load is a typing mistake more often than a bug. It is
imported before there is an event loop, so that Ctrl-C ends a slow import at once.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import traceback
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from importlib import import_module
from inspect import isawaitable
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from ...errors import KimiAgentError, MCPServerError
from ..text import on_one_line

if TYPE_CHECKING:
    from ...agent import Agent
    from ...kimi.client import Kimi
    from ...tools.base import ToolLike

AnyTool: TypeAlias = "ToolLike | Callable[..., Any]"

__all__ = [
    "add_agent_options",
    "add_model_options",
    "agent_of",
    "kimi_of",
    "reference",
    "running",
    "tell",
]

EFFORTS: Final = ("off", "low", "high", "max")
"""Of thinking: those that some model of Kimi has in its own words."""
PACKAGE: Final = str(Path(__file__).parents[2])


# ==== arguments ====


def add_model_options(command: ArgumentParser) -> None:
    """Add the options that say who answers."""
    command.add_argument("--offline", action="store_true", help="talk to a stand-in on this machine, without a key")


def add_agent_options(command: ArgumentParser) -> None:
    """Add the options that describe an agent and what it goes on from."""
    command.add_argument("--model", metavar="NAME", help="the model, such as kimi-k3")
    command.add_argument("--system", metavar="TEXT", help="the system prompt")
    command.add_argument("--thinking", choices=EFFORTS, help="how hard the model thinks")
    command.add_argument(
        "--tools",
        type=reference,
        nargs="+",
        action="extend",
        default=[],
        metavar="TOOL",
        help="functions that the model may call, each as module:function",
    )
    command.add_argument("--mcp", type=Path, metavar="FILE", help='MCP servers, as {"mcpServers": {...}} in JSON')
    add_model_options(command)


def running(work: Callable[[Namespace], Coroutine[Any, Any, None]]) -> Callable[[Namespace], None]:
    """What runs an async subcommand."""
    return lambda options: asyncio.run(work(options))


def reference(text: str) -> str:
    """A `module:name`, checked for its form.

    Raises:
        ArgumentTypeError: it is none.
    """
    if re.fullmatch(r"\w+(\.\w+)*:[^\W\d]\w*(\.[^\W\d]\w*)*", text):
        return text
    raise ArgumentTypeError(f"{text!r} is no module:name")


# ==== who answers ====


@asynccontextmanager
async def kimi_of(options: Namespace, **client_options: Any) -> AsyncGenerator[Kimi]:
    """Kimi, or the stand-in behind the same client and the same protocol.

    Args:
        options: `model`, `thinking` and `offline`; each may be missing.
        client_options: of `Kimi`.

    Raises:
        ChatProviderError: there is no key, or the model cannot think like that.
    """
    from ...kimi.client import Kimi

    model, thinking = getattr(options, "model", None), getattr(options, "thinking", None)
    client = partial(Kimi, model, **client_options) if model else partial(Kimi, **client_options)
    async with AsyncExitStack() as stack:
        if options.offline:
            from ...kimi.http import direct_client
            from ...testing import KimiServer

            server = await stack.enter_async_context(KimiServer())
            straight = await stack.enter_async_context(direct_client())
            client = partial(client, api_key=server.api_key, base_url=server.base_url, http_client=straight)
        kimi = client()
        yield await stack.enter_async_context(kimi.with_thinking(thinking) if thinking else kimi)


# ==== the agent ====


def agent_of(options: Namespace) -> AbstractAsyncContextManager[Agent]:
    """The agent that a command line describes, for as long as its tools are open. It has no session yet.

    What is named is imported now; the agent is made, and its servers are reached, when this is entered.

    Args:
        options: those of `add_agent_options`, and `agent`, the name of its class or `None`.

    Raises:
        KimiAgentError: something that is named cannot be had; the text says what.
    """
    make, tools = _maker(options.agent), [tool for name in options.tools for tool in _tools(name)]
    return _opened(options, make, tools, None if options.mcp is None else _mcp_tools(options.mcp))


@asynccontextmanager
async def _opened(
    options: Namespace, make: Callable[[Kimi], Any], tools: Sequence[AnyTool], servers: Any
) -> AsyncGenerator[Agent]:
    async with kimi_of(options) as kimi, AsyncExitStack() as stack:
        agent = await make(kimi)
        _add_tools(agent, tools)
        if servers is not None:
            _add_tools(agent, await _reached(servers, stack))
        if options.system is not None:
            from ..chat.showing import pin_system_prompt

            pin_system_prompt(agent, options.system.strip())
        yield agent


async def _reached(servers: Any, stack: AsyncExitStack) -> Iterable[AnyTool]:
    """The tools of those MCP servers that can be reached. The others are told."""
    try:
        tools = await stack.enter_async_context(servers)
    except MCPServerError as error:  # none of them
        tell(str(error))
        return ()
    for error in tools.errors.values():
        tell(str(error))
    return tools


def _add_tools(agent: Agent, tools: Iterable[AnyTool]) -> None:
    from ...tools.toolset import functions_in, merged

    agent.functions = merged(agent.functions, functions_in(tools))


def _maker(name: str | None) -> Callable[[Kimi], Any]:
    """An async function that gives a new agent."""
    from ...agent import Agent

    if name is None:
        return partial(_made, "Agent", Agent)
    found = _found(name)
    is_maker = issubclass(found, Agent) if isinstance(found, type) else callable(found)
    if not is_maker:
        raise KimiAgentError(f"{name} is neither a subclass of Agent nor a function from a provider to an agent")
    return partial(_made, name, found)


async def _made(name: str, make: Callable[[Kimi], Any], kimi: Kimi) -> Agent:
    from ...agent import Agent

    try:
        made = make(kimi)
        made = await made if isawaitable(made) else made
    except (KimiAgentError, KeyboardInterrupt, asyncio.CancelledError):
        raise
    except BaseException as error:
        raise KimiAgentError(f"{name} makes no agent: {_described(error)}") from error
    if not isinstance(made, Agent):
        raise KimiAgentError(f"{name} gives no Agent, but a {type(made).__name__}")
    return made


# ==== its tools ====


def _tools(name: str) -> list[AnyTool]:
    """What a name stands for: a function, a tool, or several."""
    from ...tools.toolset import SimpleToolset, functions_in

    found = _found(name)
    tools = [*cast(Any, found)] if isinstance(found, list | tuple | SimpleToolset) else [found]
    try:
        return [*functions_in(tools).values()]
    except (KimiAgentError, TypeError) as error:
        raise KimiAgentError(f"{name} is nothing that a model can call: {error}") from error


def _mcp_tools(path: Path) -> Any:
    """The tools of the MCP servers that a file names, to be entered."""
    from ...tools.mcp.servers import mcp_tools

    try:
        return mcp_tools(_read_json(path))
    except ValueError as error:  # it names the server and the key, and no value
        raise KimiAgentError(f"{path}: {error}") from error
    except ModuleNotFoundError as error:
        raise KimiAgentError(str(error)) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise KimiAgentError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise KimiAgentError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise KimiAgentError(f"{path} has no JSON object with MCP servers by name")
    return cast("dict[str, Any]", content)


# ==== objects by name ====


def _found(name: str) -> Any:
    """The Python object of a `module:name`."""
    module, _, path = name.partition(":")
    imported = _imported(module)
    try:
        return attrgetter(path)(imported)
    except AttributeError as error:
        raise KimiAgentError(f"there is no {path} in the module {module}") from error
    except Exception as error:  # of a `__getattr__`, or of a property
        raise KimiAgentError(f"cannot get {name}: {_described(error)}") from error


def _imported(module: str) -> object:
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script does not look where it is called
    try:
        return import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            raise KimiAgentError(f"there is no module {missing}, neither here nor among those installed") from error
        raise KimiAgentError(f"cannot import {module}: {_described(error)}") from error


def _described(error: BaseException) -> str:
    """An error of somebody else's code, and where in that it came from."""
    ours = ("<frozen", PACKAGE)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{'' if isinstance(error, SyntaxError) else place}"


# ==== what is told ====


def tell(text: str) -> None:
    """Say something on stderr, beside the result of the command; nowhere if it is closed."""
    if sys.stderr is not None:  # for print, None is stdout
        print(f"kimi-agent: {on_one_line(text)}", file=sys.stderr, flush=True)
