"""amqtt's broker, with repairs: what they are for is said at each. They go by its private names (0.12)."""

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from amqtt.broker import Broker
from amqtt.errors import BrokerError
from amqtt.session import OutgoingApplicationMessage, Session

if TYPE_CHECKING:
    from _collections_abc import dict_items

QUEUED_MAX = 256
"""Messages; then publishers wait."""

Subscribers = list[tuple[Session, int]]


class SteadyBroker(Broker):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._broadcast_queue = asyncio.Queue(QUEUED_MAX)
        self._subscriptions = _Snapshots()

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        """amqtt does this for each newcomer with all that others have subscribed to."""
        subscribers = self._subscriptions.get(subscription[0], [])
        if any(each.client_id == session.client_id for each, _ in subscribers):
            await super()._publish_retained_messages_for_subscription(subscription, session)

    def forget_empty_filters(self) -> None:
        """amqtt keeps those that their last subscriber has unsubscribed from."""
        for name in [name for name, subscribers in self._subscriptions.items() if not subscribers]:
            del self._subscriptions[name]

    async def until_handed_out(self) -> None:
        """Until whoever is there has acknowledged what came before."""
        await self._broadcast_queue.join()
        if self._tasks_queue:
            await asyncio.wait(self._tasks_queue)

    async def _run_broadcast(self, running_tasks: deque[asyncio.Task[OutgoingApplicationMessage]]) -> None:
        await super()._run_broadcast(running_tasks)
        self._broadcast_queue.task_done()

    async def until_broken(self) -> None:
        """Waits while it runs; raises when one of the tasks that it needs has ended."""
        tasks = [task for task in (self._broadcast_task, self._session_monitor_task) if task]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise BrokerError("it has stopped")


class _Snapshots(dict[str, Subscribers]):
    """Iteration goes over what is there when it begins: amqtt awaits in its loops, meanwhile clients come and go, and
    the message that is being handed out would be lost."""

    def items(self) -> "dict_items[str, Subscribers]":
        return {name: list(subscribers) for name, subscribers in super().items()}.items()

    def __iter__(self) -> Iterator[str]:
        return iter(list(super().__iter__()))
