"""One byte per evaluation: what applying and replaying bytes costs, how large the log is, how fast peers evaluate.

    python -m benchmarks.onebyte [--json FILE] [--size N] [--repeats N] [--replay N]

One thread. Times of applying are per parameter and byte; `x memcpy` is the time of one byte over that of copying the
integer master once, in the same round. The log is that of 16 peers over 20 000 rounds, signed, on a real disk. An
evaluation is both losses of one batch of digits, and what the master needs for it. Memory is the peak of a process, or
of torch's allocator on a GPU, above what it had before the model was made: for losses alone, for one-byte training of
all and of the last two layers' parameters, and for plain training, all with batches of eight windows.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch

from benchmarks.common import arguments, measure, medians, ratio_to, table, write_json
from p2ptrain.network.identity import Identity
from p2ptrain.strategies.spsa.arithmetic.lattice import Lattice, Steps
from p2ptrain.strategies.spsa.arithmetic.noise import Evaluation
from p2ptrain.strategies.spsa.arithmetic.rule import Rule, key_of
from p2ptrain.strategies.spsa.arithmetic.selection import of_parameters
from p2ptrain.strategies.spsa.arithmetic.working import Working
from p2ptrain.strategies.spsa.ledger.batch import Batch, Run
from p2ptrain.strategies.spsa.ledger.book import Book
from p2ptrain.strategies.spsa.ledger.log import Log
from p2ptrain.strategies.spsa.ledger.master import Master
from p2ptrain.strategies.spsa.ledger.replica import Credentials, Replica
from p2ptrain.training.folder import Folder
from p2ptrain.training.replica import Replica as Flat
from p2ptrain.training.tasks.charlm import CharLM
from p2ptrain.training.tasks.digits import Digits
from p2ptrain.training.trainer import Trainer

REQUIRED_NS = 1.5
LOG_BYTES_MAX = 2_000_000
PEERS, ROUNDS, SIGNED_TOGETHER = 16, 20_000, 32
APPLIED = (1, 4, 16, 64)
RULE = Rule(lr=5e-4)


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(repeats=5)
    parser.add_argument("--size", type=int, default=25_000_000, help="parameters (default 25 million)")
    parser.add_argument("--replay", type=int, default=256, help="bytes of the log that is replayed (default 256)")
    parser.add_argument("--model", default="25M", help="size of the charlm whose memory is measured (default 25M)")
    parser.add_argument("--device", default="cpu", help="where it is (default cpu)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = applying(options.size, options.replay, options.repeats)
    columns = ("case", "bytes", "seconds", "ns / parameter / byte", "x memcpy per byte")
    table(f"{options.size} parameters, one thread", columns, [tuple(row.values())[: len(columns)] for row in rows])
    logged = logging()
    table(
        f"Log of {PEERS} peers, {ROUNDS} rounds, {SIGNED_TOGETHER} signed together",
        list(logged),
        [tuple(logged.values())],
    )
    evaluated = evaluating()
    table("Digits, batch of 32", list(evaluated), [tuple(evaluated.values())])
    memory = remembering(options.model, options.device)
    memory = remembering(options.model, options.device)
    title = f"charlm {options.model} on {options.device}, each in a process of its own"
    table(title, list(memory[0]), [tuple(row.values()) for row in memory])
    worst = max(row["ns"] for row in rows if row["required"])
    fine = worst <= REQUIRED_NS and logged["bytes on disk"] < LOG_BYTES_MAX
    print(
        f"apply and replay: at most {worst:.2f} ns per parameter and byte, required {REQUIRED_NS}; log "
        f"{logged['bytes on disk'] / 1e6:.2f} MB, required 2: {'ok' if fine else 'MISSED'}"
    )
    write_json(
        options.json, {"size": options.size, "applying": rows, "log": logged, "digits": evaluated, "memory": memory}
    )


def applying(size: int, replayed: int, repeats: int) -> list[dict[str, Any]]:
    identity = RULE.identify("benchmark", b"", b"")
    start = Lattice(key_of(identity), torch.zeros(size, dtype=torch.int64))
    copy, weights = torch.empty_like(start.values), torch.empty(size)
    counts = {f"apply {count}": count for count in APPLIED} | {"replay": replayed}
    cases: dict[str, Callable[[], object]] = {"memcpy": lambda: copy.copy_(start.values)}
    cases |= {name: follower(start, identity, count) for name, count in counts.items()}
    cases["perturbed weights"] = lambda: start.perturbed(Evaluation(1, 2, 3), 1 << 30, weights)
    cases["digest"] = start.digest
    seconds = measure(cases, repeats)
    typical = medians(seconds)
    return [
        {
            "case": name,
            "bytes": counts.get(name),
            "seconds": typical[name],
            "ns": 1e9 * typical[name] / size / counts.get(name, 1),
            "x memcpy": 1 / ratio_to(seconds["memcpy"], seconds[name]) / counts.get(name, 1),
            "required": name in counts,
        }
        for name in cases
    ]


def follower(start: Lattice, identity: bytes, count: int) -> Callable[[], int]:
    """Settles a master that is `count` bytes behind its book, from the set of bytes to the last integer."""
    book = Book(RULE, identity)
    for slot in range(min(PEERS, count)):
        said = [bytes([1 + (7 * slot + number) % 100]) for number in range(-(-count // PEERS))]
        book.put(Batch(slot, tuple(Run(number, 0, each, RULE.exponent) for number, each in enumerate(said))))
    return lambda: Master(start, book).settle()


def logging() -> dict[str, Any]:
    """Real signatures, on a real disk."""
    rng = np.random.default_rng(0)
    identity = RULE.identify("benchmark", b"", b"")
    keys = [Identity.ephemeral() for _ in range(PEERS)]
    said = rng.integers(0, 128, (PEERS, ROUNDS), np.uint8)
    with TemporaryDirectory() as folder:
        log = Log(Folder(Path(folder)), identity)
        for start in range(0, ROUNDS, SIGNED_TOGETHER):
            numbers = range(start, min(start + SIGNED_TOGETHER, ROUNDS))
            for slot, key in enumerate(keys):
                runs = tuple(Run(number, 0, said[slot, number].tobytes(), RULE.exponent) for number in numbers)
                log.add(Batch(slot, runs).sign(identity, key.sign))
            log.flush()
        size = sum(os.path.getsize(path) for path in Path(folder).iterdir())
        begin = time.perf_counter()
        again = Log(Folder(Path(folder)), identity)
        again.load()
        loaded_s = time.perf_counter() - begin
        begin = time.perf_counter()
        book = Book(RULE, identity)
        for batch in again.batches.values():
            book.put(batch)
        put_s = time.perf_counter() - begin
    return {
        "evaluations": PEERS * ROUNDS,
        "bytes on disk": size,
        "bytes / evaluation": size / (PEERS * ROUNDS),
        "seconds to load": loaded_s,
        "seconds to put in a book": put_s,
    }


def evaluating(num_rounds: int = 500) -> dict[str, Any]:
    """One peer alone: evaluate, sign and write every 32 rounds, settle after each."""
    task = Digits()
    flat = Flat(task.model(0))
    selection = of_parameters(flat.module)
    start = selection.gather(flat.flat)
    batch = task.batch(np.arange(1000), np.random.default_rng(0))
    identity = RULE.identify("benchmark", flat.fingerprint, b"")
    key = Identity.ephemeral()

    @torch.no_grad()
    def loss_at(weights: torch.Tensor) -> float:
        selection.scatter(weights, flat.flat)
        return task.loss(flat.module, batch).item()

    with TemporaryDirectory() as folder:
        credentials = Credentials(0, key.sign, Identity.verify)
        lattice = Lattice.of(key_of(identity), start)
        replica = Replica(RULE, identity, lattice, Folder(Path(folder)), credentials, {0: key.public_key})
        out, times, before = torch.empty_like(start), [], loss_at(start)
        for number in range(num_rounds):
            begin = time.perf_counter()
            replica.advance()
            replica.evaluate(loss_at, out)
            if number % SIGNED_TOGETHER == SIGNED_TOGETHER - 1:
                replica.publish()
            replica.settle()
            times.append(time.perf_counter() - begin)
        lattice.weights(out)
    return {
        "parameters": selection.size,
        "evaluations / s": 1 / statistics.mean(times),
        "loss before": before,
        "loss after": loss_at(out),
    }


def remembering(size: str, device: str) -> list[dict[str, Any]]:
    """Each case in a process that has done nothing else."""
    spawn = multiprocessing.get_context("spawn")
    rows: list[dict[str, Any]] = []
    for case in ("inference", "one byte, all", "one byte, last two layers", "AdamW"):
        with spawn.Pool(1) as pool:
            numbers, peak = pool.apply(peak_of, (case, size, device))
        beyond = peak - rows[0]["peak bytes"] if rows else 0
        rows.append(
            {
                "case": case,
                "peak bytes": peak,
                "x weights": peak / (4 * numbers),
                "beyond inference, x weights": beyond / (4 * numbers),
            }
        )
    return rows


def peak_of(case: str, size: str, device: str) -> tuple[int, int]:
    """Parameters, and the most bytes that anything took at once."""
    torch.set_num_threads(1)
    task = CharLM.model_validate({"size": size, "max_bytes": 1 << 20})
    task.batch(np.arange(8), np.random.default_rng(0))
    tiny = Lattice.of((1, 2), torch.zeros(8))  # compiles what all sizes use
    tiny.subtract(Steps(np.array([[0, 0, 0]], np.uint32), np.array([5])))
    tiny.weights(torch.empty(8))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    trainer = Trainer(task, Flat(task.model(0), device), np.arange(64), seed=0, slot=0)
    count = trainer.replica.num_parameters
    if case == "AdamW":
        for _ in range(2):
            trainer.step()
    elif case == "inference":
        trainer.module.eval()
        with torch.no_grad():
            trainer.loss(trainer.batch(0))
    else:
        last = len(cast(Any, trainer.module).blocks) - 2
        selection = of_parameters(trainer.module, "" if case.endswith("all") else rf"^blocks\.({last}|{last + 1})\.")
        flat = trainer.replica.flat
        working = Working(trainer, selection, flat)
        lattice = Lattice.of((1, 2), selection.pick(flat))
        working.begin(lattice)
        for number in range(2):
            working.measure(lattice, Evaluation(number, 0, 0), 1e-3, trainer.batch(number))
            lattice.subtract(Steps(np.array([[number, 0, 0]], np.uint32), np.array([5])))
    if torch.device(device).type == "cuda":
        return count, torch.cuda.max_memory_allocated()
    return count, resident("VmHWM") - before


def resident(name: str) -> int:
    """Bytes, from the kernel."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
