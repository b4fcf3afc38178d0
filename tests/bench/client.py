"""A plugin's other way to call a colleague: over REST, with aiohttp's client. Reads counts from stdin, says `done`.

Usage: `client.py URL TOKEN BODY`.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp


async def main() -> None:
    """Call as often as each line asks."""
    url, token, body = sys.argv[1:4]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession(headers=headers) as session:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            for _ in range(int(line)):
                async with session.post(url, data=body) as answer:
                    assert answer.status == 201, answer.status
                    await answer.json()
            sys.stdout.write("done\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
