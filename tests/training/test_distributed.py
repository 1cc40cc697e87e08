"""Starting a process group: the device is chosen as everywhere else."""

from __future__ import annotations

import pytest
import torch

from rifenet.training.distributed import launch


def test_a_device_that_is_not_there_is_refused_as_everywhere_else() -> None:
    if torch.backends.mps.is_available():
        pytest.skip("This machine has every device that could be missing.")
    with pytest.raises(ValueError, match=r"Expected a device of this machine .* but got 'mps'"):
        launch("mps")


def test_the_cpu_is_taken_where_asked_for() -> None:
    assert launch("cpu", precision="auto").device == torch.device("cpu")
