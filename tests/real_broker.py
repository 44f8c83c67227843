"""A real MQTT broker (amqtt) in a process of its own, on loopback, that can be killed and started again."""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import yaml
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
START_S = 60.0
USER, PASSWORD = "alice", "wonder/land@home"


class RealBroker:
    def __init__(self, folder: Path, *, with_password: bool = False, tls: tuple[Path, Path] | None = None) -> None:
        """`tls` is the certificate's file and its key's."""
        self.port = free_port()
        self._process: asyncio.subprocess.Process | None = None
        self._config, self._log = folder / "broker.yaml", folder / "broker.log"
        listener: dict[str, Any] = {"type": "tcp", "bind": f"127.0.0.1:{self.port}"}
        if tls:
            listener |= {"ssl": True, "certfile": str(tls[0]), "keyfile": str(tls[1])}
        plugins: dict[str, Any] = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
        if with_password:
            hashed = PasswordHash([Argon2Hasher()]).hash(PASSWORD)
            (folder / "passwords").write_text(f"{USER}:{hashed}\n")
            plugins = {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(folder / "passwords")}}
        self._config.write_text(yaml.safe_dump({"listeners": {"default": listener}, "plugins": plugins}))

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Returns when it takes connections."""
        command = (sys.executable, "-m", "amqtt.scripts.broker_script", "-c", str(self._config))
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            assert self._process.returncode is None, self._log.read_text()
            assert time.monotonic() < deadline, "the broker does not start"
            await asyncio.sleep(0.05)

    async def kill(self) -> None:
        if self._process and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()


MakeBroker = Callable[..., RealBroker]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Ear:
    """Hears everything at a broker."""

    def __init__(self) -> None:
        self.heard: list[aiomqtt.Message] = []
        self._news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def listening(self, port: int, **options: Any) -> AsyncIterator["Ear"]:
        async with aiomqtt.Client("127.0.0.1", port, **options) as client:
            await client.subscribe("p2ptrain/#", qos=1)
            task = asyncio.create_task(self._listen(client))
            try:
                yield self
            finally:
                task.cancel()
                await asyncio.wait({task})

    async def _listen(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            self.heard.append(message)
            self._news.set()

    def payloads(self, topic: str) -> list[str]:
        """What was said under topics that end so."""
        return [message.payload.decode() for message in self.heard if str(message.topic).endswith(topic)]

    async def until(self, topic: str, *words: str, count: int = 1, timeout_s: float = 30.0) -> list[str]:
        """Until that many messages under such topics have all these words in them."""

        def found() -> list[str]:
            return [text for text in self.payloads(topic) if all(word in text for word in words)]

        async with asyncio.timeout(timeout_s):
            while len(found()) < count:
                self._news.clear()
                await self._news.wait()
        return found()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[int]:
    """A TCP server on loopback, its port; whatever it is doing at the end is cut off."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await answer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
