"""What the platform answers beside chat: its models, the balance, the count of tokens. JSON in, values out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, nan
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import from_json

from ..errors import ChatProviderError, StreamProtocolError
from .status import error_in

if TYPE_CHECKING:
    from .http import HttpTransport

__all__ = ["Balance", "answered", "asked", "balance", "estimate_tokens", "models", "number_in", "object_in"]


@dataclass(frozen=True, slots=True)
class Balance:
    """Money, in the currency of the platform: USD at api.moonshot.ai, CNY at api.moonshot.cn.

    Args:
        available: what may be spent. At zero and below, requests are refused.
        voucher: the part of it that was a gift.
        cash: the part of it that was paid in; may be negative.
    """

    available: float
    voucher: float
    cash: float


async def models(http: HttpTransport) -> dict[str, Mapping[str, Any]]:
    """The entries of the model list, by name."""
    entries: Any = (await asked(http, "GET", "/models")).get("data")
    if not isinstance(entries, list):
        raise StreamProtocolError("the answer of /models has no list of models")
    found = [cast("dict[str, Any]", entry) for entry in cast("list[Any]", entries) if isinstance(entry, dict)]
    return {entry["id"]: entry for entry in found if isinstance(entry.get("id"), str)}


async def balance(http: HttpTransport) -> Balance:
    """The money that is left."""
    path = "/users/me/balance"
    answer = await asked(http, "GET", path)
    if answer.get("status") is False:
        raise ChatProviderError(f"{path} failed: {answer.get('message') or answer.get('scode') or 'no reason given'}")
    data = object_in(answer, "data", path)
    return Balance(*(number_in(data, f"{part}_balance", path) for part in ("available", "voucher", "cash")))


async def estimate_tokens(http: HttpTransport, body: bytes) -> int:
    """The tokens of a prompt, counted by the server."""
    path = "/tokenizers/estimate-token-count"
    data = object_in(await asked(http, "POST", path, body=body), "data", path)
    return int(number_in(data, "total_tokens", path))


# ==== reading answers ====


async def asked(http: HttpTransport, method: str, path: str, **options: Any) -> Mapping[str, Any]:
    """The JSON object that the platform answers with. `options` are those of `HttpTransport.fetch`.

    Raises:
        StreamProtocolError: it is none.
        APIStatusError: it tells of an error, with or without the status of one.
        ChatProviderError: there is no answer.
    """
    answer = await answered(http, method, path, **options)
    if error := error_in(answer):
        raise error
    return answer


async def answered(http: HttpTransport, method: str, path: str, **options: Any) -> Mapping[str, Any]:
    """The same, where an `error` among the fields is no error of the request."""
    body = http.without_key(await http.fetch(method, path, **options))
    try:
        value = from_json(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        said = repr(body[:100].decode(errors="replace"))
        raise StreamProtocolError(f"the answer of {path} is no JSON object: {said}. Check the base URL.")
    return cast("dict[str, Any]", value)


def object_in(fields: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    """The object that stands under a name."""
    value = fields.get(name)
    if not isinstance(value, dict):
        raise StreamProtocolError(f"the answer of {path} has no {name}")
    return cast("dict[str, Any]", value)


def number_in(fields: Mapping[str, Any], name: str, path: str) -> float:
    """The number that stands under a name. A string of digits is one: money is sent like that, too."""
    try:
        number = float(fields[name])
    except (KeyError, TypeError, ValueError, OverflowError):
        number = nan
    if not isfinite(number):
        raise StreamProtocolError(f"the answer of {path} has no number {name}")
    return number
