"""The compiled loops: equal to torch operations, loaded late, fine without a folder to cache in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from p2ptrain import codecs
from p2ptrain.codecs import Codec, _kernels

ROOT = Path(codecs.__file__).parents[2]
SIZES = [0, 1, 2, 64, 65, 255, 5000]


def vectors(size: int) -> list[Tensor]:
    normal = torch.randn(size, generator=torch.Generator().manual_seed(size))
    spread = normal * torch.logspace(-38, 37, size)
    return [normal, spread, torch.zeros(size), normal.round()]


def results(codec: Codec, own: Tensor, other: Tensor) -> list[Tensor | bytes]:
    """Everything a codec can make of two vectors."""
    sent = codec.encode(own, seed=9)
    received = codec.encode(other, seed=9, like=sent)
    added, mixed = own.clone(), torch.empty_like(own)
    codec.add(received, added, 0.3)
    codec.mix(own, sent, received, 0.3, mixed)
    return [bytes(sent.payload), bytes(received.payload), codec.decode(sent).clone(), added, mixed]


@pytest.mark.parametrize("size", SIZES)
def test_torch_operations_give_the_same_bits(codec: Codec, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [(own, own.flip(0)) for own in vectors(size)]
    compiled = [results(codec, *case) for case in cases]
    monkeypatch.setattr(_kernels, "load", lambda family: None)
    for case, expected in zip(cases, compiled, strict=True):
        for got, want in zip(results(codec, *case), expected, strict=True):
            assert got == want if isinstance(want, bytes) else torch.equal(got, want)


@pytest.mark.usefixtures("no_numba")
def test_not_finite_is_refused_without_numba(codec: Codec) -> None:
    with pytest.raises(ValueError, match="NaN or Inf"):
        codec.encode(torch.tensor([1.0, float("nan"), 2.0]))


def test_other_dtypes_are_mixed_in_torch(codec: Codec) -> None:
    own, out = torch.randn(300, dtype=torch.float64), torch.empty(300, dtype=torch.float64)
    sent = codec.encode(own)
    received = codec.encode(-own, like=sent)
    codec.mix(own, sent, received, 0.5, out)
    expected = own + 0.5 * (codec.decode(received) - codec.decode(sent)).double()
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


def run(code: str, root: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_numba_is_imported_late() -> None:
    out = run(
        "import sys; from p2ptrain import codecs; made = [codecs.make(name) for name in codecs.names()];"
        "print('numba' in sys.modules); codecs.make('topk').warm(); print('numba' in sys.modules)"
    )
    assert out.split() == ["False", "True"]


def test_small_vectors_do_not_load_numba_but_use_what_is_loaded() -> None:
    out = run(
        "import sys, torch; from p2ptrain import codecs; from p2ptrain.codecs._kernels import SMALL, compiled;"
        "codec = codecs.make('int8'); codec.warm(SMALL - 1); codec.decode(codec.encode(torch.ones(SMALL - 1)));"
        "print('numba' in sys.modules); codec.encode(torch.ones(SMALL)); print('numba' in sys.modules);"
        "print(compiled('int8', 1) is not None, compiled('int4', 1) is not None)"
    )
    assert out.split() == ["False", "True", "True", "False"]


def test_numba_that_cannot_be_imported_is_done_without() -> None:
    out = run(
        "import sys; sys.modules['numba'] = None; import torch; from p2ptrain import codecs;"
        "codec = codecs.make('int8'); codec.warm(); print(codec.decode(codec.encode(torch.ones(3))).tolist())"
    )
    assert out.strip() == "[1.0, 1.0, 1.0]"


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file where the cache folder would be stops root as well, whom permissions do not."""
    shutil.copytree(ROOT / "p2ptrain", tmp_path / "p2ptrain", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "p2ptrain/codecs/_kernels/__pycache__").touch()
    nowhere = str(tmp_path / "p2ptrain/codecs/int8.py/x")
    out = run(
        "from p2ptrain.codecs import _kernels; print(bool(_kernels.load('sparse')))",
        tmp_path,
        HOME=nowhere,
        XDG_CACHE_HOME=nowhere,
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert out.strip() == "True"


def test_processes_that_compile_at_once(tmp_path: Path) -> None:
    code = "from p2ptrain.codecs import _kernels; print(bool(_kernels.load('sparse')))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=100)[0].strip() for process in both] == ["True", "True"]
    assert list(tmp_path.rglob("*.nbi"))
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path)).strip() == "True"
