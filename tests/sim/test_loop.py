import asyncio
from contextvars import copy_context

import pytest

from p2ptrain.simulation.loop import NODE, Deadlock, VirtualLoop, run


def on(node: str, work) -> asyncio.Task:  # type: ignore[no-untyped-def]
    context = copy_context()
    context.run(NODE.set, node)
    return asyncio.get_running_loop().create_task(work, context=context)


async def tick(seen: list[float], seconds: float = 1.0) -> None:
    try:
        while True:
            await asyncio.sleep(seconds)
            seen.append(asyncio.get_running_loop().time())
    finally:
        seen.append(-1.0)


def loop() -> VirtualLoop:
    found = asyncio.get_running_loop()
    assert isinstance(found, VirtualLoop)
    return found


async def test_a_year_passes_at_once() -> None:
    await asyncio.sleep(365 * 86400.0)
    assert loop().time() >= 365 * 86400.0


async def test_a_paused_node_stands_still_with_all_its_tasks_and_timers_and_goes_on() -> None:
    mine, others = [], []  # type: ignore[var-annotated]
    on("a", tick(mine))
    on("b", tick(others))
    await asyncio.sleep(2.5)
    loop().pause("a")
    await asyncio.sleep(3)
    assert mine == [1.0, 2.0]
    assert others == [1.0, 2.0, 3.0, 4.0, 5.0]
    loop().resume("a")
    await asyncio.sleep(1.2)
    assert mine == [1.0, 2.0, 5.5, 6.5]


async def test_a_killed_node_says_no_goodbye_until_the_world_is_cleared() -> None:
    seen: list[float] = []
    task = on("a", tick(seen))
    await asyncio.sleep(1.5)
    loop().pause("a")
    task.cancel()
    await asyncio.sleep(10)
    assert seen == [1.0]
    assert task in loop().release()
    await asyncio.gather(task, return_exceptions=True)
    assert seen[-1] == -1.0


async def test_what_is_due_together_fires_in_the_order_in_which_it_was_set() -> None:
    order: list[int] = []
    for number in range(100):
        loop().call_at(5.0, order.append, number)
    await asyncio.sleep(6)
    assert order == list(range(100))


async def test_sets_of_tasks_iterate_in_the_order_of_their_making() -> None:
    tasks = {on("a", asyncio.sleep(1)) for _ in range(50)}
    assert [hash(task) for task in tasks] == sorted(hash(task) for task in tasks)
    await asyncio.wait(tasks)


async def test_threads_are_refused() -> None:
    with pytest.raises(RuntimeError, match="threads"):
        await asyncio.to_thread(print)


def test_nothing_scheduled_is_a_deadlock_that_names_who_waits() -> None:
    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        await on("node-7", forever())

    with pytest.raises(Deadlock, match=r"node-7: .*forever at .*test_loop.py:\d+"):
        run(main())
