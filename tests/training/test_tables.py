"""A person's own table, and everything that can be wrong with it."""

from pathlib import Path

import numpy as np
import pytest

from p2ptrain.errors import ConfigError
from p2ptrain.training import tables


def written(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("1,2,3\n4,5,6\n", None),
        ("a,b,c\n1,2,3\n4,5,6\n", None),
        ("a,b,c\n1,2,3\n4,5,6\n", "c"),
        ("c,a,b\n3,1,2\n6,4,5\n", "c"),
        ("\ufeffc, a ,b\r\n3, 1,2\r\n\r\n6,4 ,5", "c"),
        ('"a","b","c"\n"1","2","3"\n4e0,5.0,6\n', None),
    ],
)
def test_a_csv_has_features_and_a_target(tmp_path: Path, text: str, target: str | None) -> None:
    features, targets = tables.read(written(tmp_path, text), target)
    assert features.tolist() == [[1, 2], [4, 5]]
    assert targets.tolist() == [3, 6]


@pytest.mark.parametrize(
    ("text", "target", "reason"),
    [
        ("", None, "at least two columns and one line of numbers"),
        ("a,b\n", None, "at least two columns and one line"),
        ("1\n2\n", None, "at least two columns"),
        ("1,2\n3\n", None, r"line 2: 1 columns where there should be 2"),
        ("a,b\n1,2,3\n", None, "line 2: 3 columns where there should be 2"),
        ("a,b\n1,2\n\n3,red\n", None, "line 4: column b is 'red', not a number; encode text"),
        ("1,2\nblue,4\n", None, "line 2: column 1 is 'blue', not a number"),
        ("a,b\n1,\n", None, "line 2: column b is empty"),
        ("a,b\n1,2\n", "c", "no column is named 'c'; there are a, b"),
        ("a,a\n1,2\n", "a", "more than one column is named 'a'"),
        ("1,2\n3,4\n", "c", "names no columns, so there is no 'c'"),
        ("1,2\n3,nan\n", None, "targets of example 1 are not finite"),
        ("1,2\ninf,4\n", None, "features of example 1 are not finite"),
        ("1,2\n1e200,4\n", None, "or huge"),
    ],
)
def test_a_csv_that_will_not_do(tmp_path: Path, text: str, target: str | None, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refusal:
        tables.read(written(tmp_path, text), target)
    assert "\n" not in str(refusal.value)
    assert "table.csv" in str(refusal.value)


def test_files_that_are_not_there_or_no_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.csv: No such file"):
        tables.read(tmp_path / "none.csv", None)
    with pytest.raises(ConfigError, match="cannot read"):
        tables.read(tmp_path, None)
    (tmp_path / "image.csv").write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError, match="not a CSV file"):
        tables.read(tmp_path / "image.csv", None)
    monkeypatch.setattr(tables, "MAX_BYTES", 100)
    with pytest.raises(ConfigError, match="larger than"):
        tables.read(tmp_path / "image.csv", None)


def test_an_npz_has_x_and_y(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    np.savez(path, X=np.array([[1, 2], [4, 5]], np.int8), y=np.array([[3], [6]]), price=[7.0, 8.0])
    features, targets = tables.read(path, None)
    assert (features.dtype, features.tolist(), targets.tolist()) == (np.float64, [[1, 2], [4, 5]], [3, 6])
    assert tables.read(path, "price")[1].tolist() == [7, 8]


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": np.zeros((3, 2))}, "no array 'y'; it has x"),
        ({"a": np.zeros(3), "y": np.zeros(3)}, "no array 'x'; it has a, y"),
        ({"x": np.zeros(3), "y": np.zeros(3)}, r"not \(3,\) and \(3,\)"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4)}, r"not \(3, 2\) and \(4,\)"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "n and d above zero"),
        ({"x": np.zeros((2, 1)), "y": np.array(["yes", "no"])}, "array 'y' holds <U3, not numbers"),
        ({"x": np.zeros((2, 1)), "y": np.array([1, None], object)}, "not an npz file of plain numbers"),
        ({"x": np.array([[1], [np.nan]]), "y": np.zeros(2)}, "features of example 1 are not finite"),
    ],
)
def test_an_npz_that_will_not_do(tmp_path: Path, arrays: dict[str, np.ndarray], reason: str) -> None:
    path = tmp_path / "table.npz"
    np.savez(path, **arrays)
    with pytest.raises(ConfigError, match=reason) as refusal:
        tables.read(path, None)
    assert "\n" not in str(refusal.value)


def test_what_only_looks_like_an_npz(tmp_path: Path) -> None:
    for number, content in enumerate([b"", b"hello", b"PK\x03\x04 and then nothing"]):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"\.npz"):
            tables.read(path, None)
    np.save(tmp_path / "one.npy", np.zeros(3))
    path = (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ConfigError, match=r"one\.npz"):
        tables.read(path, None)
