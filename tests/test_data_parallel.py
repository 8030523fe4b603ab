"""What several processes compute together, against one process."""

from pathlib import Path

import pytest
import torch
from kit import run
from torch import Tensor

from vsr.config import load_options
from vsr.models.weights import build_network, read_weights


def change_after_one_step(tiny: Path, root: Path, *, world: int, batch: int, reduction: str) -> dict[str, Tensor]:
    """Take one SGD step of rate 1 without dropout: the weights change by the negative gradient."""
    name = f"world{world}_{reduction}"
    overrides = [
        f"name={name}",
        "train.total_iter=1",
        "train.optim_g={type: SGD, lr: 1.0}",
        "train.scheduler=null",
        "network_g.dropout=0.0",
        "train.ema_decay=0",
        f"train.pixel_opt.reduction={reduction}",
        f"datasets.train.batch_size_per_gpu={batch}",
    ]
    status, output = run("train.py", "-opt", str(tiny), "--set", *overrides, world=world)
    assert status == 0, output
    options = load_options(tiny, overrides)
    torch.manual_seed(options.manual_seed)
    before = build_network(options.network_g.as_option()).state_dict()
    after = read_weights(root / "experiments" / name / "models" / "net_g_1.pth")
    return {key: after[key] - before[key] for key in before}


@pytest.mark.slow
@pytest.mark.parametrize(("reduction", "factor"), [("mean", 1.0), ("sum", 0.5)])
def test_two_processes_with_batch_b_against_one_with_batch_2b(
    tiny: Path, tmp_path: Path, reduction: str, factor: float
) -> None:
    # Processes are averaged. So a mean over samples stays what it is, and a sum is that of one process's batch.
    one = change_after_one_step(tiny, tmp_path, world=1, batch=4, reduction=reduction)
    two = change_after_one_step(tiny, tmp_path, world=2, batch=2, reduction=reduction)
    for key, change in one.items():
        assert change.abs().max() > 0
        limit = 1e-6 * max(1.0, float(change.abs().max()))
        torch.testing.assert_close(two[key], factor * change, rtol=1e-5, atol=limit)
