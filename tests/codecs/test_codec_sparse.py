"""topk and randk: which coordinates, the memory, the layouts."""

import struct

import numpy as np
import pytest
import torch
from torch import Tensor

from p2ptrain import codecs
from p2ptrain.codecs import Codec, Packet
from p2ptrain.codecs._random import random_words
from p2ptrain.errors import PeerError

SPARSE = ["topk", "randk"]


def gaussian(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def sent_by(codec: Codec, packet: Packet) -> Tensor:
    """The coordinates of a packet whose values are not zero."""
    return codec.decode(packet).nonzero().flatten()


def test_topk_sends_what_moved_most() -> None:
    codec = codecs.make("topk", ratio=0.1)
    vector, memory = gaussian(1000), gaussian(1000, 1)
    moved, before = (vector - memory).abs(), memory.clone()
    packet = codec.encode(vector, memory=memory)
    indices = sent_by(codec, packet)
    assert indices.tolist() == sorted(moved.topk(100).indices.tolist())
    assert torch.equal(memory[indices], vector[indices])
    kept = torch.ones(1000, dtype=torch.bool)
    kept[indices] = False
    assert torch.equal(memory[kept], before[kept])


@pytest.mark.parametrize("values", ["fp32", "fp16"])
def test_memory_is_what_the_other_end_decodes_and_everything_is_sent_in_the_end(values: str) -> None:
    codec = codecs.make("topk", ratio=0.25, values=values)
    vector, memory, seen = gaussian(400), torch.zeros(400), torch.zeros(400)
    for _ in range(4):
        packet = codec.encode(vector, memory=memory)
        indices = sent_by(codec, packet)
        seen[indices] = codec.decode(packet)[indices]
        assert torch.equal(memory, seen)
    # What is smaller than the rounding of a half may still wait.
    torch.testing.assert_close(seen, vector, rtol=1e-3, atol=1e-3)


def test_ties_go_to_the_lower_index() -> None:
    codec = codecs.make("topk", ratio=0.3)
    vector = torch.tensor([1.0, -1, 1, 2, -1, 1, 1, 1, 1, 1])
    assert sent_by(codec, codec.encode(vector)).tolist() == [0, 1, 3]


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("values", ["fp32", "fp16"])
def test_like_uses_the_same_coordinates(name: str, values: str) -> None:
    codec = codecs.make(name, ratio=0.05, values=values)
    first = codec.encode(gaussian(5000), seed=1)
    memory = torch.zeros(5000)
    second = codec.encode(gaussian(5000, 1), seed=2, memory=memory, like=first)
    assert torch.equal(sent_by(codec, first), sent_by(codec, second))
    assert torch.equal(memory, codec.decode(second))


@pytest.mark.parametrize("name", SPARSE)
def test_like_comes_from_the_network(name: str) -> None:
    codec = codecs.make(name)
    with pytest.raises(PeerError, match="malformed"):
        codec.encode(gaussian(1000), like=Packet(b"junk", 1000))
    with pytest.raises(PeerError, match="malformed"):
        codec.encode(gaussian(1000), like=codec.encode(gaussian(999)))


@pytest.mark.parametrize("name", SPARSE)
def test_different_coordinates_cannot_be_mixed(name: str) -> None:
    codec = codecs.make(name, ratio=0.1)
    own = gaussian(1000)
    sent, received = codec.encode(own, seed=1), codec.encode(gaussian(1000, 1), seed=2)
    with pytest.raises(PeerError, match="different coordinates"):
        codec.mix(own, sent, received, 0.5, torch.empty(1000))


@pytest.mark.parametrize(("name", "gauss"), [("topk", 0.92), ("randk", 0.99)])
def test_errors(name: str, gauss: float) -> None:
    codec, vector = codecs.make(name), gaussian(1 << 18)
    lost = (codec.decode(codec.encode(vector, seed=1)) - vector).square().sum() / vector.square().sum()
    assert float(lost) == pytest.approx(gauss, rel=0.01)


def test_topk_layout() -> None:
    size, codec = 150_000, codecs.make("topk", ratio=0.01, values="fp16")
    vector = gaussian(size)
    packet = codec.encode(vector)
    counts = struct.unpack_from("<3I", packet.payload)
    low = struct.unpack_from("<1500H", packet.payload, 12)
    values = struct.unpack_from("<1500e", packet.payload, 12 + 3000)
    assert sum(counts) == 1500
    pages = [page for page, count in enumerate(counts) for _ in range(count)]
    indices = [page * 65536 + index for page, index in zip(pages, low, strict=True)]
    decoded = torch.zeros(size)
    decoded[indices] = torch.tensor(values)
    assert torch.equal(codec.decode(packet), decoded)


@pytest.mark.parametrize(
    ("indices", "counts"),
    [([3, 3], [2]), ([5, 3], [2]), ([3, 20], [2]), ([3, 5], [1]), ([3, 5], [2**32 - 1])],
    ids=["twice", "descending", "out of range", "count too small", "count too large"],
)
def test_bad_coordinates(indices: list[int], counts: list[int]) -> None:
    codec = codecs.make("topk", ratio=0.1)
    payload = struct.pack("<I2H2f", *counts, *indices, 1.0, 2.0)
    with pytest.raises(PeerError, match="malformed"):
        codec.decode(Packet(payload, 20))


def test_values_that_are_not_finite() -> None:
    with pytest.raises(PeerError, match="not-finite"):
        codecs.make("topk", ratio=0.1).decode(Packet(struct.pack("<I2H2f", 2, 3, 5, 1.0, float("nan")), 20))


def test_randk_layout() -> None:
    """The coordinates, from the docstring alone."""
    size, kept, seed = 1003, 100, 2**64 - 5
    codec, vector = codecs.make("randk", ratio=0.1), gaussian(1003)
    packet = codec.encode(vector, seed=seed)
    assert struct.unpack_from("<Q", packet.payload) == (seed,)
    bounds = [j * size // kept for j in range(kept + 1)]
    words = [word >> 32 for word in philox(seed, kept)]
    indices = [bounds[j] + (words[j] * (bounds[j + 1] - bounds[j]) >> 32) for j in range(kept)]
    assert sent_by(codec, packet).tolist() == indices
    assert struct.unpack_from("<100f", packet.payload, 8) == tuple(vector[indices].tolist())


def test_randk_sends_each_coordinate_equally_often() -> None:
    codec = codecs.make("randk", ratio=0.2)
    times = torch.stack([codec.decode(codec.encode(torch.ones(50), seed=seed)) for seed in range(2000)]).mean(0)
    assert float((times - 0.2).abs().max()) < 5 * (0.2 * 0.8 / 2000) ** 0.5


def test_random_words_are_philox() -> None:
    for seed in (0, 1, 0x0123456789ABCDEF, 2**64 - 1):
        assert random_words(seed, 9).tolist() == philox(seed, 9)
    assert np.array_equal(random_words(2**64 + 3, 4), random_words(3, 4))


def philox(seed: int, count: int) -> list[int]:
    """Philox4x64-10 as the paper has it (Salmon et al. 2011), key (seed, 0), counters from 1."""
    mask, words = 2**64 - 1, []
    for block in range(1, -(-count // 4) + 1):
        counter, key = [block, 0, 0, 0], [seed, 0]
        for _ in range(10):
            one, two = counter[0] * 0xD2E7470EE14C6C93, counter[2] * 0xCA5A826395121157
            counter = [
                two >> 64 ^ counter[1] ^ key[0],
                two & mask,
                one >> 64 ^ counter[3] ^ key[1],
                one & mask,
            ]
            key = [key[0] + 0x9E3779B97F4A7C15 & mask, key[1] + 0xBB67AE8584CAA73B & mask]
        words += counter
    return words[:count]
