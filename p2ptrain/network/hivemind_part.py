"""The part of hivemind that p2ptrain uses, without the rest of it.

`import hivemind` brings its averager, its optimizer and its expert servers: 52 MB and two seconds. We need its DHT: 7
MB.
"""

import importlib
import importlib.util
import logging
import os
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from p2ptrain.errors import ConfigError


def load() -> types.ModuleType:
    """`hivemind.dht.node`, loaded without running `hivemind/__init__.py`.

    Importing a submodule runs its package's `__init__` first, unless the package is in `sys.modules` already. So a
    module goes there that knows where the package lies, and that runs the real `__init__` in itself when somebody
    asks for what only that defines: user code that says `import hivemind` gets the whole of it, later."""
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"hivemind\.")  # also while it runs
    if "hivemind" in sys.modules:
        return importlib.import_module("hivemind.dht.node")
    spec = importlib.util.find_spec("hivemind")
    if spec is None:
        raise ConfigError("hivemind is not installed: pip install hivemind, or switch its DHT off with `dht: false`")
    module = sys.modules["hivemind"] = importlib.util.module_from_spec(spec)
    with _quiet():
        node = importlib.import_module("hivemind.dht.node")
    module.__getattr__ = _Rest(module)  # type: ignore[method-assign]
    return node


class _Rest:
    """Runs `hivemind/__init__.py` at the first access to an attribute that is not there yet (PEP 562)."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module
        self._lock = threading.RLock()
        self._started = False

    def __call__(self, name: str) -> Any:
        if name.startswith("__") and name != "__version__":  # somebody only looks what kind of thing this is
            raise AttributeError(name)
        with self._lock:
            spec = self._module.__spec__
            if not self._started and spec is not None and spec.loader is not None:
                self._started = True
                spec.loader.exec_module(self._module)
        try:
            return self._module.__dict__[name]
        except KeyError:
            raise AttributeError(f"module 'hivemind' has no attribute {name!r}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """hivemind puts a coloured handler on its logger, renames a level for everybody, and warns of its own syntax.

    With HIVEMIND_LOGLEVEL set, its messages are shown as it wants to."""
    if "HIVEMIND_LOGLEVEL" in os.environ:
        yield
        return
    os.environ["HIVEMIND_LOGLEVEL"] = "ERROR"  # read at import, and passed on to p2pd
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        del os.environ["HIVEMIND_LOGLEVEL"]
    logging.addLevelName(logging.WARNING, "WARNING")
    importlib.import_module("hivemind.utils.logging").use_hivemind_log_handler("nowhere")
    logging.getLogger("hivemind").setLevel(logging.CRITICAL)
