"""Kimi's endpoints beside chat: a request and the state of an account in, an answer out. No I/O.

The state is an `Account`: models, balance, files and hosted tools. Tests may read it and set it at any time.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP
from itertools import count
from typing import Any, Final, TypeAlias

from .chunks import CREATED, prompt_tokens
from .connection import HTTPRequest
from .script import Body, Failure, RawBody

__all__ = ["FORMULAS", "NO_JSON", "Account", "Formula", "StoredFile", "answer"]

Outcome: TypeAlias = Body | RawBody | Failure
"""What an endpoint answers: JSON, other bytes, or an error."""

MODELS: Final[tuple[Body, ...]] = (
    {
        "id": "kimi-k3",
        "object": "model",
        "created": CREATED,
        "owned_by": "moonshot",
        "display_name": "Kimi K3",
        "protocol": "openai",
        "context_length": 1_048_576,
        "supports_image_in": True,
        "supports_video_in": True,
        "supports_reasoning": True,
        "supports_tool_use": True,
        "supports_thinking_type": "only",
        "think_efforts": {"support": True, "valid_efforts": ["low", "high", "max"], "default_effort": "max"},
    },
    {
        "id": "kimi-k2.6",
        "object": "model",
        "created": CREATED,
        "owned_by": "moonshot",
        "display_name": "Kimi K2.6",
        "protocol": "openai",
        "context_length": 262_144,
        "supports_image_in": True,
        "supports_video_in": True,
        "supports_reasoning": True,
        "supports_tool_use": True,
        "supports_thinking_type": "both",
        "think_efforts": {"support": False},
    },
)
"""With every key that any of Kimi's hosts sends."""

BALANCE: Final = {"available_balance": 49.5, "voucher_balance": 46.5, "cash_balance": 3.0}
EXTRACT: Final = "file-extract"
"""The purpose of files whose text Kimi gives back."""
PURPOSES: Final = (EXTRACT, "image", "video", "batch")
NO_JSON: Final = Failure(400, "invalid_request_error", "Invalid request: the body must be a JSON object")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An uploaded file.

    Args:
        purpose: `file-extract`, `image`, `video` or `batch`.
        filename: as it was uploaded.
        content_type: as it was uploaded.
        content: its bytes. Of a file for `file-extract` they are also the extracted text.
        status: `ok` or `ready`.
    """

    purpose: str
    filename: str
    content_type: str
    content: bytes
    status: str = "ok"


@dataclass(frozen=True, slots=True)
class Formula:
    """Tools that Kimi hosts.

    Args:
        tools: as `tools` of a chat request has them.
        run: gets the name of a tool and the arguments as the model wrote them; what it raises, Kimi reports as failed.
        encrypted: the output is not for the client to read, as with web search.
    """

    tools: Sequence[Body]
    run: Callable[[str, str], str]
    encrypted: bool = False


def _hosted(name: str, description: str, **texts: str) -> Body:
    """A tool whose arguments are texts, each with its description."""
    properties = {key: {"type": "string", "description": told} for key, told in texts.items()}
    parameters = {"type": "object", "properties": properties, "required": list(texts)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _sealed(name: str, arguments: str) -> str:
    """What only Kimi can read: the double has nothing to hide, but it looks like that."""
    return f"----MOONSHOT ENCRYPTED BEGIN----{b64encode(arguments.encode()).decode()}----MOONSHOT ENCRYPTED END----"


def _page(name: str, arguments: str) -> str:
    return f"# An offline page\n\nIt stands for {json.loads(arguments)['url']}."


def _base64(name: str, arguments: str) -> str:
    return b64encode(json.loads(arguments)["text"].encode()).decode()


FORMULAS: Final[Mapping[str, Formula]] = {
    "moonshot/web-search:latest": Formula(
        [_hosted("web_search", "Search the web.", query="What to look for")], _sealed, encrypted=True
    ),
    "moonshot/fetch:latest": Formula([_hosted("fetch", "Read a web page as Markdown.", url="Of the page")], _page),
    "moonshot/base64:latest": Formula([_hosted("base64", "A text in base64.", text="To encode")], _base64),
}
"""Stand-ins for tools that Kimi hosts: they reach nothing, and answer the same with the same."""


class Account:
    """What a key gives access to."""

    def __init__(self) -> None:
        self.models: list[Body] = deepcopy(list(MODELS))
        """What `GET /models` lists."""
        self.balance: Body = dict(BALANCE)
        """The `data` of `GET /users/me/balance`."""
        self.files: dict[str, StoredFile] = {}
        """The uploaded files by id."""
        self.formulas: Mapping[str, Formula] = dict(FORMULAS)
        """The hosted tools by URI, such as `moonshot/date:latest`; stand-ins for three of Kimi's at first."""
        self._fiber_numbers = count(1)

    def store(self, file: StoredFile) -> str:
        """Keep a file. Returns its id, which no other file has."""
        ids = (f"file-{number}" for number in count(1))
        file_id = next(each for each in ids if each not in self.files)
        self.files[file_id] = file
        return file_id

    def next_fiber(self) -> str:
        """The id of the next run of a hosted tool."""
        return f"fiber-{next(self._fiber_numbers)}"


def answer(account: Account, request: HTTPRequest, path: str) -> Outcome:
    """The answer to any request but chat.

    Args:
        account: read and changed.
        request: as it came.
        path: of the request, decoded, after the base URL.
    """
    for method, pattern, endpoint in _ROUTES:
        if request.method == method and (found := re.fullmatch(pattern, path)):
            return endpoint(account, request, *found.groups())
    return _not_found(f"there is no {request.method} {path} here")


def _not_found(message: str) -> Failure:
    return Failure(404, "resource_not_found_error", message)


def _bad(message: str) -> Failure:
    return Failure(400, "invalid_request_error", f"Invalid request: {message}")


def _listed(data: Sequence[Body]) -> Body:
    return {"object": "list", "data": data}


# ==== the account ====


def _models(account: Account, request: HTTPRequest) -> Outcome:
    return _listed(account.models)


def _balance(account: Account, request: HTTPRequest) -> Outcome:
    return {"code": 0, "data": account.balance, "scode": "0x0", "status": True}


def _count_tokens(account: Account, request: HTTPRequest) -> Outcome:
    """Of the messages alone: Kimi counts no tools here."""
    body = request.json
    if body is None:
        return NO_JSON
    if not isinstance(body.get("model"), str) or not isinstance(body.get("messages"), list):
        return _bad("model and messages are required")
    return {"data": {"total_tokens": prompt_tokens({field: body[field] for field in ("model", "messages")})}}


# ==== files ====


def _upload(account: Account, request: HTTPRequest) -> Outcome:
    form = _form(request)
    if "file" not in form:
        return _bad("file is required")
    purpose = form["purpose"].content.decode(errors="replace") if "purpose" in form else None
    if purpose not in PURPOSES:
        return _bad(f"purpose must be one of {', '.join(PURPOSES)}")
    sent = form["file"]
    file = StoredFile(purpose, sent.filename, sent.content_type, sent.content)
    return _file_json(account.store(file), file)


def _files(account: Account, request: HTTPRequest) -> Outcome:
    return _listed([_file_json(file_id, file) for file_id, file in account.files.items()])


def _file(account: Account, request: HTTPRequest, file_id: str) -> Outcome:
    file = account.files.get(file_id)
    return _no_file(file_id) if file is None else _file_json(file_id, file)


def _delete(account: Account, request: HTTPRequest, file_id: str) -> Outcome:
    if account.files.pop(file_id, None) is None:
        return _no_file(file_id)
    return {"deleted": True, "id": file_id, "object": "file"}


def _content(account: Account, request: HTTPRequest, file_id: str) -> Outcome:
    file = account.files.get(file_id)
    if file is None:
        return _no_file(file_id)
    if file.purpose != EXTRACT:
        return _bad(f"file {file_id} was uploaded for {file.purpose} and has no extracted text")
    return RawBody(file.content, "text/plain; charset=utf-8")


def _no_file(file_id: str) -> Failure:
    return _not_found(f"file {file_id} not found")


def _file_json(file_id: str, file: StoredFile) -> Body:
    return {
        "id": file_id,
        "object": "file",
        "bytes": len(file.content),
        "created_at": CREATED,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": file.status,
        "status_details": "",
    }


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a form."""

    name: str
    filename: str
    content_type: str
    content: bytes


def _form(request: HTTPRequest) -> dict[str, _Field]:
    """The fields of a `multipart/form-data` body by name; none when it is something else."""
    boundary = _headers(b"Content-Type: " + request.headers.get("content-type", "").encode("latin-1")).get_boundary()
    if boundary is None:
        return {}
    parts = (b"\r\n" + request.body).split(b"\r\n--" + boundary.encode())
    fields = [_field(part) for part in parts[1:-1]]
    return {field.name: field for field in fields}


def _field(part: bytes) -> _Field:
    """Only the head is given to `email`: it would read a file that is a message as one."""
    head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    headers = _headers(head)
    name: Any = headers.get_param("name", "", header="content-disposition")
    return _Field(str(name), headers.get_filename(""), headers.get_content_type(), content)


def _headers(head: bytes) -> Any:
    return BytesParser(policy=HTTP).parsebytes(head, headersonly=True)


# ==== hosted tools ====


def _tools(account: Account, request: HTTPRequest, uri: str) -> Outcome:
    formula = account.formulas.get(uri)
    return _no_formula(uri) if formula is None else {"object": "list", "tools": list(formula.tools)}


def _fiber(account: Account, request: HTTPRequest, uri: str) -> Outcome:
    formula, body = account.formulas.get(uri), request.json
    if formula is None:
        return _no_formula(uri)
    if body is None:
        return NO_JSON
    name, arguments = body.get("name"), body.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, str):
        return _bad("name and arguments must be strings")
    return {"id": account.next_fiber(), "object": "fiber", **_ran(formula, name, arguments)}


def _ran(formula: Formula, name: str, arguments: str) -> Body:
    try:
        output = formula.run(name, arguments)
    except Exception as error:
        return {"status": "failed", "error": str(error)}
    kind = "encrypted_output" if formula.encrypted else "output"
    return {"status": "succeeded", "context": {"input": arguments, kind: output}}


def _no_formula(uri: str) -> Failure:
    return _not_found(f"formula {uri} not found")


_ROUTES: Final[tuple[tuple[str, str, Callable[..., Outcome]], ...]] = (
    ("GET", "/models", _models),
    ("GET", "/users/me/balance", _balance),
    ("POST", "/tokenizers/estimate-token-count", _count_tokens),
    ("POST", "/files", _upload),
    ("GET", "/files", _files),
    ("GET", "/files/([^/]+)", _file),
    ("DELETE", "/files/([^/]+)", _delete),
    ("GET", "/files/([^/]+)/content", _content),
    ("GET", "/formulas/(.+)/tools", _tools),
    ("POST", "/formulas/(.+)/fibers", _fiber),
)
"""Method, path after the base URL, and who answers; the groups of the path are arguments."""
