"""Runs another example without a key: `python examples/offline.py examples/1_hello.py`.

A stand-in for Kimi answers, on this machine. It calls functions, and cannot think.
"""

import asyncio
import os
import sys

from kimi_agent.testing import KimiServer


async def main() -> int:
    async with KimiServer() as server:
        environment = {**os.environ, "KIMI_API_KEY": server.api_key, "KIMI_BASE_URL": server.base_url}
        example = await asyncio.create_subprocess_exec(sys.executable, *sys.argv[1:], env=environment)
        return await example.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
