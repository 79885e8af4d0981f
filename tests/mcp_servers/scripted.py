"""An MCP server on standard input and output that does what a script says, right or wrong, with no library.

The script is JSON in the variable SCRIPT: `tools` are listed as they are, `pages` says how many on a page, `answers`
has the result of each tool by its name, or an action: {"do": "die"}, "hang", "rubbish", "stderr", "error", "raw". Every
message that comes in is appended to the file LOG, after a line with the process id. What is `raw` is written as it is,
with the id of the request for ID; `raw` of the script has such lines by methods.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

SCRIPT: dict[str, Any] = json.loads(os.environ.get("SCRIPT", "{}"))


def log(line: str) -> None:
    if path := os.environ.get("LOG"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def write(message: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def write_raw(line: str, request: Any) -> None:
    sys.stdout.buffer.write(line.replace("ID", json.dumps(request)).encode("latin-1") + b"\n")
    sys.stdout.flush()


def page(cursor: str | None) -> dict[str, Any]:
    tools = SCRIPT.get("tools") or [{"name": name, "inputSchema": {"type": "object"}} for name in SCRIPT["answers"]]
    size = SCRIPT.get("pages", len(tools))
    start = int(cursor or 0)
    more = {"nextCursor": str(start + size)} if start + size < len(tools) or SCRIPT.get("endless") else {}
    return {"tools": tools[start : start + size], **more, **SCRIPT.get("beside", {})}


def call(params: Mapping[str, Any], request: Any) -> None:
    answer = SCRIPT["answers"][params["name"]]
    if not isinstance(answer, dict) or "do" not in answer:
        write({"id": request, "result": {**SCRIPT.get("beside", {}), **answer}})
        return
    match answer["do"]:
        case "die":
            os._exit(3)
        case "hang":
            return
        case "stop":
            time.sleep(60)
        case "close":
            os.close(1)
            return
        case "raw":
            write_raw(answer["line"], request)
            return
        case "child":
            ready, begun = os.pipe()
            at_term = f"signal.signal(signal.SIGTERM, signal.{answer['at term']})"
            code = f"import os, signal, time; {at_term}; os.close({begun}); time.sleep(60)"
            import subprocess  # most servers start none, and are started faster without

            child = subprocess.Popen(
                [sys.executable, "-c", code], stdout=None if answer.get("inherits") else 2, pass_fds=[begun]
            )
            os.close(begun)
            os.read(ready, 1)
            os.close(ready)
            write({"id": request, "result": {"content": [{"type": "text", "text": str(child.pid)}]}})
            return
        case "progress":
            token = params["_meta"]["progressToken"]
            for step in (1, 2):
                progress = {"progressToken": token, "progress": step, "total": 4, "message": f"step {step}"}
                write({"method": "notifications/progress", "params": progress})
        case "change":
            SCRIPT["tools"] = answer["tools"]
            write({"method": "notifications/tools/list_changed"})
        case "where":
            said = json.dumps({"folder": os.getcwd(), "environment": dict(os.environ)})
            write({"id": request, "result": {"content": [{"type": "text", "text": said}]}})
            return
        case "long":
            write({"id": request, "result": {"content": [{"type": "text", "text": "x" * answer["length"]}]}})
            return
        case "rubbish":
            sys.stdout.buffer.write(b"Loading...\n\xff\xfe\x00\n{}\n[1]\n" * 20 + b"\n\n")
            sys.stdout.flush()
        case "stderr":
            sys.stderr.write(("x" * 99 + "\n") * 3_000 + f"token {os.environ.get('TOKEN')}\n")
            sys.stderr.flush()
        case "error":
            write({"id": request, "error": {"code": -32603, "message": answer["message"]}})
            return
        case _:
            raise AssertionError(answer)
    write({"id": request, "result": {"content": [{"type": "text", "text": answer["do"]}]}})


def main() -> None:
    log(f"pid {os.getpid()}")
    if SCRIPT.get("last words"):
        sys.exit(SCRIPT["last words"])
    for line in sys.stdin:
        log(line.rstrip("\n"))
        message = json.loads(line)
        match message.get("method"):
            case str(method) if method in SCRIPT.get("raw", {}):
                write_raw(SCRIPT["raw"][method], message["id"])
            case "initialize" if "discover" in SCRIPT:
                write({"id": message["id"], "error": {"code": -32601, "message": "unknown method"}})
            case "server/discover" if "discover" in SCRIPT:
                write({"id": message["id"], "result": SCRIPT["discover"]})
            case "initialize" if not SCRIPT.get("mute"):
                info = {"name": "scripted", "version": "1"}
                result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
                write({"id": message["id"], "result": result})
            case "tools/list":
                write({"id": message["id"], "result": page((message.get("params") or {}).get("cursor"))})
            case "tools/call":
                call(message["params"], message["id"])
            case _:
                pass
    if SCRIPT.get("stubborn"):
        while True:
            pass


main()
