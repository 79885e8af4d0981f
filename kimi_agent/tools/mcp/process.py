"""A server that is a process of ours: it leads a group, is spoken to in lines, and ends with all of its group.

Like `sdk`, this is imported late.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TextIO, cast

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream, Process
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCMessage, jsonrpc_message_adapter

from .configs import StdioServer
from .messages import Lines, TooLong, mended

__all__ = ["open_process"]

END_SECONDS: Final = 2.0
"""That a process gets to end when its standard input is closed, and once more when it is asked to."""
_LAST_CALLS: Final = 0.5
"""Seconds for what is to be written still."""
_LAST_WORDS: Final = 0.2
"""Seconds to read what a process said before it ended."""
_POLL: Final = 0.01
_GONE: Final = (anyio.ClosedResourceError, anyio.BrokenResourceError, OSError)


@asynccontextmanager
async def open_process(config: StdioServer, errlog: TextIO) -> AsyncGenerator[tuple[Any, Any]]:
    """The streams of messages from and to a new process. It ends with all of its group when they are left.

    Args:
        config: of the server.
        errlog: for its standard error; closed here once the process has it.

    Raises:
        OSError: it cannot be started.
        ValueError: so.
    """
    process = await _started(config, errlog)
    try:
        errlog.close()
        heard, messages = anyio.create_memory_object_stream[SessionMessage](0)
        said, saying = anyio.create_memory_object_stream[SessionMessage](0)
        written = anyio.Event()

        async def write() -> None:
            await _write(process, saying)
            written.set()
            heard.close()  # a process that does not listen will not answer

        async def watch() -> None:
            await process.wait()
            await anyio.sleep(_LAST_WORDS)
            heard.close()  # though a child of it may hold its output open

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_read, process, heard)
            tasks.start_soon(write)
            tasks.start_soon(watch)
            try:
                yield messages, said
            finally:
                with anyio.CancelScope(shield=True):
                    messages.close()
                    said.close()
                    with anyio.move_on_after(_LAST_CALLS):
                        await written.wait()
                    await _end(process)
                tasks.cancel_scope.cancel()
    finally:
        _release(process)


async def _started(config: StdioServer, errlog: TextIO) -> Process:
    command, args = config.command, list(config.args)
    environment = get_default_environment() | dict(config.env)
    if sys.platform == "win32":
        from mcp.os.win32.utilities import create_windows_process, get_windows_executable_command

        program = get_windows_executable_command(command)
        return cast(Process, await create_windows_process(program, args, environment, errlog, config.cwd))
    return await anyio.open_process(
        [command, *args], env=environment, stderr=errlog, cwd=config.cwd, start_new_session=True
    )


# ==== messages ====


async def _read(process: Process, heard: ObjectSendStream[SessionMessage]) -> None:
    """Pass on what the process says, for as long as somebody listens; then only take it, so that it can end."""
    assert process.stdout is not None
    lines = Lines()
    with suppress(*_GONE):
        async with heard:
            async for chunk in process.stdout:
                for line in lines.feed(chunk):
                    if (message := _message(line)) is not None:
                        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                            await heard.send(SessionMessage(message))


def _message(line: bytes | TooLong) -> JSONRPCMessage | None:
    """The message in a line, if it is one."""
    if not isinstance(line, TooLong):
        with suppress(ValueError):
            return jsonrpc_message_adapter.validate_json(line, by_name=False)
    message = mended(line)
    with suppress(ValueError):
        return None if message is None else jsonrpc_message_adapter.validate_python(message, by_name=False)
    return None


async def _write(process: Process, saying: ObjectReceiveStream[SessionMessage]) -> None:
    assert process.stdin is not None
    with suppress(*_GONE):
        async with saying:
            async for said in saying:
                await process.stdin.send(
                    said.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
                )


# ==== the end ====


async def _end(process: Process) -> None:
    """Let the process end, ask it to, make it; and all of its group. It takes three times `END_SECONDS` at most."""
    assert process.stdin is not None
    with suppress(*_GONE):
        await process.stdin.aclose()
    await _until(lambda: process.returncode is not None)
    if sys.platform == "win32":
        from mcp.os.win32.utilities import terminate_windows_process_tree

        if process.returncode is None:
            await terminate_windows_process_tree(process)
    elif _signalled(process, signal.SIGTERM):
        await _until(lambda: not _signalled(process, 0))
        _signalled(process, signal.SIGKILL)
    await _until(lambda: process.returncode is not None)


async def _until(condition: Callable[[], bool]) -> None:
    with anyio.move_on_after(END_SECONDS):
        while not condition():  # noqa: ASYNC110  nothing tells when a group is gone
            await anyio.sleep(_POLL)


def _signalled(process: Process, number: int) -> bool:
    """Whether there was somebody in the group of a process to get a signal."""
    try:
        os.killpg(process.pid, number)  # it leads its group; that may be there when it is not any more
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of those that have ended
        pass
    return True


def _release(process: Process) -> None:
    """Leave nothing behind, even if ending it was cancelled. A process outside of the group may hold a pipe open."""
    if sys.platform == "win32":
        with suppress(OSError):
            process.kill()
    else:
        _signalled(process, signal.SIGKILL)
    transport: Any = getattr(getattr(process, "_process", None), "_transport", None)  # nothing public closes it
    if transport is not None:
        with suppress(PermissionError):
            transport.close()
