"""Tables of numbers to learn from: scikit-learn's own, and a person's CSV or npz file."""

import csv
import importlib.util
import zipfile
from pathlib import Path

import numpy as np

from p2ptrain.errors import ConfigError

MAX_BYTES = 1 << 28
MAX_VALUE = 1e30

Table = tuple[np.ndarray, np.ndarray]
"""Features (n, d) and targets (n,), both float64 and finite."""


def bundled(name: str, skip_rows: int = 0) -> Table:
    """A file of scikit-learn's `datasets/data`; its last column is the target."""
    # The file is read as it lies there: importing sklearn.datasets costs 40 MB and two seconds on every node.
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    table = np.loadtxt(Path(spec.origin).parent / "datasets" / "data" / name, delimiter=",", skiprows=skip_rows)
    return table[:, :-1], table[:, -1]


def read(path: Path, target: str | None) -> Table:
    """`target` names the column to learn; None: a CSV's last, and `y` of an npz file whose features are `x`.

    Raises `ConfigError` that names the file, and the line where it is one."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES >> 20} MiB")
        features, targets = _read_npz(path, target) if path.suffix == ".npz" else _read_csv(path, target)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    for what, values in (("features", features), ("targets", targets)):
        usable = np.abs(values) < MAX_VALUE  # NaN is not
        if not usable.all():
            row, *_ = np.argwhere(~usable)[0]
            raise ConfigError(f"{path}: {what} of example {row} are not finite, or huge; leave it out or mend it")
    return features, targets


def _read_npz(path: Path, target: str | None) -> Table:
    wanted = ("x", target or "y")
    try:
        with path.open("rb") as file:  # numpy leaves its own open when the content is no archive
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                raise ConfigError(f"{path}: one array without a name; save features and targets with numpy.savez")
            found = {name.lower(): name for name in arrays.files}
            missing = [name for name in wanted if name.lower() not in found]
            if missing:
                raise ConfigError(f"{path}: no array {missing[0]!r}; it has {', '.join(arrays.files) or 'none'}")
            features, targets = (np.asarray(arrays[found[name.lower()]]) for name in wanted)
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ConfigError(f"{path}: not an npz file of plain numbers: {str(error).splitlines()[0]}") from None
    for name, values in zip(wanted, (features, targets), strict=True):
        if values.dtype.kind not in "biuf":
            raise ConfigError(f"{path}: array {name!r} holds {values.dtype}, not numbers")
    if features.ndim != 2 or features.size == 0 or targets.shape not in ((len(features),), (len(features), 1)):
        shapes = f"{tuple(features.shape)} and {tuple(targets.shape)}"
        raise ConfigError(f"{path}: features must be (n, d) and targets (n,), with n and d above zero, not {shapes}")
    return features.astype(np.float64), targets.astype(np.float64).reshape(-1)


def _read_csv(path: Path, target: str | None) -> Table:
    """The first line may name the columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: not a CSV file: {error}") from None
    header = [cell.strip() for cell in rows.pop(0)[1]] if rows and not any(map(_is_number, rows[0][1])) else None
    column = _column(path, header, target)
    width = len(header or (rows[0][1] if rows else ()))
    if not rows or width < 2:
        raise ConfigError(f"{path}: needs at least two columns and one line of numbers")
    for number, row in rows:
        if len(row) != width:
            raise ConfigError(f"{path}, line {number}: {len(row)} columns where there should be {width}")
    try:
        values = np.array([row for _, row in rows], np.float64)
    except ValueError:
        raise ConfigError(_first_text(path, header, rows)) from None
    return np.delete(values, column, axis=1), values[:, column]


def _column(path: Path, header: list[str] | None, target: str | None) -> int:
    if target is None:
        return -1
    if header is None:
        raise ConfigError(f"{path}: its first line names no columns, so there is no {target!r}; leave target out")
    if header.count(target) != 1:
        problem = "more than one column is" if target in header else "no column is"
        raise ConfigError(f"{path}: {problem} named {target!r}; there are {', '.join(header)}")
    return header.index(target)


def _first_text(path: Path, header: list[str] | None, rows: list[tuple[int, list[str]]]) -> str:
    number, place, cell = next(
        (number, place, cell) for number, row in rows for place, cell in enumerate(row) if not _is_number(cell)
    )
    name = header[place] if header else str(place + 1)
    what = "is empty" if not cell.strip() else f"is {cell[:40]!r}, not a number"
    return f"{path}, line {number}: column {name} {what}; encode text as numbers, and fill gaps in, first"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
