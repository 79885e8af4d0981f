"""The embedded Kimi on the wire: what it sends, to the byte, and what it refuses, to the word."""

import asyncio
import gc
import gzip
import json
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_agent.message import TokenUsage
from kimi_agent.testing import (
    Account,
    Call,
    Delivery,
    Failure,
    Fault,
    Formula,
    Gate,
    HangUp,
    KimiServer,
    RawBody,
    Recorded,
    Reply,
    StoredFile,
    call,
    check_request,
    say,
)
from kimi_agent.testing.connection import HTTPRequest
from kimi_agent.testing.endpoints import answer

Body = dict[str, Any]

QUESTION = {"role": "user", "content": "Which is warmer?"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def chat(*messages: Body, **fields: Any) -> Body:
    return {"model": "kimi-k3", "messages": list(messages) or [QUESTION], **fields}


def streamed(*messages: Body, **fields: Any) -> Body:
    return chat(*messages, stream=True, stream_options={"include_usage": True}, **fields)


def asking(*call_ids: str) -> Body:
    function = {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
    return {
        "role": "assistant",
        "content": "",
        "reasoning_content": "",
        "tool_calls": [{"id": call_id, "type": "function", "function": function} for call_id in call_ids],
    }


def result(call_id: str) -> Body:
    return {"role": "tool", "tool_call_id": call_id, "content": "4"}


@asynccontextmanager
async def client_of(server: KimiServer) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    async with httpx.AsyncClient(base_url=server.base_url, headers=headers, trust_env=False, verify=False) as client:
        yield client


async def post(server: KimiServer, body: Any) -> httpx.Response:
    async with client_of(server) as client:
        return await client.post("/chat/completions", json=body)


async def pieces_of(server: KimiServer, body: Any) -> list[bytes]:
    async with client_of(server) as client, client.stream("POST", "/chat/completions", json=body) as response:
        return [piece async for piece in response.aiter_raw()]


def chunks_of(body: bytes) -> list[Body]:
    events = body.decode().split("\n\n")
    assert events.pop() == ""
    assert events.pop() == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def deltas_of(body: bytes) -> list[Body]:
    return [chunk["choices"][0]["delta"] for chunk in chunks_of(body) if chunk["choices"]]


def raw_request(server: KimiServer, body: bytes, *, key: str = "sk-test") -> bytes:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def port_of(server: KimiServer) -> int:
    return httpx.URL(server.base_url).port or 0


async def exchange_bytes(server: KimiServer, data: bytes) -> bytes:
    """Send bytes over a socket of our own and read until the server closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(data)
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


# ==== what it sends ====


async def test_a_streamed_reply_comes_in_the_order_of_kimi() -> None:
    reply = Reply("Checking both.", "Two cities", [call("get_weather", city="Oslo"), call("now")], chunk_size=10)
    async with KimiServer([reply]) as server:
        response = await post(server, streamed())
    assert response.headers["content-type"] == "text/event-stream"
    assert deltas_of(response.content) == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Two cities"},
        {"reasoning_content": ""},
        {"content": "Checking b"},
        {"content": "oth."},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "get_weather_0",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": "'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": 'Oslo"}'}}]},
        {"tool_calls": [{"index": 1, "id": "now_1", "type": "function", "function": {"name": "now", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]


async def test_usage_comes_in_the_last_choice_and_again_in_a_chunk_without_choices() -> None:
    reply = Reply("Four degrees.", "abcdefgh", usage=TokenUsage(input_other=5, output=88, input_cache_read=256))
    async with KimiServer([reply, reply]) as server:
        with_usage = chunks_of((await post(server, streamed())).content)
        without = chunks_of((await post(server, chat(stream=True))).content)
    usage = {
        "prompt_tokens": 261,
        "completion_tokens": 88,
        "total_tokens": 349,
        "cached_tokens": 256,
        "prompt_tokens_details": {"cached_tokens": 256},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert with_usage[-1]["choices"] == []
    assert with_usage[-1]["usage"] == usage
    for last in (with_usage[-2], without[-1]):
        assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}]


async def test_reasoning_never_costs_more_than_the_whole_answer() -> None:
    reply = Reply("a", "a long thought", usage=TokenUsage(input_other=1, output=2))
    async with KimiServer([reply]) as server:
        usage = (await post(server, chat())).json()["usage"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 2}


async def test_a_reply_that_is_not_streamed_is_one_json_body() -> None:
    reply = Reply("Checking.", "Hm", [call("get_weather", city="Oslo")])
    async with KimiServer([reply]) as server:
        body = (await post(server, chat())).json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "kimi-k3"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Checking.",
                "reasoning_content": "Hm",
                "tool_calls": [
                    {
                        "index": 0,
                        "id": "get_weather_0",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
                    }
                ],
            },
            "finish_reason": "tool_calls",
        }
    ]
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]


async def test_answers_are_numbered_and_carry_the_headers_of_kimi() -> None:
    async with KimiServer([say("a"), say("b")]) as server:
        first, second = await post(server, chat()), await post(server, chat())
    assert (first.json()["id"], second.json()["id"]) == ("chatcmpl-1", "chatcmpl-2")
    assert second.headers["msh-request-id"] == "request-2"
    assert second.headers["x-trace-id"] == "trace-2"


async def test_a_prompt_that_continues_an_earlier_one_is_read_from_the_cache() -> None:
    longer = [QUESTION, {"role": "assistant", "content": "a"}, QUESTION]
    async with KimiServer([say("a")] * 4) as server:
        first, second, again, other = [
            (await post(server, chat(*messages))).json()["usage"]
            for messages in ([QUESTION], longer, longer, [{"role": "user", "content": "Else?"}, *longer])
        ]
    assert "cached_tokens" not in first
    assert second["cached_tokens"] == first["prompt_tokens"]
    assert again["cached_tokens"] == again["prompt_tokens"] == second["prompt_tokens"]
    assert "cached_tokens" not in other


async def test_a_script_may_give_ids_reasons_and_broken_arguments() -> None:
    reply = Reply(tool_calls=[Call("f", '{"a": ', id="x")], finish_reason="length")
    async with KimiServer([reply]) as server:
        choice = (await post(server, chat())).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["id"] == "x"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": '


@pytest.mark.parametrize("name", ["k3-text-live", "v1-text-live", "indexless-tools", "error-midstream"])
async def test_recorded_chunks_are_sent_verbatim(data: Any, name: str) -> None:
    path = data / "streams" / f"{name}.jsonl"
    lines = path.read_bytes().splitlines()
    async with KimiServer([Recorded(path), Recorded([json.loads(line) for line in lines])]) as server:
        from_file, from_values = await post(server, streamed()), await post(server, streamed())
    assert from_file.content == b"".join(b"data: %b\n\n" % line for line in [*lines, b"[DONE]"])
    assert chunks_of(from_values.content) == [json.loads(line) for line in lines]


async def test_raw_bytes_are_sent_as_they_are() -> None:
    page = RawBody(b"<html>\xff</html>", content_type="text/html", status=504)
    async with KimiServer([page]) as server:
        response = await post(server, streamed())
    assert (response.status_code, response.headers["content-type"]) == (504, "text/html")
    assert response.content == b"<html>\xff</html>"


async def test_a_failure_has_the_status_the_body_and_the_header_of_kimi() -> None:
    busy = Failure(429, "rate_limit_reached_error", "try again after 3 seconds", retry_after=3)
    async with KimiServer([busy]) as server:
        response = await post(server, streamed())
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"
    assert response.json() == {
        "error": {"message": "try again after 3 seconds", "type": "rate_limit_reached_error"},
    }


@pytest.mark.parametrize("value", [0, 3, "Wed, 21 Oct 2026 07:28:00 GMT", "soon"])
async def test_the_time_to_wait_is_sent_as_it_is(value: int | str) -> None:
    async with KimiServer([Failure(429, "engine_overloaded_error", "busy", value)]) as server:
        assert (await post(server, streamed())).headers["retry-after"] == str(value)


async def test_a_failure_may_lack_its_type_and_its_time() -> None:
    async with KimiServer([Failure(500, message="oops")]) as server:
        response = await post(server, streamed())
    assert response.json() == {"error": {"message": "oops"}}
    assert "retry-after" not in response.headers


async def test_raw_bytes_may_have_headers_of_their_own() -> None:
    zipped = RawBody(
        gzip.compress(b"slow down"), "text/plain", 429, headers={"Content-Encoding": "gzip", "Retry-After": "7"}
    )
    async with KimiServer([zipped]) as server:
        response = await post(server, streamed())
    assert (response.text, response.headers["retry-after"]) == ("slow down", "7")
    assert response.headers["msh-request-id"] == "request-1"


async def test_a_lone_surrogate_is_sent_as_an_escape() -> None:
    async with KimiServer([say("\ud83d")]) as server:
        assert (await post(server, chat())).json()["choices"][0]["message"]["content"] == "\ud83d"


# ==== scripts ====


async def test_a_function_in_a_script_gets_the_decoded_request() -> None:
    async def later(body: Body) -> Call:
        return call("echo", text=body["messages"][0]["content"])

    async with KimiServer([lambda body: say(body["model"]), later]) as server:
        first, second = (await post(server, chat())).json(), (await post(server, chat())).json()
    assert first["choices"][0]["message"]["content"] == "kimi-k3"
    arguments = second["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"text": "Which is warmer?"}


async def test_a_function_in_place_of_a_script_answers_every_request() -> None:
    async with KimiServer(lambda body: say(str(len(body["messages"])))) as server:
        texts = [
            (await post(server, chat(*[QUESTION] * count))).json()["choices"][0]["message"]["content"]
            for count in (1, 2, 3)
        ]
        server.assert_complete()
    assert texts == ["1", "2", "3"]


async def test_a_function_that_raises_is_seen_by_the_client_and_the_server_goes_on() -> None:
    def broken(body: Body) -> Reply:
        raise LookupError("no such city")

    async with KimiServer([broken, say("fine")]) as server:
        response = await post(server, chat())
        assert response.status_code == 500
        assert "no such city" in response.json()["error"]["message"]
        assert (await post(server, chat())).status_code == 200


@pytest.mark.parametrize("given", [None, [say("a")], 5])
async def test_a_function_that_gives_no_answer_is_told_to_the_client(given: Any) -> None:
    async with KimiServer([lambda body: given, say("fine")]) as server:
        response = await post(server, chat())
        assert response.status_code == 500
        assert f"a function of the script gave {given!r}; it has to give" in response.json()["error"]["message"]
        assert (await post(server, chat())).status_code == 200


async def test_the_address_is_known_once_the_server_runs() -> None:
    server = KimiServer()
    with pytest.raises(RuntimeError, match="it runs within `async with"):
        server.base_url  # noqa: B018
    async with server:
        assert server.base_url.startswith("http://127.0.0.1:")


async def test_an_exhausted_script_is_a_server_error_that_says_so() -> None:
    async with KimiServer([say("only one")]) as server:
        await post(server, chat())
        response = await post(server, chat())
    assert response.status_code == 500
    assert response.json()["error"] == {
        "message": "the script is exhausted: it has no answer to request 2",
        "type": "server_error",
    }


async def test_what_was_not_asked_for_is_named() -> None:
    async with KimiServer([say("first"), say("second"), call("third")]) as server:
        await post(server, chat())
        with pytest.raises(AssertionError, match=r"(?s)2 scripted answers.*second.*third") as error:
            server.assert_complete()
        assert "first" not in str(error.value)
        await post(server, chat())
        await post(server, chat())
        server.assert_complete()


async def test_a_refused_request_uses_up_no_step() -> None:
    async with KimiServer([say("still there")]) as server:
        assert (await post(server, chat(temperature=0.3))).status_code == 400
        assert (await post(server, chat())).json()["choices"][0]["message"]["content"] == "still there"


async def test_without_checks_everything_is_answered() -> None:
    async with KimiServer([say("whatever"), say("so be it")], check=False) as server:
        assert (await post(server, chat(temperature=0.3))).status_code == 200
        assert (await post(server, {})).status_code == 200


# ==== delivery ====

LONG = Reply("日本の天気は、晴れ。" * 20, "hm", chunk_size=7)


async def body_of(delivery: Delivery) -> tuple[bytes, list[bytes]]:
    """The body of the long reply whole, and the pieces in which `delivery` brings it."""
    async with KimiServer([LONG], delivery=Delivery()) as server:
        plain = (await post(server, streamed())).content
    async with KimiServer([LONG], delivery=delivery) as server:
        return plain, await pieces_of(server, streamed())


async def test_each_event_is_a_chunk_of_its_own() -> None:
    plain, pieces = await body_of(Delivery())
    assert [piece + b"\n\n" for piece in plain.split(b"\n\n")[:-1]] == pieces


async def test_a_whole_body_has_a_content_length() -> None:
    async with KimiServer([LONG], delivery=Delivery(whole=True)) as server:
        response = await post(server, streamed())
    assert int(response.headers["content-length"]) == len(response.content)
    assert "transfer-encoding" not in response.headers
    assert len(chunks_of(response.content)) > 20


@pytest.mark.parametrize("seed", range(5))
async def test_a_body_is_cut_where_the_test_says(seed: int) -> None:
    cuts = sorted(random.Random(seed).sample(range(1, 2_000), 40))
    plain, pieces = await body_of(Delivery(cuts=cuts))
    borders = [0, *cuts, len(plain)]
    assert pieces == [plain[start:end] for start, end in pairwise(borders)]


async def test_cuts_outside_of_the_body_and_repeated_ones_do_no_harm() -> None:
    plain, pieces = await body_of(Delivery(cuts=[0, 5, 5, 1_000_000]))
    assert pieces == [plain[:5], plain[5:]]


async def test_a_reply_may_say_itself_how_it_travels() -> None:
    replies = [Reply("abc", delivery=Delivery(whole=True)), say("abc")]
    async with KimiServer(replies) as server:
        assert "content-length" in (await post(server, streamed())).headers
        assert "content-length" not in (await post(server, streamed())).headers


async def test_a_stream_may_lack_its_finish_reason_and_its_end_mark() -> None:
    deliveries = [Delivery(finish=False), Delivery(done=False)]
    async with KimiServer([Reply("abc", delivery=delivery) for delivery in deliveries]) as server:
        without_reason, without_done = [(await post(server, streamed())).text for _ in deliveries]
    assert '"finish_reason":"stop"' not in without_reason
    assert without_reason.endswith("data: [DONE]\n\n")
    assert '"finish_reason":"stop"' in without_done
    assert "[DONE]" not in without_done


@pytest.mark.parametrize("whole", [True, False])
async def test_a_stream_that_stops_in_order_is_just_shorter(whole: bool) -> None:
    plain, pieces = await body_of(Delivery(stop_after=300, stop="end", whole=whole))
    assert b"".join(pieces) == plain[:300]


@pytest.mark.parametrize("whole", [True, False])
async def test_a_stream_that_is_closed_half_way_breaks_the_http_body(whole: bool) -> None:
    received = b""
    async with KimiServer([LONG], delivery=Delivery(stop_after=300, stop="close", whole=whole)) as server:
        async with client_of(server) as client, client.stream("POST", "/chat/completions", json=streamed()) as response:
            with pytest.raises(httpx.RemoteProtocolError):
                async for piece in response.aiter_raw():
                    received += piece
        await server.until(lambda: server.connections == 0)
    assert len(received) == 300


async def test_a_stream_that_is_reset_breaks_the_socket() -> None:
    async with KimiServer([LONG], delivery=Delivery(stop_after=300, stop="reset")) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(raw_request(server, json.dumps(streamed()).encode()))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await server.until(lambda: server.connections == 0)
        writer.close()


async def test_a_connection_may_be_closed_before_the_first_byte_of_an_answer() -> None:
    async with KimiServer([HangUp(), say("again")]) as server:
        assert await exchange_bytes(server, raw_request(server, json.dumps(chat()).encode())) == b""
        await server.until(lambda: server.connections == 0)
        assert len(server.requests) == 1
        assert (await post(server, chat())).json()["choices"][0]["message"]["content"] == "again"


async def test_a_connection_may_be_reset_before_the_first_byte_of_an_answer() -> None:
    async with KimiServer([HangUp("reset"), say("again")]) as server:
        with pytest.raises(ConnectionResetError):
            await exchange_bytes(server, raw_request(server, json.dumps(chat()).encode()))
        await server.until(lambda: server.connections == 0)
        assert (await post(server, chat())).status_code == 200


@pytest.mark.parametrize("whole", [True, False])
async def test_a_stream_that_stalls_stays_open_until_the_client_closes_it(whole: bool) -> None:
    received = b""
    async with KimiServer([LONG], delivery=Delivery(stop_after=300, stop="stall", whole=whole)) as server:
        async with client_of(server) as client:
            async with client.stream("POST", "/chat/completions", json=streamed()) as response:
                pieces = response.aiter_raw()
                while len(received) < 300:
                    received += await anext(pieces)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        received += await anext(pieces)
                assert server.connections == 1
            await server.until(lambda: server.connections == 0)
    assert len(received) == 300


async def test_a_server_that_stalls_ends_at_once() -> None:
    tasks = asyncio.all_tasks()
    async with KimiServer([HangUp("stall"), LONG], delivery=Delivery(stop_after=300, stop="stall")) as server:
        waiting = [asyncio.ensure_future(post(server, streamed())) for _ in range(2)]
        await server.until(lambda: len(server.requests) == 2)
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(answer, httpx.HTTPError) for answer in answers] == [True, True]
    assert asyncio.all_tasks() == tasks


async def test_any_endpoint_may_stall() -> None:
    async with KimiServer() as server, client_of(server) as client:
        server.failures["/models"] = [HangUp("stall")]
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/models", timeout=0.02)
        assert (await client.get("/models")).status_code == 200


async def test_a_gate_holds_the_stream_before_it_stops() -> None:
    gate = Gate(before=1)
    cut = Delivery(whole=True, stop_after=300, gate=gate)
    async with KimiServer([LONG], delivery=cut) as server:
        async with client_of(server) as client, client.stream("POST", "/chat/completions", json=streamed()) as response:
            pieces = response.aiter_raw()
            received = await anext(pieces)
            await gate.reached()
            assert server.connections == 1
            gate.open()
            with pytest.raises(httpx.RemoteProtocolError):
                async for piece in pieces:
                    received += piece
    assert len(received) == 300


async def test_a_gate_holds_the_stream_before_an_event() -> None:
    gate = Gate(before=2)
    async with KimiServer([Reply("abcdef", chunk_size=2)], delivery=Delivery(gate=gate)) as server:
        async with client_of(server) as client, client.stream("POST", "/chat/completions", json=streamed()) as response:
            pieces = response.aiter_raw()
            await gate.reached()
            before = [await anext(pieces), await anext(pieces)]
            waiting = asyncio.ensure_future(anext(pieces))
            assert (await client.get("/nowhere")).status_code == 404  # meanwhile others are answered
            assert not waiting.done()
            gate.open()
            rest = [await waiting, *[piece async for piece in pieces]]
    assert [b'"content":"ab"' in piece for piece in before] == [False, True]
    assert b'"content":"cd"' in rest[0]
    assert rest[-1] == b"data: [DONE]\n\n"


async def test_the_headers_come_before_a_gate_at_the_first_event() -> None:
    gate = Gate()
    async with KimiServer([say("abc")], delivery=Delivery(gate=gate)) as server:
        async with client_of(server) as client, client.stream("POST", "/chat/completions", json=streamed()) as response:
            assert response.status_code == 200
            gate.open()
            assert b"[DONE]" in await response.aread()


# ==== connections ====


async def test_a_connection_serves_many_requests() -> None:
    async with KimiServer([say("a"), Failure(429, "rate_limit_reached_error", "slow"), say("c")]) as server:
        async with client_of(server) as client:
            for body in (streamed(), chat(), chat(temperature=2), streamed()):
                await client.post("/chat/completions", json=body)
                assert server.connections == 1
            await client.get("/nowhere")
            assert server.connections == 1
        await server.until(lambda: server.connections == 0)


async def test_streams_are_served_side_by_side() -> None:
    gate = Gate()

    async with KimiServer(lambda body: say(body["messages"][0]["content"]), delivery=Delivery(gate=gate)) as server:
        requests = [post(server, streamed({"role": "user", "content": f"number {n}"})) for n in range(20)]
        answers = asyncio.gather(*requests)
        await server.until(lambda: len(server.requests) == 20)
        assert server.connections == 20
        gate.open()
        texts = ["".join(delta.get("content", "") for delta in deltas_of(r.content)) for r in await answers]
    assert texts == [f"number {n}" for n in range(20)]


async def test_a_client_that_leaves_half_way_frees_its_socket_at_once() -> None:
    gate = Gate(before=1)
    async with KimiServer([LONG], delivery=Delivery(gate=gate)) as server:
        async with client_of(server) as client:
            async with client.stream("POST", "/chat/completions", json=streamed()):
                await gate.reached()
                assert server.connections == 1
            await server.until(lambda: server.connections == 0)


async def test_a_client_that_does_not_read_blocks_nobody() -> None:
    huge = Reply("x" * 3_000_000, chunk_size=1_000_000)
    async with KimiServer([huge, say("small")]) as server:
        async with client_of(server) as client, client.stream("POST", "/chat/completions", json=streamed()) as response:
            assert (await post(server, chat())).status_code == 200
            assert len(await response.aread()) > 3_000_000


async def test_a_client_that_reads_slowly_is_waited_for() -> None:
    size, written = 1_000_000, 0

    async def count(number: int) -> None:
        nonlocal written
        written = number + 1

    raw = RawBody(b"x" * 32 * size, delivery=Delivery(cuts=range(0, 32 * size, size), gate=count))
    async with KimiServer([raw]) as server:
        async with client_of(server) as client, client.stream("POST", "/chat/completions", json=streamed()) as response:
            pieces = response.aiter_raw()
            received = len(await anext(pieces))
            assert written < 32
            async for piece in pieces:
                received += len(piece)
    assert (received, written) == (32 * size, 32)


async def test_closing_the_server_ends_open_streams_and_leaves_nothing_behind() -> None:
    gate = Gate(before=1)
    tasks = asyncio.all_tasks()
    async with KimiServer([LONG, LONG], delivery=Delivery(gate=gate)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(raw_request(server, json.dumps(streamed()).encode()))
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        await gate.reached()
        await server.until(lambda: server.connections == 2)
    assert server.connections == 0
    assert asyncio.all_tasks() == tasks
    assert await idle_reader.read() == b""
    assert b'"role":"assistant"' in await reader.read()
    for each in (writer, idle_writer):
        each.close()
        await each.wait_closed()
    gc.collect()


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_that_arrives_while_the_server_closes_is_closed(turns: int) -> None:
    tasks = asyncio.all_tasks()
    async with KimiServer() as server:
        late = socket.create_connection(("127.0.0.1", port_of(server)))
        late.setblocking(False)
        for _ in range(turns):  # of the event loop, which takes a few to accept a connection
            await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    with late, suppress(ConnectionResetError):
        assert await asyncio.get_running_loop().sock_recv(late, 100) == b""
    assert server.connections == 0


def test_a_server_may_be_used_in_one_event_loop_after_the_other() -> None:
    server = KimiServer([say("a"), say("b")])

    async def ask() -> str:
        async with server:
            return (await post(server, chat())).json()["choices"][0]["message"]["content"]

    assert [asyncio.run(ask()), asyncio.run(ask())] == ["a", "b"]


async def test_bytes_that_are_no_request_are_refused_and_kill_nothing() -> None:
    async with KimiServer([say("alive")]) as server:
        for garbage in (
            b"\x16\x03\x01\x02\x00\x01\x00\n\n",
            b"GET\r\n\r\n",
            b"A" * 20_000,
            b"POST / HTTP/1.1\r\n\r\n",
        ):
            answer = await exchange_bytes(server, garbage)
            assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
            assert b"connection: close" in answer.lower()
        assert (await post(server, chat())).status_code == 200


async def test_a_request_in_small_pieces_is_put_together() -> None:
    async with KimiServer([say("alive")]) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        for byte in raw_request(server, json.dumps(chat()).encode()):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert await reader.readline() == b"HTTP/1.1 200 \r\n"
        writer.close()
        await writer.wait_closed()


async def test_requests_that_come_together_are_answered_one_after_the_other() -> None:
    async with KimiServer([say("first"), say("second")]) as server:
        request = raw_request(server, json.dumps(chat()).encode())
        closing = request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        answer = await exchange_bytes(server, request + closing)
    assert answer.index(b"first") < answer.index(b"second")


async def test_a_client_that_leaves_in_the_middle_of_its_request_harms_nobody() -> None:
    async with KimiServer([say("alive")]) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(raw_request(server, b"{" * 50)[:-20])
        await server.until(lambda: server.connections == 1)
        writer.close()
        await server.until(lambda: server.connections == 0)
        assert server.requests == []
        assert (await post(server, chat())).status_code == 200


async def test_asking_for_headers_only_harms_nobody() -> None:
    async with KimiServer([say("alive")]) as server:
        async with client_of(server) as client:
            assert (await client.head("/nowhere")).status_code == 404
        assert (await post(server, chat())).status_code == 200


# ==== keys and routes ====


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer sk-other"}, {"Authorization": "sk-test"}])
async def test_another_key_is_refused_as_kimi_refuses_it(headers: dict[str, str]) -> None:
    async with KimiServer([say("never said")]) as server, httpx.AsyncClient(trust_env=False, verify=False) as client:
        response = await client.post(f"{server.base_url}/chat/completions", json=chat(), headers=headers)
    assert response.status_code == 401
    assert response.json() == {
        "error": {"message": "Invalid Authentication", "type": "invalid_authentication_error"},
    }


UNKNOWN_ROUTES = [
    ("POST", "/models"),
    ("GET", "/chat/completions"),
    ("POST", "/"),
    ("PUT", "/files/file-1"),
    ("GET", "/files/file-1/name"),
    ("GET", "/../models"),
    ("POST", "/../chat/completions"),
]


@pytest.mark.parametrize(("method", "path"), UNKNOWN_ROUTES)
async def test_an_unknown_route_is_not_found(method: str, path: str) -> None:
    async with KimiServer() as server, client_of(server) as client:
        response = await client.request(method, f"{server.base_url}{path}")
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "resource_not_found_error"


async def test_requests_are_recorded_without_the_key() -> None:
    async with KimiServer([say("a")]) as server:
        await post(server, chat(user_note="sk-text-of-the-user"))
        (request,) = server.requests
    assert request.body == chat(user_note="sk-text-of-the-user")
    assert json.loads(request.raw) == request.body
    assert request.headers["authorization"] == ""
    assert server.api_key not in repr(request)


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b"\xff", b'"text"', b"[" * 100_000])
async def test_a_body_that_is_no_json_object_is_a_bad_request(raw: bytes) -> None:
    async with KimiServer() as server, client_of(server) as client:
        response = await client.post("/chat/completions", content=raw)
        assert server.requests == []
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_every_request_is_recorded_whatever_becomes_of_it() -> None:
    async with KimiServer([say("a")]) as server, client_of(server) as client:
        await post(server, chat())
        await client.get("/files/a%2Fb?limit=3")
        await client.put("/nowhere", content=b"\xff")
        await client.get("/models", headers={"Authorization": "Bearer sk-other"})
        assert [(each.method, each.path) for each in server.calls] == [
            ("POST", "/chat/completions"),
            ("GET", "/files/a%2Fb?limit=3"),
            ("PUT", "/nowhere"),
            ("GET", "/models"),
        ]
        assert json.loads(server.calls[0].body) == chat()
        assert server.calls[2].body == b"\xff"
        assert len(server.requests) == 1
        assert {each.headers["authorization"] for each in server.calls} == {""}


# ==== the other endpoints ====

MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}
DATE = "moonshot/date:latest"


@asynccontextmanager
async def at_server(**state: Any) -> AsyncIterator[tuple[KimiServer, httpx.AsyncClient]]:
    """A server whose attributes are set, and a client of it."""
    async with KimiServer() as server, client_of(server) as client:
        for name, value in state.items():
            setattr(server, name, value)
        yield server, client


async def upload(
    client: httpx.AsyncClient, content: bytes, *, purpose: str = "file-extract", name: str = "notes.txt"
) -> httpx.Response:
    return await client.post("/files", data={"purpose": purpose}, files={"file": (name, content)})


def assert_refused(response: httpx.Response, status: int) -> None:
    kind = {400: "invalid_request_error", 404: "resource_not_found_error"}[status]
    assert (response.status_code, response.json()["error"]["type"]) == (status, kind)


async def test_it_lists_models_with_what_they_can_do() -> None:
    async with at_server() as (server, client):
        listed = (await client.get("/models")).json()
        assert listed == {"object": "list", "data": server.models}
    k3, k2 = listed["data"]
    assert (k3["id"], k3["object"], k3["context_length"]) == ("kimi-k3", "model", 1_048_576)
    assert (k2["id"], k2["supports_thinking_type"], k2["context_length"]) == ("kimi-k2.6", "both", 262_144)
    assert k3["think_efforts"]["valid_efforts"] == ["low", "high", "max"]


async def test_its_models_are_those_that_the_test_sets() -> None:
    models = [{"id": "kimi-k4", "object": "model"}]
    async with at_server(models=models) as (_, client):
        assert (await client.get("/models")).json()["data"] == models
    assert KimiServer().models[0]["id"] == "kimi-k3"


async def test_it_tells_the_balance() -> None:
    owing = {"available_balance": -1.5, "voucher_balance": 0, "cash_balance": -1.5}
    async with at_server() as (server, client):
        assert (await client.get("/users/me/balance")).json() == {
            "code": 0,
            "data": {"available_balance": 49.5, "voucher_balance": 46.5, "cash_balance": 3.0},
            "scode": "0x0",
            "status": True,
        }
        server.balance = owing
        assert (await client.get("/users/me/balance")).json()["data"] == owing


async def test_it_counts_what_chat_would_count_but_for_tools() -> None:
    async with KimiServer([say("a")]) as server, client_of(server) as client:
        counted = [
            (await client.post("/tokenizers/estimate-token-count", json=body)).json()
            for body in (chat(), chat(tools=[WEATHER]))
        ]
        tokens = (await post(server, chat())).json()["usage"]["prompt_tokens"]
    assert counted == [{"data": {"total_tokens": tokens}}] * 2
    assert tokens > 1


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"model": "kimi-k3", "messages": "hello"}'])
async def test_it_counts_no_tokens_of_what_is_no_request(body: bytes) -> None:
    async with at_server() as (_, client):
        assert_refused(await client.post("/tokenizers/estimate-token-count", content=body), 400)


async def test_a_file_is_stored_listed_read_and_deleted() -> None:
    async with at_server() as (server, client):
        made = (await upload(client, b"Four degrees.")).json()
        assert made == {
            "id": "file-1",
            "object": "file",
            "bytes": 13,
            "created_at": 1_790_000_000,
            "filename": "notes.txt",
            "purpose": "file-extract",
            "status": "ok",
            "status_details": "",
        }
        assert server.files == {"file-1": StoredFile("file-extract", "notes.txt", "text/plain", b"Four degrees.")}
        assert (await client.get("/files/file-1")).json() == made
        assert (await client.get("/files")).json() == {"object": "list", "data": [made]}
        content = await client.get("/files/file-1/content")
        assert (content.text, content.headers["content-type"]) == ("Four degrees.", "text/plain; charset=utf-8")
        deleted = (await client.delete("/files/file-1")).json()
        assert deleted == {"deleted": True, "id": "file-1", "object": "file"}
        assert (await client.get("/files")).json()["data"] == []


ODD_CONTENTS = {
    "nothing": b"",
    "line ends": b"\r\n\r\na\rb\nc\r\n",
    "any bytes": bytes(range(256)),
    "dashes": b"--\r\n--b\r\n--",
    "a mail": b"Subject: hi\r\n\r\nContent-Type: text/plain",
}


@pytest.mark.parametrize("content", ODD_CONTENTS.values(), ids=ODD_CONTENTS)
@pytest.mark.parametrize("name", ["a.png", "a.eml", "weather of today; really.txt", "天气.txt"])
async def test_a_file_is_stored_to_the_byte(content: bytes, name: str) -> None:
    async with at_server() as (server, client):
        assert (await upload(client, content, purpose="image", name=name)).status_code == 200
        (file,) = server.files.values()
    assert (file.content, file.filename, file.purpose) == (content, name, "image")


@given(st.binary(), st.from_regex(r"\w[\w .;-]{0,20}\w", fullmatch=True))
def test_any_file_is_stored_as_it_was_uploaded(content: bytes, name: str) -> None:
    sent = httpx.Request("POST", "http://kimi/v1/files", data={"purpose": "batch"}, files={"file": (name, content)})
    account = Account()
    made = answer(account, HTTPRequest("POST", "/v1/files", dict(sent.headers), sent.read()), "/files")
    assert isinstance(made, dict)
    assert (made["bytes"], made["filename"], made["purpose"]) == (len(content), name, "batch")
    assert account.files[made["id"]].content == content


async def test_files_that_the_test_puts_there_are_served_and_never_overwritten() -> None:
    mine = StoredFile("video", "a.mp4", "video/mp4", b"film", status="ready")
    async with at_server(files={"file-1": mine}) as (server, client):
        assert (await client.get("/files/file-1")).json()["status"] == "ready"
        assert (await upload(client, b"a")).json()["id"] == "file-2"
        assert server.files["file-1"] == mine


async def test_only_files_to_extract_have_a_text() -> None:
    async with at_server() as (_, client):
        await upload(client, b"pixels", purpose="image")
        assert_refused(await client.get("/files/file-1/content"), 400)


@pytest.mark.parametrize("purpose", ["", "fine-tune"])
async def test_a_file_needs_a_purpose_that_kimi_knows(purpose: str) -> None:
    async with at_server() as (server, client):
        assert_refused(await upload(client, b"a", purpose=purpose), 400)
        assert server.files == {}


BAD_FORMS: dict[str, Body] = {
    "no file": {"files": {"purpose": (None, "image")}},
    "no purpose": {"files": {"file": ("a.txt", b"a")}},
    "no form": {"json": {"purpose": "image"}},
    "nothing": {},
    "no parts": {"content": b"whatever", "headers": MULTIPART},
    "a part without a head": {"content": b"--b\r\n--b--\r\n", "headers": MULTIPART},
}


@pytest.mark.parametrize("request_parts", BAD_FORMS.values(), ids=BAD_FORMS)
async def test_a_form_that_lacks_something_is_refused(request_parts: Body) -> None:
    async with at_server() as (server, client):
        assert_refused(await client.post("/files", **request_parts), 400)
        assert server.files == {}


UNKNOWN_THINGS = [
    ("GET", "/files/file-1"),
    ("DELETE", "/files/file-1"),
    ("GET", "/files/file-1/content"),
    ("GET", f"/formulas/{DATE}/tools"),
    ("POST", f"/formulas/{DATE}/fibers"),
]


@pytest.mark.parametrize(("method", "path"), UNKNOWN_THINGS)
async def test_what_is_not_there_is_not_found(method: str, path: str) -> None:
    async with at_server() as (_, client):
        assert_refused(await client.request(method, path), 404)


@pytest.mark.parametrize("path", ["/models", "/files", "/files/file-1", "/nowhere"])
async def test_another_key_opens_no_endpoint(path: str) -> None:
    async with at_server() as (_, client):
        response = await client.get(path, headers={"Authorization": "Bearer sk-other"})
    assert (response.status_code, response.json()["error"]["type"]) == (401, "invalid_authentication_error")


def today(name: str, arguments: str) -> str:
    if name != "date":
        raise LookupError(f"there is no {name}")
    return f"21 November, asked with {arguments}"


@pytest.mark.parametrize("uri", [DATE, "moonshot%2Fdate%3Alatest"])
async def test_a_hosted_tool_is_described_and_run(uri: str) -> None:
    async with at_server(formulas={DATE: Formula([tool("date")], today)}) as (_, client):
        assert (await client.get(f"/formulas/{uri}/tools")).json() == {"object": "list", "tools": [tool("date")]}
        runs = [
            (await client.post(f"/formulas/{uri}/fibers", json={"name": name, "arguments": "{}"})).json()
            for name in ("date", "time")
        ]
    assert runs == [
        {
            "id": "fiber-1",
            "object": "fiber",
            "status": "succeeded",
            "context": {"input": "{}", "output": "21 November, asked with {}"},
        },
        {"id": "fiber-2", "object": "fiber", "status": "failed", "error": "there is no time"},
    ]


async def test_the_output_of_an_encrypted_tool_is_not_for_the_client() -> None:
    search = Formula([tool("web_search")], lambda name, arguments: "sealed", encrypted=True)
    async with at_server(formulas={"moonshot/web-search:latest": search}) as (_, client):
        body = {"name": "web_search", "arguments": '{"query": "weather"}'}
        run = (await client.post("/formulas/moonshot/web-search:latest/fibers", json=body)).json()
    assert run["context"] == {"input": '{"query": "weather"}', "encrypted_output": "sealed"}


@pytest.mark.parametrize("body", [None, {}, {"name": "date"}, {"name": "date", "arguments": {}}])
async def test_a_hosted_tool_takes_its_arguments_as_a_string(body: Any) -> None:
    async with at_server(formulas={DATE: Formula([], today)}) as (_, client):
        assert_refused(await client.post(f"/formulas/{DATE}/fibers", json=body), 400)


async def test_an_endpoint_fails_as_often_as_the_test_says_and_then_answers() -> None:
    page = RawBody(b"<html>", "text/html", 502, headers={"Retry-After": "1"})
    faults: list[Fault] = [Failure(500, "server_error", "oops", 2), page, HangUp()]
    async with at_server(failures={"/models": faults}) as (server, client):
        first, second = await client.get("/models"), await client.get("/models?page=2")
        assert (await client.get("/files")).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/models")
        assert (await client.get("/models")).json()["object"] == "list"
        assert len(server.calls) == 5
    assert (first.status_code, first.headers["retry-after"], first.json()["error"]["message"]) == (500, "2", "oops")
    assert (second.status_code, second.headers["retry-after"], second.content) == (502, "1", b"<html>")


async def test_chat_may_fail_before_its_script_is_asked() -> None:
    async with KimiServer([say("a")]) as server:
        server.failures = {"/chat/completions": [Failure(503, "server_unavailable", "later")]}
        assert (await post(server, chat())).status_code == 503
        assert (await post(server, chat())).status_code == 200
        assert len(server.requests) == 2


async def test_the_delivery_of_streams_is_not_that_of_other_endpoints() -> None:
    async with KimiServer(delivery=Delivery(stop_after=1)) as server, client_of(server) as client:
        server.failures = {"/models": [RawBody(b"<html>", "text/html")]}
        assert (await client.get("/models")).content == b"<html>"


# ==== what Kimi refuses ====

UNANSWERED = (
    "Invalid request: an assistant message with 'tool_calls' must be followed by tool messages responding to each"
    " 'tool_call_id'. The following tool_call_ids did not have response messages: "
)
BAD_NAME = (
    "Invalid request: function name is invalid, must start with a letter and can contain letters, numbers,"
    " underscores, and dashes"
)


def tool(name: Any) -> Body:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


def bad_content(position: int, role: str) -> str:
    return (
        f"Invalid request: the content of the message at position {position} with role '{role}' must be a string"
        " or a list of parts"
    )


def seeing(url: Any, kind: str = "image_url", role: str = "user") -> Body:
    return {"role": role, "content": [{"type": "text", "text": "What is this?"}, {"type": kind, kind: url}]}


def shaped(**json_schema: Any) -> Body:
    return chat(response_format={"type": "json_schema", "json_schema": json_schema})


def long(model: str, tokens: int, **fields: Any) -> Body:
    return chat({"role": "user", "content": "abcd" * tokens}, model=model, **fields)


ANSWER_SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
WHOLE_NUMBER = "must be a positive integer"
STOPS = "Invalid request: stop must be a string or at most 5 strings, each of at most 32 bytes"
EFFORTS = "invalid reasoning_effort: only low, high, max are allowed for this model"
ONLY_LAST = "Invalid request: partial is for the last message, and only with role 'assistant'"
BAD_TOOL = "Invalid request: a tool must be an object with a type and a function"
FORMATS = "Invalid request: response_format.type must be one of text, json_object, json_schema"
NEEDED = "a data: URL or ms://<file_id> is needed, not"
SVG = "unsupported image format: image/svg+xml"

REFUSED: dict[str, tuple[Body, str]] = {
    "no model": ({"messages": [QUESTION]}, "Invalid request: model is required"),
    "no messages": (
        {"model": "kimi-k3"},
        "Invalid request: messages must be a list with at least one message",
    ),
    "empty messages": (
        {"model": "kimi-k3", "messages": []},
        "Invalid request: messages must be a list with at least one message",
    ),
    "temperature": (chat(temperature=0.3), "invalid temperature: only 1 is allowed for this model"),
    "temperature without thinking": (
        chat(model="kimi-k2.6", thinking={"type": "disabled"}, temperature=1),
        "invalid temperature: only 0.6 is allowed for this model",
    ),
    "top_p": (chat(top_p=1), "invalid top_p: only 0.95 is allowed for this model"),
    "n": (chat(n=2), "invalid n: only 1 is allowed for this model"),
    "presence": (chat(presence_penalty=0.5), "invalid presence_penalty: only 0 is allowed for this model"),
    "frequency": (chat(frequency_penalty=1), "invalid frequency_penalty: only 0 is allowed for this model"),
    "call without result": (chat(QUESTION, asking("a", "b"), result("a")), UNANSWERED + "b"),
    "result after another message": (chat(QUESTION, asking("a"), QUESTION, result("a")), UNANSWERED + "a"),
    "unknown call": (chat(QUESTION, asking("a"), result("b"), result("a")), "tool_call_id  is not found"),
    "result of an older exchange": (
        chat(QUESTION, asking("a"), result("a"), asking("b"), result("a")),
        "tool_call_id  is not found",
    ),
    "second result": (chat(QUESTION, asking("a"), result("a"), result("a")), "tool_call_id  is not found"),
    "result without id": (
        chat(QUESTION, asking("a"), {"role": "tool", "content": "4"}),
        "Invalid request: the message at position 2 with role 'tool' has no tool_call_id",
    ),
    "empty answer": (
        chat(QUESTION, {"role": "assistant", "content": ""}),
        "the message at position 1 with role 'assistant' must not be empty",
    ),
    "blank answer": (
        chat(QUESTION, {"role": "assistant", "content": " \n"}),
        "the message at position 1 with role 'assistant' must not be empty",
    ),
    "only reasoning": (
        chat(QUESTION, QUESTION, {"role": "assistant", "reasoning_content": "hm"}),
        "the message at position 2 with role 'assistant' must not be empty",
    ),
    "malformed call": (
        chat(QUESTION, {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {}}}]}),
        "Invalid request: the message at position 1 has a malformed tool call",
    ),
    "unknown role": (
        chat({"role": "function", "content": "4"}),
        "Invalid request: the message at position 0 has the unknown role 'function'",
    ),
    "no message": (chat("hello"), "Invalid request: the message at position 0 has the unknown role 'hello'"),  # type: ignore[arg-type]
    "content is a number": (chat({"role": "user", "content": 4}), bad_content(0, "user")),
    "content is missing": (chat({"role": "user"}), bad_content(0, "user")),
    "content is an object": (chat({"role": "user", "content": {"type": "text"}}), bad_content(0, "user")),
    "part without type": (chat({"role": "user", "content": [{"text": "a"}]}), bad_content(0, "user")),
    "part without text": (chat({"role": "user", "content": [{"type": "text"}]}), bad_content(0, "user")),
    "strings as parts": (chat({"role": "system", "content": ["a"]}), bad_content(0, "system")),
    "tools in a user message": (
        chat({"role": "user", "content": "a", "tools": [WEATHER]}),
        "Invalid request: the message at position 0 cannot carry tools",
    ),
    "tools beside content": (
        chat({"role": "system", "content": "a", "tools": [WEATHER]}),
        "Invalid request: the message at position 0 cannot carry tools",
    ),
    "duplicate": (chat(tools=[WEATHER, tool("f"), WEATHER]), "function name get_weather is duplicated"),
    "duplicate of a late tool": (
        chat({"role": "system", "tools": [WEATHER]}, QUESTION, tools=[WEATHER]),
        "function name get_weather is duplicated",
    ),
    "leading digit": (chat(tools=[tool("1st")]), BAD_NAME),
    "at sign": (chat(tools=[tool("a@b")]), BAD_NAME),
    "empty name": (chat(tools=[tool("")]), BAD_NAME),
    "dollar": (chat(tools=[tool("$web_search")]), BAD_NAME),
    "long name": (chat(tools=[tool("a" * 257)]), BAD_NAME),
    "newline after the name": (chat(tools=[tool("abc\n")]), BAD_NAME),
    "no name": (chat(tools=[tool(None)]), BAD_NAME),
    "no function": (
        chat(tools=[{"type": "function"}]),
        "Invalid request: a tool must be an object with a type and a function",
    ),
    "null tool": (chat(tools=[None]), "Invalid request: a tool must be an object with a type and a function"),
    "tools are an object": (chat(tools=WEATHER), "Invalid request: tools must be a list"),
    "parameters of a string": (
        chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]),
        "Invalid request: the parameters of function f must be a schema of type object",
    ),
    "too many tools": (
        chat(tools=[tool(f"tool_{n}") for n in range(129)]),
        "Invalid request: at most 128 tools are allowed, got 129",
    ),
    "required without tools": (
        chat(tool_choice="required"),
        "Invalid request: tool_choice 'required' needs tools",
    ),
    "required with empty tools": (
        chat(tool_choice="required", tools=[]),
        "Invalid request: tool_choice 'required' needs tools",
    ),
    "required on K2.6": (
        chat(model="kimi-k2.6", tool_choice="required", tools=[WEATHER]),
        "tool_choice 'required' is incompatible with thinking enabled",
    ),
    "specified": (
        chat(tool_choice={"type": "function", "function": {"name": "get_weather"}}, tools=[WEATHER]),
        "tool_choice 'specified' is incompatible with thinking enabled",
    ),
    "unknown choice": (
        chat(tool_choice="sometimes", tools=[WEATHER]),
        "Invalid request: unknown tool_choice 'sometimes'",
    ),
    "K2.7 without thinking": (
        chat(model="kimi-k2.7-code", thinking={"type": "disabled"}),
        "invalid thinking: only type=enabled is allowed for this model",
    ),
    "unknown thinking": (
        chat(model="kimi-k2.6", thinking={"type": "hard"}),
        "Invalid request: thinking must be an object with the type enabled or disabled",
    ),
    "thinking is a flag": (
        chat(model="kimi-k2.6", thinking=True),
        "Invalid request: thinking must be an object with the type enabled or disabled",
    ),
    "keep some thinking": (
        chat(model="kimi-k2.6", thinking={"type": "enabled", "keep": "some"}),
        "Invalid request: thinking.keep must be null or 'all'",
    ),
    "medium effort": (chat(reasoning_effort="medium"), EFFORTS),
    "effort as an object": (chat(model="kimi-k3.1-pro", reasoning_effort={"effort": "low"}), EFFORTS),
    "format is a string": (chat(response_format="json_object"), FORMATS),
    "unknown format": (chat(response_format={"type": "yaml"}), FORMATS),
    "format without type": (chat(response_format={}), FORMATS),
    "format without schema": (
        chat(response_format={"type": "json_schema"}),
        "Invalid request: response_format.json_schema must be an object",
    ),
    "schema without a name": (
        shaped(schema=ANSWER_SCHEMA),
        "Invalid request: response_format.json_schema.name must be a string that is not empty",
    ),
    "name without a schema": (
        shaped(name="answer"),
        "Invalid request: response_format.json_schema.schema must be an object",
    ),
    "schema is a string": (
        shaped(name="answer", schema="object"),
        "Invalid request: response_format.json_schema.schema must be an object",
    ),
    "strict is a string": (
        shaped(name="answer", schema=ANSWER_SCHEMA, strict="true"),
        "Invalid request: response_format.json_schema.strict must be a boolean",
    ),
    "six stops": (chat(stop=["a"] * 6), STOPS),
    "long stop": (chat(stop="x" * 33), STOPS),
    "stop of many bytes": (chat(stop=["晴" * 11]), STOPS),
    "stop is a number": (chat(stop=[4]), STOPS),
    "cache key": (chat(prompt_cache_key=4), "Invalid request: prompt_cache_key must be a string"),
    "identifier": (chat(safety_identifier=["a"]), "Invalid request: safety_identifier must be a string"),
    "no completion": (chat(max_completion_tokens=0), f"Invalid request: max_completion_tokens {WHOLE_NUMBER}"),
    "part of a token": (chat(max_completion_tokens=1.5), f"Invalid request: max_completion_tokens {WHOLE_NUMBER}"),
    "completion is a flag": (
        chat(max_completion_tokens=True),
        f"Invalid request: max_completion_tokens {WHOLE_NUMBER}",
    ),
    "old limit": (chat(max_tokens="many"), f"Invalid request: max_tokens {WHOLE_NUMBER}"),
    "more than the window of K3": (
        chat(max_completion_tokens=1_048_576),
        "Invalid request: Your request exceeded model token limit : 1048576",
    ),
    "more than the window of K2.6": (
        long("kimi-k2.6", 124_288, max_completion_tokens=200_000),
        "Invalid request: Your request exceeded model token limit : 262144",
    ),
    "more than the window by the old limit": (
        long("kimi-k2.6", 124_288, max_tokens=200_000),
        "Invalid request: Your request exceeded model token limit : 262144",
    ),
    "a prompt longer than the window": (
        long("kimi-k2.6", 524_288),
        "Invalid request: Your request exceeded model token limit : 262144",
    ),
    "picture from the web": (
        chat(seeing({"url": "https://example.com/a.png"})),
        f"Invalid request: unsupported image_url: {NEEDED} https://example.com/a.png",
    ),
    "bare URL of a picture": (
        chat(seeing("HTTP://example.com/a.png")),
        f"Invalid request: unsupported image_url: {NEEDED} HTTP://example.com/a.png",
    ),
    "film from the web": (
        chat(seeing({"url": "http://example.com/a.mp4"}, "video_url")),
        f"Invalid request: unsupported video_url: {NEEDED} http://example.com/a.mp4",
    ),
    "drawing": (chat(seeing({"url": "data:image/svg+xml;base64,PHN2Zy8+"})), SVG),
    "drawing as a result": (
        chat(QUESTION, asking("a"), {**result("a"), **seeing("data:image/svg+xml,<svg/>", role="tool")}),
        SVG,
    ),
    "prefill in the middle": (
        chat(QUESTION, {"role": "assistant", "content": "Four", "partial": True}, QUESTION),
        ONLY_LAST,
    ),
    "prefill of the user": (chat({**QUESTION, "partial": True}), ONLY_LAST),
    "late tools on K2.6": (
        chat(QUESTION, {"role": "system", "tools": [WEATHER]}, model="kimi-k2.6"),
        "tokenization failed",
    ),
    "tools of the assistant": (
        chat(QUESTION, {"role": "assistant", "content": "a", "tools": [WEATHER]}),
        "Invalid request: the message at position 1 cannot carry tools",
    ),
    "late tool without type": (
        chat({"role": "system", "tools": [{"function": WEATHER["function"]}]}, QUESTION),
        BAD_TOOL,
    ),
    "late tool without function": (chat({"role": "system", "tools": [{"type": "function"}]}, QUESTION), BAD_TOOL),
    "late tool without name": (
        chat({"role": "system", "tools": [{"type": "function", "function": {}}]}, QUESTION),
        BAD_NAME,
    ),
    "late tool with a bad name": (chat({"role": "system", "tools": [tool("1st")]}, QUESTION), BAD_NAME),
    "null as a late tool": (chat({"role": "system", "tools": [None]}, QUESTION), BAD_TOOL),
    "late tools are an object": (
        chat({"role": "system", "tools": WEATHER}, QUESTION),
        "Invalid request: tools must be a list",
    ),
    "late tools are null": (chat({"role": "system", "tools": None}, QUESTION), "Invalid request: tools must be a list"),
    "a late tool twice": (
        chat({"role": "system", "tools": [WEATHER, WEATHER]}, QUESTION),
        "function name get_weather is duplicated",
    ),
    "a tool late and later": (
        chat({"role": "system", "tools": [WEATHER]}, QUESTION, {"role": "system", "tools": [WEATHER]}),
        "function name get_weather is duplicated",
    ),
}

ACCEPTED: dict[str, Body] = {
    "plain": chat(),
    "pinned values": chat(temperature=1.0, top_p=0.95, n=1, presence_penalty=0, frequency_penalty=0),
    "nulls": chat(temperature=None, tools=None, tool_choice=None),
    "sampling of an old model": chat(model="moonshot-v1-8k", temperature=0.3, n=3),
    "results in another order": chat(QUESTION, asking("a", "b"), result("b"), result("a")),
    "equal ids": chat(QUESTION, asking("a", "a"), result("a"), result("a")),
    "the same id in each exchange": chat(QUESTION, asking("a"), result("a"), asking("a"), result("a")),
    "call without content": chat(QUESTION, {**asking("a"), "content": None}, result("a")),
    "prefill": chat(QUESTION, {"role": "assistant", "content": "", "partial": True}),
    "parts": chat({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]}),
    "late tools": chat(QUESTION, {"role": "system", "tools": [WEATHER]}, tool_choice="required"),
    "built-in": chat(tools=[{"type": "builtin_function", "function": {"name": "$web_search"}}]),
    "128 tools": chat(tools=[tool(f"tool_{n}") for n in range(128)]),
    "choice without tools": chat(tool_choice="auto"),
    "required on K3": chat(tool_choice="required", tools=[WEATHER]),
    "unknown fields": chat(mood="good"),
    "low effort": chat(reasoning_effort="low"),
    "high effort": chat(reasoning_effort="high"),
    "most effort": chat(model="k3", reasoning_effort="max"),
    "effort of another model": chat(model="some-model", reasoning_effort="medium"),
    "thinking of another model": chat(model="some-model", thinking="hard"),
    "K2.6 without thinking": chat(model="kimi-k2.6", thinking={"type": "disabled", "keep": "some"}),
    "K2.6 keeps its thinking": chat(model="kimi-k2.6", thinking={"type": "enabled", "keep": "all"}),
    "K2.7 thinks": chat(model="kimi-k2.7-code", thinking={"type": "enabled"}),
    "text": chat(response_format={"type": "text"}),
    "JSON": chat(response_format={"type": "json_object"}),
    "schema": shaped(name="answer", schema=ANSWER_SCHEMA),
    "any object": shaped(name="answer", schema={}, strict=False),
    "five stops": chat(stop=["晴" * 10, *["x" * 32] * 4]),
    "one stop": chat(stop="x" * 32),
    "names of the caller": chat(prompt_cache_key="chat-1", safety_identifier="f0e1"),
    "a long completion": chat(max_completion_tokens=1_000_000),
    "the newer limit wins": chat(max_completion_tokens=1, max_tokens=9_999_999),
    "a long prompt": long("kimi-k3", 1_000_000),
    "a prompt that may just fit": long("kimi-k2.6", 400_000, max_completion_tokens=62_000),
    "a large picture": chat(seeing({"url": f"data:image/png;base64,{'A' * 5_000_000}"}), model="kimi-k2.6"),
    "an uploaded picture": chat(seeing("ms://file-1"), seeing({"url": "ms://file-2"}, "video_url")),
    "a picture as a result": chat(
        QUESTION, asking("a"), {**result("a"), **seeing("data:image/png;base64,aaaa", role="tool")}
    ),
    "no prefill": chat({**QUESTION, "partial": False}),
    "late tools of another model": chat({"role": "system", "tools": [WEATHER]}, QUESTION, model="some-model"),
    "late tools, often": chat(
        {"role": "system", "tools": [{"type": "function", "function": {**WEATHER["function"], "strict": False}}]},
        QUESTION,
        {"role": "system", "tools": [tool("now")], "content": ""},
        tools=[tool("then")],
    ),
}


@pytest.mark.parametrize(("body", "message"), REFUSED.values(), ids=REFUSED)
async def test_it_refuses_what_kimi_refuses(body: Body, message: str) -> None:
    async with KimiServer([say("never said")]) as server:
        response = await post(server, body)
    assert response.status_code == 400
    assert response.json() == {"error": {"message": message, "type": "invalid_request_error"}}


NOT_MFJS = {"type": "object", "properties": {"city": {"oneOf": [{"type": "string"}, {"type": "null"}]}}}
ODD_TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": NOT_MFJS}}
NOT_MFJS_WORDS = "is not a valid moonshot flavored json schema, details: <"

FOREIGN_SCHEMAS: dict[str, tuple[Body, str]] = {
    "tool": (chat(tools=[tool("now"), ODD_TOOL]), f"tools.function.parameters {NOT_MFJS_WORDS}"),
    "late tool": (
        chat({"role": "system", "tools": [ODD_TOOL]}, QUESTION),
        f"tools.function.parameters {NOT_MFJS_WORDS}",
    ),
    "response format": (
        shaped(name="answer", schema=NOT_MFJS),
        f"Invalid request: response_format.json_schema {NOT_MFJS_WORDS}",
    ),
    "loose response format": (
        shaped(name="answer", schema=NOT_MFJS, strict=False),
        f"Invalid request: response_format.json_schema {NOT_MFJS_WORDS}",
    ),
}


@pytest.mark.parametrize(("body", "words"), FOREIGN_SCHEMAS.values(), ids=FOREIGN_SCHEMAS)
def test_it_refuses_schemas_of_another_dialect(body: Body, words: str) -> None:
    refusal = check_request(body)
    assert refusal is not None
    assert refusal.message.startswith(words)
    assert "oneOf" in refusal.message


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED)
def test_it_takes_what_kimi_takes(body: Body) -> None:
    assert check_request(body) is None


@pytest.mark.parametrize("body", [None, [], "text", 4])
def test_only_an_object_is_a_request(body: Any) -> None:
    assert check_request(body) == Failure(
        400, "invalid_request_error", "Invalid request: the body must be a JSON object"
    )


JSON_MUTATIONS: list[Callable[[Body], object]] = [
    lambda body: body.update(messages={"role": "user"}),
    lambda body: body.update(tools="get_weather"),
    lambda body: body.update(tool_choice=["auto"]),
    lambda body: body.update(model=4),
    lambda body: body.update(response_format=[]),
    lambda body: body.update(response_format={"type": ["json_object"]}),
    lambda body: body.update(reasoning_effort=["low"]),
    lambda body: body.update(model="kimi-k2.6", thinking={"type": {}}),
    lambda body: body.update(stop={"a": 1}),
    lambda body: body["messages"].append(None),
    lambda body: body["messages"].append({"role": ["user"]}),
    lambda body: body["messages"].append({"role": "assistant", "tool_calls": "f"}),
    lambda body: body["messages"].append({"role": "assistant", "tool_calls": [None]}),
    lambda body: body["messages"].append({"role": "tool", "content": "a", "tool_call_id": 4}),
    lambda body: body["messages"].append({"role": "system", "content": [], "tools": 4}),
]


@pytest.mark.parametrize("mutate", JSON_MUTATIONS)
def test_json_of_the_wrong_shape_is_refused_and_never_raises(mutate: Callable[[Body], object]) -> None:
    body = json.loads(json.dumps(chat(tools=[WEATHER])))
    mutate(body)
    refusal = check_request(body)
    assert refusal is not None
    assert refusal.status == 400
