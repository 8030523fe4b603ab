"""Precision, accumulation, phases and the rest, each alone; test_exactness.py has them together."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kit import run
from test_end_to_end import options_of

from vsr.config import load_options
from vsr.engine.train import train
from vsr.models.weights import read_weights

TWO = "train.accumulate=2"


def weights(root: Path, name: str, step: int) -> dict[str, torch.Tensor]:
    return read_weights(root / "experiments" / name / "models" / f"net_g_{step}.pth", "params")


PLAIN = ["train.optim_g={type: SGD, lr: 0.1}", "train.scheduler=null", "train.ema_decay=0", "network_g.dropout=0.0"]


def test_accumulated_batches_make_the_step_of_one_large_batch(tiny: Path, tmp_path: Path) -> None:
    one = [*PLAIN, "train.total_iter=2", "datasets.train.batch_size_per_gpu=4"]
    two = [*PLAIN, "train.total_iter=2", "datasets.train.batch_size_per_gpu=2", TWO]
    train(options_of(tiny, *one, name="one"))
    train(options_of(tiny, *two, name="two"))
    other = weights(tmp_path, "two", 2)
    for name, value in weights(tmp_path, "one", 2).items():
        torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-6)


def test_frozen_parts_stay_to_the_bit_and_train_from_the_step_named(tiny: Path, tmp_path: Path) -> None:
    phase = [*PLAIN, "train.freeze={except: last, until: 3}", "logger.save_checkpoint_freq=1", "logger.keep_last=9"]
    train(options_of(tiny, *phase, "train.total_iter=3", name="phases"))
    torch.manual_seed(3)
    start = {name: value.clone() for name, value in initial(tiny).items()}
    after = {step: weights(tmp_path, "phases", step) for step in (1, 2, 3)}
    for step in (1, 2):
        assert torch.equal(after[step]["first.weight"], start["first.weight"])
        assert not torch.equal(after[step]["last.weight"], start["last.weight"])
    assert not torch.equal(after[3]["first.weight"], start["first.weight"])


def initial(tiny: Path) -> dict[str, Any]:
    from vsr.models.weights import build_network

    options = load_options(tiny)
    torch.manual_seed(options.manual_seed)
    return build_network(options.network_g.as_option()).state_dict()


@pytest.mark.slow
def test_a_phase_of_two_processes_leaves_the_weights_of_one(tiny: Path, tmp_path: Path) -> None:
    # The wrapper that exchanges gradients is built anew when the phase ends, at step 3.
    common = [*PLAIN, "train.freeze={parts: [first], until: 3}", "train.total_iter=4", "val.val_freq=4"]
    train(options_of(tiny, *common, "datasets.train.batch_size_per_gpu=4", name="one"))
    arguments = [*common, "datasets.train.batch_size_per_gpu=2", "name=two"]
    status, output = run("train.py", "-opt", str(tiny), "--set", *arguments, world=2)
    assert status == 0, output
    other = weights(tmp_path, "two", 4)
    for name, value in weights(tmp_path, "one", 4).items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_what_single_precision_learns(tiny: Path, tmp_path: Path, precision: str) -> None:
    common = ["network_g.dropout=0.0", "train.ema_decay=0"]
    train(options_of(tiny, *common, name="single"))
    train(options_of(tiny, *common, f"train.precision={precision}", name="half"))
    start, single, half = initial(tiny), weights(tmp_path, "single", 8), weights(tmp_path, "half", 8)
    way = torch.cat([(single[name] - start[name]).flatten() for name in start])
    other = torch.cat([(half[name] - start[name]).flatten() for name in start])
    assert torch.nn.functional.cosine_similarity(way, other, dim=0) > 0.95
    assert not torch.equal(way, other)
    assert all(value.dtype == torch.float32 for value in half.values())


def test_a_network_without_parts_to_recompute_says_so(tiny: Path) -> None:
    clip = [
        "network_g=",
        "network_g={type: ClipNet}",
        "datasets.train.type=VideoRecurrentTrainDataset",
        "datasets.val=",
    ]
    with pytest.raises(ValueError, match="expected false, as ClipNet names no part to recompute"):
        train(options_of(tiny, *clip, "train.checkpoint_activations=true"))


@pytest.mark.slow
def test_a_compiled_network_trains_as_the_plain_one(tiny: Path, tmp_path: Path) -> None:
    common = ["network_g.dropout=0.0", "train.total_iter=2", "val.val_freq=2"]
    train(options_of(tiny, *common, name="plain"))
    train(options_of(tiny, *common, "train.compile=true", name="compiled"))
    other = weights(tmp_path, "compiled", 2)
    for name, value in weights(tmp_path, "plain", 2).items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)
