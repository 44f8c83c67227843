import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> None:
    """More threads make such small tensors slower, and other tests run beside these."""
    torch.set_num_threads(1)
