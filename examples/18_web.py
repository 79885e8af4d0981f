"""A web service with an agent for each connection: a question is posted, the round comes as server-sent events.

With `pip install starlette httpx2` and KIMI_API_KEY set: `python examples/18_web.py`; it asks itself one question.
Without a key: `python examples/offline.py examples/18_web.py`. To keep it: `uvicorn --app-dir examples 18_web:app`
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from kimi_agent import Agent, Kimi, KimiAgentError, Round, StreamFrame, to_dict


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    async with Kimi() as app.state.kimi:  # all agents share its connections
        yield


async def close_when_left(request: Request, frames: Round[StreamFrame]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    await frames.aclose()


async def events(request: Request, question: str) -> AsyncGenerator[str]:
    try:
        async with Agent(request.app.state.kimi, "You are terse.").full_round_frames(question) as frames:
            leaving = asyncio.create_task(close_when_left(request, frames))
            async for frame in frames:
                yield f"data: {json.dumps(to_dict(frame))}\n\n"
            leaving.cancel()
    except KimiAgentError as error:  # its text is for the log
        logging.exception("a round failed")
        yield f"data: {json.dumps({'type': 'Error', 'kind': type(error).__name__})}\n\n"


async def chat(request: Request) -> StreamingResponse:
    question = (await request.body()).decode(errors="replace")  # text, whatever a client sends
    return StreamingResponse(events(request, question), media_type="text/event-stream")


app = Starlette(routes=[Route("/chat", chat, methods=["POST"])], lifespan=lifespan, max_body_size=100_000)

if __name__ == "__main__":
    with TestClient(app) as client:
        print(client.post("/chat", content="What is an agent?").text)
