"""The table of settings that runs are interrupted with; as a script under torchrun, its rows of two processes."""

import gc
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from test_end_to_end import interrupted, options_of

from vsr.engine.train import train
from vsr.utils import dist

Pair = tuple[tuple[str, str], tuple[str, str]]
Row = dict[str, str]

# What is saved is the state after step 4; the run ends abruptly before step 7 and is continued to step 8.
SETTINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "processes": {"1": (), "2": ()},
    "workers": {"0": (), "2": ("datasets.train.num_worker_per_gpu=2", "datasets.val.num_worker_per_gpu=1")},
    "precision": {name: (f"train.precision={name}",) for name in ("float32", "bfloat16", "float16")},
    "accumulate": {"1": (), "2": ("train.accumulate=2",)},
    "average": {"kept": (), "none": ("train.ema_decay=0",)},
    "freeze": {
        "never": (),
        "ended before the state": ("train.freeze={parts: [first], until: 3}",),
        "ends in the steps that are repeated": ("train.freeze={parts: [first], until: 6}",),
        "interrupted": ("train.freeze={except: [last], until: 8}",),
    },
    "adversary": {
        "none": (),
        "relativistic, R1 now and then": (
            "network_d={type: UNetDiscriminatorSN, num_in_ch: 3, num_feat: 4}",
            "train.optim_d={type: Adam, lr: 1e-3}",
            "train.gan_opt={type: GANLoss, gan_type: vanilla, loss_weight: 0.1}",
            "train.relativistic=true",
            "train.r1_reg_weight=1",
            "train.net_d_reg_every=3",
        ),
        "hinge, network_g learns in every second step": (
            "network_d={type: UNetDiscriminatorSN, num_in_ch: 3, num_feat: 4}",
            "train.optim_d={type: AdamW, lr: 1e-3}",
            "train.gan_opt={type: GANLoss, gan_type: hinge, loss_weight: 0.1}",
            "train.net_d_init_iters=1",
            "train.net_d_iters=2",
        ),
    },
    "batch_augment": {
        "none": (),
        "now and then": (
            "train.batch_augment=[{type: Mixup, prob: 0.5}, {type: CutMix, prob: 0.5}, {type: RGBShuffle, prob: 0.5}]",
        ),
    },
    "degradations": {
        "none": (),
        "random": ("datasets.train.degradations=[{type: Resize, mode: random}, {type: Noise, vary: true}]",),
    },
    "dropout": {"0.1": (), "0": ("network_g.dropout=0.0",)},
    "clip_grad": {"none": (), "norm": ("train.clip_grad={norm: 0.05}",), "value": ("train.clip_grad={value: 1e-3}",)},
    "layout": {"NCHW": (), "NHWC": ("train.channels_last=true",)},
    "activations": {"kept": (), "recomputed": ("train.checkpoint_activations=true",)},
    "optimizer": {
        "Adam": (),
        "SGD": ("train.optim_g={type: SGD, lr: 1e-2, momentum: 0.9}",),
        "AdamW, warm-up": ("train.optim_g={type: AdamW, lr: 1e-3, weight_decay: 0.1}", "train.warmup_iter=6"),
    },
    # 11 samples an epoch: no number of steps of 2, 4 or 8 samples is one; 8 samples: the state lies between two.
    "state": {"within an epoch": (), "between epochs": ("datasets.train.frames=[0, 3]",)},
}


def pairs(row: Mapping[str, str], factors: Iterable[str] = SETTINGS) -> Iterable[Pair]:
    """Return each two values of a row, with the factors that they belong to."""
    return itertools.combinations(((name, row[name]) for name in factors if name in row), 2)


def pairwise(factors: Mapping[str, Sequence[str]]) -> list[Row]:
    """Return rows, each with a value of every factor, so that any two values of two factors meet in one of them.

    A row begins with two values that have not met, and takes of each other factor, the largest first, the value that
    meets most of the row's for the first time; of several such values the one in the fewest rows.
    """
    missing: dict[Pair, None] = {}  # a set with an order
    for one, other in itertools.combinations(factors, 2):
        missing |= dict.fromkeys(
            itertools.product(((one, a) for a in factors[one]), ((other, b) for b in factors[other]))
        )
    rows = []
    while missing:
        row: Row = dict(next(iter(missing)))
        for name in sorted(factors, key=lambda name: -len(factors[name])):
            if name not in row:
                values = factors[name]
                new = {value: sum(pair in missing for pair in pairs({**row, name: value}, factors)) for value in values}
                row[name] = min(values, key=lambda value: (-new[value], sum(old[name] == value for old in rows)))
        rows.append(row)
        for pair in pairs(row, factors):
            missing.pop(pair, None)
    return rows


ROWS = pairwise({name: list(values) for name, values in SETTINGS.items()})


def train_whole_and_in_parts(tiny: Path, row: Row, name: str) -> None:
    """Train as a row says, twice: ``NAME_whole`` in one go, ``NAME_parts`` interrupted and continued."""
    settings = ["val.val_freq=8", *(text for factor, value in row.items() for text in SETTINGS[factor][value])]
    train(options_of(tiny, *settings, name=f"{name}_whole"))
    parts = options_of(tiny, *settings, name=f"{name}_parts")
    interrupted(pytest.MonkeyPatch(), parts, before=7)
    gc.collect()  # the traceback held what a new process would not have
    train(parts)


def main() -> None:
    """Train all rows of two processes with the option file that is named; under torchrun with two processes."""
    torch.set_num_threads(1)
    for number, row in enumerate(ROWS):
        if row["processes"] == "2":
            train_whole_and_in_parts(Path(sys.argv[1]), row, f"row{number}")
    dist.shutdown()


if __name__ == "__main__":
    main()
