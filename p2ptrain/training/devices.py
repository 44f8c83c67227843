"""Where tensors live, and how fast the machines are that a swarm file names."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from p2ptrain.errors import ConfigError


def pick(name: str = "auto") -> torch.device:
    """`cuda`, `cuda:1`, `mps`, `cpu`, or the best there is. Raises `ConfigError` if this machine has no such device."""
    usable = available()
    if name == "auto":
        return torch.device(usable[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}; this machine has {', '.join(usable)}") from None
    missing_card = device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    if device.type not in usable or missing_card:
        raise ConfigError(f"no device {name!r} here; this machine has {', '.join(usable)}")
    return device


def available() -> list[str]:
    """Device types of this machine, best first."""
    found = ["cpu"]
    if torch.backends.mps.is_available():
        found.insert(0, "mps")
    if torch.cuda.is_available():
        found.insert(0, "cuda")
    return found


@dataclass(frozen=True)
class Profile:
    """A kind of machine."""

    speed: float
    """Sustained TFLOP/s of a training step in fp32 or TF32, rounded: only ratios matter.

    0: as fast as the fastest of the swarm."""
    memory_gib: float
    """What a model, its gradients and its optimizer state must fit into."""
    uplink_mbit_s: float
    """Where such machines usually stand: homes 20 to 50, offices and labs 100 to 1000, clusters 10 000."""


PROFILES: dict[str, Profile] = {
    "this-machine": Profile(speed=0, memory_gib=8, uplink_mbit_s=100),
    "raspberry-pi": Profile(speed=0.02, memory_gib=4, uplink_mbit_s=20),
    "laptop-cpu": Profile(speed=0.3, memory_gib=16, uplink_mbit_s=20),
    "desktop-cpu": Profile(speed=0.8, memory_gib=32, uplink_mbit_s=50),
    "macbook-m2": Profile(speed=2, memory_gib=16, uplink_mbit_s=20),
    "rtx3060": Profile(speed=8, memory_gib=12, uplink_mbit_s=50),
    "rtx3090": Profile(speed=20, memory_gib=24, uplink_mbit_s=50),
    "rtx4090": Profile(speed=45, memory_gib=24, uplink_mbit_s=50),
    "a100": Profile(speed=80, memory_gib=80, uplink_mbit_s=10_000),
    "h100": Profile(speed=200, memory_gib=80, uplink_mbit_s=10_000),
}


def check_profile(name: str) -> str:
    """The name itself; raises `ValueError` with the known ones (for pydantic fields)."""
    if name not in PROFILES:
        raise ValueError(f"unknown device profile; choose one of {', '.join(PROFILES)}")
    return name


def relative_speeds(names: Sequence[str]) -> list[float]:
    """Each node's speed in (0, 1], 1 for the fastest of the swarm: that one runs as fast as the real machine can."""
    fastest = max((PROFILES[name].speed for name in names), default=0)
    return [PROFILES[name].speed / fastest if PROFILES[name].speed else 1.0 for name in names]
