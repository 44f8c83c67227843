import asyncio
import os
import sys
import threading

import pytest
import torch

from p2ptrain.training import compute
from p2ptrain.training.compute import ThreadCompute

# The suite's event loop is virtual and refuses threads, so these tests bring the real one.


def test_everything_runs_on_one_other_thread_in_order() -> None:
    async def main() -> None:
        worker = ThreadCompute()
        order: list[int] = []

        def work(number: int) -> threading.Thread:
            order.append(number)
            return threading.current_thread()

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(worker.run(lambda n=n: work(n))) for n in range(20)]
        worker.close()
        assert order == list(range(20))
        (thread,) = {task.result() for task in tasks}
        assert thread is not threading.current_thread()

    asyncio.run(main())


def test_errors_reach_the_caller_and_the_thread_goes_on() -> None:
    async def main() -> None:
        worker = ThreadCompute(speed=0.5)
        with pytest.raises(ZeroDivisionError):
            await worker.train(lambda: 1 // 0)
        assert await worker.train(lambda: 7) == 7
        worker.close()

    asyncio.run(main())


def test_only_training_is_slowed_down_and_the_thread_stays_free(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[float] = []

    async def hold(seconds: float) -> None:
        held.append(seconds)
        assert await worker.run(lambda: "free") == "free"

    worker = ThreadCompute(speed=0.25)
    monkeypatch.setattr(compute.asyncio, "sleep", hold)
    monkeypatch.setattr(compute, "_timed", lambda work: (2.0, work()))
    assert asyncio.run(worker.run(lambda: 1)) == 1
    assert held == []
    assert asyncio.run(worker.train(lambda: 2)) == 2
    assert held == [], "how long a step takes is not known before the first"
    assert asyncio.run(worker.train(lambda: 3)) == 3
    assert held == [6.0]
    worker.close()


@pytest.mark.parametrize(
    ("speed", "step_s", "held_s"), [(1.0, 5.0, 3.0), (0.5, 5.0, 3.0), (0.25, 5.0, 6.0), (1.0, 0.0, None)]
)
def test_before_a_step_of_two_seconds_there_is_the_rest_of_what_it_is_told_to_take(
    speed: float, step_s: float, held_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[float] = []

    async def hold(seconds: float) -> None:
        held.append(seconds)

    monkeypatch.setattr(compute.asyncio, "sleep", hold)
    monkeypatch.setattr(compute, "_timed", lambda work: (2.0, work()))  # though to the clock it takes none
    worker = ThreadCompute(speed, step_s=step_s)
    assert asyncio.run(worker.train(lambda: 2)) == 2
    held.clear()  # the first one may come at once
    assert asyncio.run(worker.train(lambda: 2)) == 2
    assert held == ([] if held_s is None else [pytest.approx(held_s, abs=0.2)])
    worker.close()


def test_a_step_in_which_the_process_was_suspended_is_not_made_longer_still(monkeypatch: pytest.MonkeyPatch) -> None:
    held, took = list[float](), iter([1.0, 2.0, 3600.0, 2.0, 2.0])

    async def hold(seconds: float) -> None:
        held.append(seconds)

    monkeypatch.setattr(compute.asyncio, "sleep", hold)
    monkeypatch.setattr(compute, "_timed", lambda work: (next(took), work()))
    worker = ThreadCompute(speed=0.1)
    for _ in range(5):
        asyncio.run(worker.train(lambda: None))
    worker.close()
    assert held == pytest.approx([9.0, 18.0, 9.0 * compute.HELD_UP, 18.0])


def test_the_model_changes_at_the_end_of_a_slow_step_and_then_is_left_alone_until_the_next() -> None:
    """A swap that begins with a step must not meet the update of that very step."""

    async def main() -> float:
        worker, began = ThreadCompute(step_s=0.5), list[float]()
        loop = asyncio.get_running_loop()
        for _ in range(2):
            await worker.train(lambda: began.append(loop.time()))
        worker.close()
        return loop.time() - began[1]

    assert asyncio.run(main()) < 0.25


async def _three_steps(worker: ThreadCompute, pause_s: float) -> float:
    """Seconds from the end of the first to the end of the third, with a pause after the second."""
    await worker.train(lambda: None)
    begun = asyncio.get_running_loop().time()
    await worker.train(lambda: None)
    await asyncio.sleep(pause_s)
    await worker.train(lambda: None)
    return asyncio.get_running_loop().time() - begun


@pytest.mark.parametrize(("pause_s", "least_s"), [(0.0, 1.0), (0.3, 1.0), (0.8, 1.3)])
def test_a_pause_between_steps_is_made_up_for_as_far_as_one_step(pause_s: float, least_s: float) -> None:
    worker = ThreadCompute(step_s=0.5)
    seconds = asyncio.run(_three_steps(worker, pause_s))
    worker.close()
    assert seconds >= least_s - 0.05
    if pause_s == 0.3:
        assert seconds < 1.3, "the pause was not made up for"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_all_but_training_gives_way() -> None:
    worker, priorities = ThreadCompute(), list[int]()

    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def event_loop() -> None:
        compute.give_way()
        helper = threading.Thread(target=lambda: priorities.append(priority()))
        helper.start()
        helper.join()
        priorities.append(asyncio.run(worker.run(priority)))

    before = priority()
    thread = threading.Thread(target=event_loop)
    thread.start()
    thread.join()
    worker.close()
    assert priorities == [before + compute.NICER, before]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has CPUs of threads")
def test_one_cpu_is_left_to_training_and_no_node_is_left_without() -> None:
    worker, found = ThreadCompute(), list[set[int]]()
    everywhere = os.sched_getaffinity(0)
    some = set(sorted(everywhere)[:2])

    def event_loop() -> None:
        os.sched_setaffinity(threading.get_native_id(), some)
        compute.give_way(never_waits=True)
        found.append(os.sched_getaffinity(threading.get_native_id()))
        compute.give_way(never_waits=True)  # of one CPU nothing is left to others
        found.append(os.sched_getaffinity(threading.get_native_id()))
        found.append(asyncio.run(worker.run(lambda: os.sched_getaffinity(threading.get_native_id()))))

    thread = threading.Thread(target=event_loop)
    thread.start()
    thread.join()
    worker.close()
    first, second, training = found
    assert len(first) == max(1, len(some) - 1)
    assert first < some or len(some) == 1
    assert second == first or len(first) > 1
    assert training == everywhere


def test_threads_are_set_where_the_work_is_done() -> None:
    async def main() -> None:
        worker = ThreadCompute(threads=1)
        assert await worker.run(torch.get_num_threads) == 1
        worker.close()

    asyncio.run(main())


def test_close_finishes_what_has_begun_and_drops_the_rest() -> None:
    async def main() -> None:
        worker = ThreadCompute()
        begun, go = threading.Event(), threading.Event()
        done: list[str] = []

        def first() -> None:
            begun.set()
            go.wait(10)
            done.append("first")

        running = asyncio.ensure_future(worker.run(first))
        waiting = asyncio.ensure_future(worker.run(lambda: done.append("second")))
        await asyncio.get_running_loop().run_in_executor(None, begun.wait, 10)
        # Only `close` can have cancelled the second piece once this returns, as the first one still holds the thread.
        closing = asyncio.get_running_loop().run_in_executor(None, worker.close)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go.set()
        await closing
        await running
        assert done == ["first"]

    asyncio.run(main())
