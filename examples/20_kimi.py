"""What is Kimi's own: models, thinking, a document, retries that you can see, and answers that go on where they broke.

With KIMI_API_KEY set: `python examples/20_kimi.py`
Without a key:         `python examples/offline.py examples/20_kimi.py`
"""

import asyncio

from kimi_agent import Agent, InvalidRequestError, Kimi, Message, RequestRetried

REPORT = b"Monthly report. Oslo: 4 degrees, rain. Bergen: 7 degrees, fog."


async def main() -> None:
    async with Kimi("kimi-k3", max_concurrency=1).with_thinking("low") as kimi:
        info = kimi.model_info
        print(f"{info.name}: a window of {info.context_window:,} tokens, efforts {', '.join(info.efforts)}")
        try:
            kimi.with_thinking("off")
        except InvalidRequestError as error:
            print("refused:", error)

        text = await kimi.files.extract(REPORT, filename="report.txt")
        agent = Agent(kimi, always_included_messages=[Message.system(text)], resume_interrupted=True)
        agent.on(RequestRetried, lambda event: print(f"attempt {event.attempt} failed: {event.error}"))
        print("tokens:", await kimi.estimate_tokens(await agent.get_prompt()))
        print("answer:", await agent.chat_round_str("Which is warmer?", max_completion_tokens=2000))
        for file in await kimi.files.list():
            await kimi.files.delete(file.id)


if __name__ == "__main__":
    asyncio.run(main())
