"""A process that puts numbered records into an outbox and prints each once it is safe, until it is killed."""

import asyncio
import sys
from pathlib import Path

from service.outbox import Outbox


async def main(path: Path) -> None:
    outbox = Outbox(path, max_bytes=50_000_000)
    outbox.start(lambda: None)

    async def client(number: int) -> None:
        for count in range(1_000_000):
            key = f"{number}-{count}"
            await outbox.put("interactions", key, b"x" * 100)
            sys.stdout.write(f"{key}\n")
            sys.stdout.flush()

    await asyncio.gather(*(client(number) for number in range(8)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
