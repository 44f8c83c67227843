"""Speed, size and error of the codecs, beside memcpy, torch's casts and hivemind's codecs.

    python -m benchmarks.codec [--json FILE] [--size N] [--repeats N]

One thread. Vectors are processed in chunks, as an exchange does; every speed counts float32 bytes; `x memcpy` is the
speed over that of copying the same chunks in the same round.
"""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import arguments, measure, medians, ratio_to, table, write_json
from p2ptrain import codecs
from p2ptrain.codecs import Codec, Packet

CHUNK = 262144
REQUIRED = {
    "fp16 encode": ("torch fp16 cast", 0.95),
    "int8 encode": ("memcpy", 0.5),
    "int8 mix": ("memcpy", 0.5),
}
CONFIGS: dict[str, dict[str, Any]] = {
    "int8 stochastic": {"name": "int8", "stochastic": True},
    "topk fp16": {"name": "topk", "values": "fp16"},
}
HIVEMIND = ("Float16Compression", "Uniform8BitQuantization", "Quantile8BitQuantization", "BlockwiseQuantization")
COLUMNS = ("codec", "encode GB/s", "x memcpy", "mix GB/s", "x memcpy", "bytes/param", "error Gauss", "error Laplace")
Cases = dict[str, Callable[[], object]]


@dataclass
class Row:
    codec: str
    encode_gbps: float
    encode_ratio: float
    mix_gbps: float | None
    mix_ratio: float | None
    bytes_per_parameter: float
    error_gauss: float | None
    error_laplace: float | None


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", type=int, default=25_000_000, help="elements of the vector (default 25 million)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours = {name: codecs.make(name) for name in codecs.names()}
    ours |= {label: codecs.parse(config) for label, config in CONFIGS.items()}
    seconds, packets = time_ours(ours, options.size, options.repeats)
    rows = [row_of_ours(label, codec, seconds, packets[label], options.size) for label, codec in ours.items()]
    speeds = [
        (name, 4e-9 * options.size / time) for name, time in medians(seconds).items() if name in yardsticks([], [])
    ]
    foreign, notes = hivemind_rows(options.size, max(1, options.repeats // 3))
    table(
        f"{options.size} parameters in chunks of {CHUNK}, one thread",
        COLUMNS,
        [tuple(asdict(r).values()) for r in rows],
    )
    table("Yardsticks", ("operation", "GB/s"), speeds)
    table("hivemind (encode = compress)", COLUMNS, [tuple(asdict(row).values()) for row in foreign])
    print(*notes, sep="\n")
    required = figures(seconds)
    for what, (yardstick, need, got) in required.items():
        print(f"{what}: {got:.2f} of {yardstick}, required {need}: {'ok' if got >= need else 'MISSED'}")
    write_json(
        options.json,
        {
            "size": options.size,
            "codecs": [asdict(row) for row in rows],
            "yardsticks_gbps": dict(speeds),
            "hivemind": [asdict(row) for row in foreign],
            "notes": notes,
            "required": {what: {"of": of, "need": need, "got": got} for what, (of, need, got) in required.items()},
        },
    )


def yardsticks(sources: list[Tensor], targets: list[Tensor]) -> Cases:
    def copy() -> None:
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source)

    def cast(dtype: torch.dtype) -> Callable[[], None]:
        def run() -> None:
            for source in sources:
                source.to(dtype)

        return run

    return {"memcpy": copy, "torch fp16 cast": cast(torch.float16), "torch bf16 cast": cast(torch.bfloat16)}


def time_ours(
    ours: dict[str, Codec], size: int, repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[Packet]]]:
    """Seconds of the yardsticks and of `<label> encode` and `<label> mix`, and each codec's packets."""
    own, out = torch.randn(size).split(CHUNK), torch.zeros(size).split(CHUNK)
    other = torch.randn(size).split(CHUNK)
    cases = yardsticks(list(own), list(out))
    packets = {}
    for label, codec in ours.items():
        codec.warm()
        sent = [codec.encode(chunk, seed=1) for chunk in own]
        received = [codec.encode(chunk, seed=1, like=like) for chunk, like in zip(other, sent, strict=True)]
        cases[f"{label} encode"] = encoder(codec, own)
        cases[f"{label} mix"] = mixer(codec, own, sent, received, out)
        packets[label] = sent
    return measure(cases, repeats), packets


def encoder(codec: Codec, own: tuple[Tensor, ...]) -> Callable[[], None]:
    def run() -> None:
        for chunk in own:
            codec.encode(chunk, seed=1)

    return run


def mixer(
    codec: Codec, own: tuple[Tensor, ...], sent: list[Packet], received: list[Packet], out: tuple[Tensor, ...]
) -> Callable[[], None]:
    def run() -> None:
        for chunk, mine, theirs, target in zip(own, sent, received, out, strict=True):
            codec.mix(chunk, mine, theirs, 0.5, target)

    return run


def row_of_ours(label: str, codec: Codec, seconds: dict[str, list[float]], sent: list[Packet], size: int) -> Row:
    typical, memcpy = medians(seconds), seconds["memcpy"]
    gauss, laplace = (error(sample, codec.decode(codec.encode(sample, seed=1))) for sample in samples())
    return Row(
        codec=label,
        encode_gbps=4e-9 * size / typical[f"{label} encode"],
        encode_ratio=ratio_to(memcpy, seconds[f"{label} encode"]),
        mix_gbps=4e-9 * size / typical[f"{label} mix"],
        mix_ratio=ratio_to(memcpy, seconds[f"{label} mix"]),
        bytes_per_parameter=sum(packet.nbytes for packet in sent) / size,
        error_gauss=gauss,
        error_laplace=laplace,
    )


def samples() -> tuple[Tensor, Tensor]:
    """One chunk of Gaussian and one of Laplace values, the same in every run."""
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(CHUNK, generator=generator) - 0.5
    return torch.randn(CHUNK, generator=generator), -uniform.sign() * torch.log1p(-2 * uniform.abs())


def error(sample: Tensor, decoded: Tensor) -> float:
    """|decoded - x|^2 / |x|^2."""
    return float((decoded.double() - sample.double()).square().sum() / sample.double().square().sum())


def figures(seconds: dict[str, list[float]]) -> dict[str, tuple[str, float, float]]:
    """For each required figure: the yardstick, the ratio needed and the ratio got."""
    return {
        what: (yardstick, need, ratio_to(seconds[yardstick], seconds[what]))
        for what, (yardstick, need) in REQUIRED.items()
    }


def hivemind_rows(size: int, repeats: int) -> tuple[list[Row], list[str]]:
    """hivemind's codecs on the same chunks, and what does not work about them. They have nothing like mixing."""
    try:
        from hivemind import compression
    except ImportError as missing:
        return [], [f"hivemind: not installed ({missing})"]
    own, out = torch.randn(size).split(CHUNK), torch.zeros(size).split(CHUNK)
    rows, notes = [], []
    for name in HIVEMIND:
        try:
            codec = getattr(compression, name)()
            compress(codec, own[0])
        except Exception as failure:
            notes.append(f"hivemind {name}: compress fails: {type(failure).__name__}: {failure}")
            continue
        # One at a time: Quantile8Bit takes minutes for 25 million parameters, so it gets a tenth of them.
        count = max(1, len(own) // 10) if name.startswith("Quantile") else len(own)
        cases = {"memcpy": yardsticks(list(own[:count]), list(out[:count]))["memcpy"]}
        cases[name] = compressor(codec, own[:count])
        seconds = measure(cases, repeats)
        errors, note = hivemind_errors(name, codec)
        notes += note
        rows.append(
            Row(
                codec=name,
                encode_gbps=4e-9 * sum(chunk.numel() for chunk in own[:count]) / medians(seconds)[name],
                encode_ratio=ratio_to(seconds["memcpy"], seconds[name]),
                mix_gbps=None,
                mix_ratio=None,
                bytes_per_parameter=len(compress(codec, own[0]).buffer) / own[0].numel(),
                error_gauss=errors[0],
                error_laplace=errors[1],
            )
        )
    return rows, notes


def compress(codec: Any, vector: Tensor) -> Any:
    """As hivemind's averaging calls it."""
    from hivemind.compression import CompressionInfo

    return codec.compress(vector, CompressionInfo.from_tensor(vector))


def compressor(codec: Any, own: tuple[Tensor, ...]) -> Callable[[], None]:
    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for chunk in own:
                compress(codec, chunk)

    return run


def hivemind_errors(name: str, codec: Any) -> tuple[list[float] | list[None], list[str]]:
    """Errors on the two samples, or a note that says how decoding fails."""
    try:
        return [error(sample, codec.extract(compress(codec, sample))) for sample in samples()], []
    except Exception as failure:
        return [None, None], [f"hivemind {name}: decode fails: {type(failure).__name__}: {failure}"]


if __name__ == "__main__":
    main()
