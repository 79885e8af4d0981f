"""What `kimi-agent models`, `balance` and `doctor` tell. No key is in it, nor a part of one."""

from __future__ import annotations

import os
import platform
import sys
import time
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ... import __version__
from ...errors import ChatProviderError, KimiAgentError, NotFoundError, PermissionDeniedError, RanksError, SessionError
from ..columns import aligned
from ..screen.telling import is_watched
from ..text import on_one_line
from .loading import add_model_options, kimi_of, running

if TYPE_CHECKING:
    from ...kimi.client import Kimi
    from ...kimi.models import ModelInfo

__all__ = ["add_balance", "add_doctor", "add_models"]

CURRENCIES: Final = {"api.moonshot.ai": "USD", "api.moonshot.cn": "CNY"}
"""Of the balance, by the host."""
PATIENCE: Final[Mapping[str, Any]] = {"timeout": 15.0, "max_retries": 0}
"""With the server: somebody waits for the report."""
PRICES: Final = "Prices: USD for a million tokens that are new, cached, written by the model."


# ==== models ====


def add_models(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add the subcommand to those of `kimi-agent`."""
    text = "which models the server has"
    command = commands.add_parser("models", help=text, description=f"See {text}. {PRICES}")
    add_model_options(command)
    command.set_defaults(run=running(_models))


async def _models(options: Namespace) -> None:
    async with kimi_of(options, **PATIENCE) as kimi:
        found = await kimi.models()
    for line in aligned([("MODEL", "WINDOW", "THINKING", "SEES", "PRICES"), *map(_row, found)]):
        print(line)
    if is_watched(sys.stdout):
        print(PRICES)


def _row(info: ModelInfo) -> tuple[str, ...]:
    prices = info.prices and (info.prices.input, info.prices.cached_input, info.prices.output)
    sees = [name for name, is_seen in (("pictures", info.images), ("films", info.videos)) if is_seen]
    return (
        on_one_line(info.name),
        "-" if _is_assumed(info) else f"{info.context_window:,}",
        _thinking(info),
        " ".join(sees) or "-",
        " ".join(f"{price:g}" for price in prices) if prices else "-",
    )


def _is_assumed(info: ModelInfo) -> bool:
    """Whether nobody knows the window: its name says nothing, and the server said nothing else."""
    from ...kimi.models import UNKNOWN, model_info

    return replace(model_info(info.name), name="") == UNKNOWN and info.context_window == UNKNOWN.context_window


def _thinking(info: ModelInfo) -> str:
    return " ".join(info.efforts) or THINKING[info.thinking]


THINKING: Final = {"unknown": "-", "never": "off", "always": "on", "switch": "on off"}
"""Of models without levels."""


# ==== balance ====


def add_balance(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add the subcommand to those of `kimi-agent`."""
    command = commands.add_parser("balance", help="the money that is left")
    add_model_options(command)
    command.set_defaults(run=running(_balance))


async def _balance(options: Namespace) -> None:
    async with kimi_of(options, **PATIENCE) as kimi:
        left = await kimi.balance()
    for name, amount in (("available", left.available), ("voucher", left.voucher), ("cash", left.cash)):
        print(f"{name:<9}  {_money(amount, kimi)}")


def _money(amount: float, kimi: Kimi) -> str:
    return f"{amount:,.2f} {CURRENCIES.get(urlsplit(kimi.base_url).hostname or '', '')}".rstrip()


# ==== doctor ====

OK: Final = "ok"
NOTE: Final = "note"
"""It works without, or differently."""
WRONG: Final = "WRONG"

PACKAGES: Final = ("httpx", "pydantic", "tiktoken")
EXTRAS: Final = {"cli": ("rich", "prompt-toolkit", "markdown-it-py"), "mcp": ("mcp",), "otel": ("opentelemetry-api",)}
PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables that change how the server is reached."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor.

    Args:
        state: `OK`, `NOTE` or `WRONG`.
        name: of what was looked at.
        text: what was found.
    """

    state: str
    name: str
    text: str


def add_doctor(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add the subcommand to those of `kimi-agent`."""
    text = "Look at what is configured, what answers, and which versions there are. No secret is printed."
    command = commands.add_parser("doctor", help="what is configured, what answers, versions", description=text)
    add_model_options(command)
    command.set_defaults(run=running(_doctor))


async def _doctor(options: Namespace) -> None:
    wrong: list[str] = []
    async for found in _findings(options):
        print(f"{found.state:<5}  {found.name:<12}  {on_one_line(found.text)}", flush=True)
        wrong += [found.name] if found.state == WRONG else []
    if wrong:
        raise KimiAgentError(f"something is wrong: {', '.join(wrong)}")


async def _findings(options: Namespace) -> AsyncGenerator[Finding]:
    configured = [*_versions(), *_key(options), *_way(options)]
    for found in configured:
        yield found
    if not any(found.state == WRONG for found in configured):  # else there is nobody to ask
        async for found in _server(options):
            yield found
    yield _ranks()
    yield await _sessions()
    yield _terminal()


def _versions() -> Iterable[Finding]:
    yield Finding(OK, "kimi_agent", f"{__version__}, Python {platform.python_version()}, {platform.system()}")
    yield Finding(OK, "packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    for extra, names in EXTRAS.items():
        found = {name: _version(name) for name in names}
        if all(found.values()):
            yield Finding(OK, f"extra {extra}", ", ".join(f"{name} {found[name]}" for name in names))
        else:
            yield Finding(NOTE, f"extra {extra}", f"not installed: pip install 'kimi_agent[{extra}]'")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _key(options: Namespace) -> Iterable[Finding]:
    from ...kimi.client import KEY_NAMES

    named = _set(KEY_NAMES)
    if options.offline:
        yield Finding(OK, "key", "not needed offline")
    elif not named:
        yield Finding(WRONG, "key", f"there is none: set {KEY_NAMES[0]}")
    else:
        yield Finding(OK, "key", f"from {named[0]}{_unused(named)}")


def _way(options: Namespace) -> Iterable[Finding]:
    if not options.offline:
        yield _address()
    if proxies := _set([*PROXIES, *map(str.lower, PROXIES)]):
        yield Finding(NOTE, "way", f"{', '.join(proxies)} set")


def _address() -> Finding:
    from ...kimi.client import BASE_URL, BASE_URL_NAMES, _check_url
    from ...kimi.status import without_login

    named = _set(BASE_URL_NAMES)
    url, source = (os.environ[named[0]].strip(), f"from {named[0]}") if named else (BASE_URL, "the default")
    try:
        _check_url(url)
    except ChatProviderError as error:
        return Finding(WRONG, "server", f"{error}; it is {source}")
    return Finding(OK, "server", f"{without_login(url)}, {source}{_unused(named)}")


def _set(names: Iterable[str]) -> list[str]:
    """The environment variables of these that say something."""
    return [name for name in names if os.environ.get(name, "").strip()]


def _unused(named: Sequence[str]) -> str:
    return f"; {', '.join(named[1:])} not used" if len(named) > 1 else ""


async def _server(options: Namespace) -> AsyncGenerator[Finding]:
    """What the server says, asked once."""
    async with AsyncExitStack() as stack:
        began = time.monotonic()
        try:
            kimi = await stack.enter_async_context(kimi_of(options, **PATIENCE))
            names = [info.name for info in await kimi.models()]
        except ChatProviderError as error:
            yield Finding(WRONG, "models", str(error))
            return
        took = f"answered in {time.monotonic() - began:.1f} s"
        if kimi.model_name in names:
            yield Finding(OK, "models", f"{len(names)}, {kimi.model_name} among them; {took}")
        else:
            yield Finding(NOTE, "models", f"{len(names)}, without {kimi.model_name}: choose with --model; {took}")
        yield await _money_left(kimi)


async def _money_left(kimi: Kimi) -> Finding:
    try:
        left = (await kimi.balance()).available
    except (NotFoundError, PermissionDeniedError):
        return Finding(NOTE, "balance", "this server tells none")
    except ChatProviderError as error:
        return Finding(WRONG, "balance", str(error))
    return Finding(OK if left > 0 else WRONG, "balance", _money(left, kimi))


def _ranks() -> Finding:
    from ...prompt.ranks import load, ranks_path

    place = ranks_path()
    if not place.exists():
        return Finding(NOTE, "rank file", "none, tokens are estimated; kimi-agent tokenizer download fetches it")
    try:
        load()
    except RanksError as error:
        return Finding(WRONG, "rank file", str(error))
    return Finding(OK, "rank file", str(place))


async def _sessions() -> Finding:
    from ...session.sqlite import SQLiteSessionStore
    from ..disk import store_path

    place = store_path()
    if not place.exists():
        return Finding(NOTE, "sessions", f"none yet; they will be in {place}")
    try:
        async with SQLiteSessionStore(place) as store:
            newest = await store.list(1)
    except SessionError as error:
        return Finding(WRONG, "sessions", str(error))
    return Finding(OK, "sessions", f"{place}{f', the newest is {newest[0].id}' if newest else ''}")


def _terminal() -> Finding:
    """Whether a chat would be more than plain text here, and why not."""
    from ..screen.front import why_plain

    plain = list(why_plain())
    return Finding(NOTE, "chat", f"plain: {', '.join(plain)}") if plain else Finding(OK, "chat", "on a whole terminal")
