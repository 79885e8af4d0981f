"""A web service with an agent for each connection: a question is posted, the round comes as server-sent events.

Needs `pip install starlette uvicorn`. It asks itself one question and ends; to keep it: `uvicorn 18_web:app`.
With KIMI_API_KEY set: `python examples/18_web.py`
Without a key:         `python examples/offline.py examples/18_web.py`
"""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from kimi_agent import Agent, Kimi, to_dict


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    async with Kimi() as app.state.kimi:  # all agents share its connections
        yield


async def chat(request: Request) -> StreamingResponse:
    agent = Agent(request.app.state.kimi, "You are terse.")

    async def events(question: str) -> AsyncIterator[str]:
        async with agent.full_round_frames(question) as frames:  # ends when the client goes away
            async for frame in frames:
                yield f"data: {json.dumps(to_dict(frame))}\n\n"

    return StreamingResponse(events((await request.json())["question"]), media_type="text/event-stream")


app = Starlette(routes=[Route("/chat", chat, methods=["POST"])], lifespan=lifespan)


async def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        async with httpx.AsyncClient(base_url="http://{}:{}".format(*listening.getsockname())) as client:
            print((await client.post("/chat", json={"question": "What is an agent?"})).text)
        server.should_exit = True
        await serving


if __name__ == "__main__":
    asyncio.run(main())
