"""What a person is told, for tests to wait for."""

import asyncio

from p2ptrain.telemetry.events import Event, Noted


class Notes:
    """What a person is told, and when."""

    def __init__(self) -> None:
        self.said: list[Noted] = []
        self._news = asyncio.Event()

    def emit(self, event: Event) -> None:
        assert isinstance(event, Noted)
        self.said.append(event)
        self._news.set()

    async def until(self, *words: str, timeout_s: float = 30.0) -> Noted:
        async with asyncio.timeout(timeout_s):
            while True:
                for note in self.said:
                    if all(word in note.message for word in words):
                        return note
                self._news.clear()
                await self._news.wait()
