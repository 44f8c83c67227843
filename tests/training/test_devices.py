import pytest
import torch

from p2ptrain.errors import ConfigError
from p2ptrain.training import devices


def test_picks_what_there_is() -> None:
    assert devices.pick("cpu") == torch.device("cpu")
    assert devices.pick().type == devices.available()[0]


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", ""])
def test_names_what_this_machine_has(name: str) -> None:
    with pytest.raises(ConfigError, match=r"this machine has .*cpu"):
        devices.pick(name)


def test_unavailable_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no device 'cuda' here"):
        devices.pick("cuda")


def test_speeds_are_relative_to_the_fastest() -> None:
    assert devices.relative_speeds(["rtx3060", "rtx3090"]) == [0.4, 1.0]
    assert devices.relative_speeds(["this-machine"] * 2) == [1.0, 1.0]
    assert devices.relative_speeds(["this-machine", "laptop-cpu", "rtx3060"]) == [1.0, 0.0375, 1.0]
    assert devices.relative_speeds([]) == []
    assert all(0 < speed <= 1 for speed in devices.relative_speeds(list(devices.PROFILES)))


def test_profile_names_are_checked() -> None:
    assert devices.check_profile("h100") == "h100"
    with pytest.raises(ValueError, match="laptop-cpu"):
        devices.check_profile("abacus")
