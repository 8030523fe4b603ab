"""Every two settings of a training step, on every kind of network: they train together."""

from pathlib import Path
from typing import Any

import pytest
import torch
from exactness import Row, pairwise
from kit import history, run
from test_adversary import GAN
from test_restoration import make_model

from vsr.models.restoration import RestorationModel
from vsr.ops.build import BuildError, find_compiler

# type, model_type, arguments that make it small, scale, frames (0: images), side of the input, a part to freeze
NETWORKS: dict[str, tuple[str, str, int, int, int, str]] = {
    "EDVR": ("VideoModel", "num_feat: 8, num_frame: 3, deformable_groups: 2, num_extract_block: 1, "
             "num_reconstruct_block: 1", 4, 3, 16, "conv_first"),
    "BasicVSRPlusPlus": ("VideoModel", "mid_channels: 8, num_blocks: 1", 4, 2, 16, "spynet"),
    "MSRResNet": ("ImageModel", "num_feat: 8, num_block: 1", 4, 0, 16, "conv_first"),
    "EDSR": ("ImageModel", "num_feat: 8, num_block: 1", 4, 0, 16, "conv_first"),
    "RCAN": ("ImageModel", "num_feat: 8, num_group: 1, num_block: 1, squeeze_factor: 4, upscale: 2", 2, 0, 16,
             "conv_first"),
    "RRDBNet": ("ImageModel", "num_feat: 8, num_block: 1, num_grow_ch: 4", 4, 0, 16, "conv_first"),
    "SwinIR": ("ImageModel", "embed_dim: 8, depths: [2], num_heads: [2], window_size: 4, upscale: 2, "
               "upsampler: pixelshuffle", 2, 0, 16,
               "conv_first"),
    "NAFNet": ("ImageModel", "width: 8, enc_blk_nums: [1], dec_blk_nums: [1], middle_blk_num: 1", 1, 0, 32, "intro"),
    "NAFSSR": ("StereoModel", "width: 8, num_blks: 1, up_scale: 2", 2, 0, 16, "intro"),
}  # fmt: skip
SETTINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "precision": {name: (f"train.precision={name}",) for name in ("float32", "bfloat16", "float16")},
    "layout": {"NCHW": (), "NHWC": ("train.channels_last=true",)},
    "activations": {"kept": (), "recomputed": ("train.checkpoint_activations=true",)},
    "accumulate": {"1": (), "2": ("train.accumulate=2",)},
    "clip_grad": {"none": (), "norm": ("train.clip_grad={norm: 0.05}",), "value": ("train.clip_grad={value: 1e-3}",)},
    "freeze": {"never": (), "one step": ("train.freeze={parts: [PART], until: 2}",)},
    "adversary": {"none": (), "vanilla, R1, gradient penalty": (*GAN, "train.r1_reg_weight=1", "train.gp_weight=1")},
    "optimizer": {"Adam": (), "SGD": ("train.optim_g={type: SGD, lr: 1e-2}",), "AdamW": ("train.optim_g.type=AdamW",)},
    "loss": {"sum": ("train.losses.pixel.reduction=sum",), "two": ("train.losses.fft={type: FFTLoss}",)},
    "validation": {"ema": (), "raw": ("val.weights=raw", "val.precision=bfloat16"), "no ema": ("train.ema_decay=0",)},
}  # fmt: skip
ROWS = pairwise({"network": list(NETWORKS), **{name: list(values) for name, values in SETTINGS.items()}})


def built(tiny: Path, row: Row) -> RestorationModel:
    model_type, arguments, scale, frames, _, part = NETWORKS[row["network"]]
    settings = [text.replace("PART", part) for name, values in SETTINGS.items() for text in values[row[name]]]
    if model_type == "StereoModel":
        settings += ["network_d.num_in_ch=6"] if row["adversary"] != "none" else []
    if frames == 0:
        settings.append("datasets={train: {type: PairedImageDataset, dataroot_gt: x, gt_size: 16}}")
    network = f"network_g={{type: {row['network']}, {arguments}}}"
    return make_model(tiny, "network_g=", network, f"model_type={model_type}", f"scale={scale}", *settings)


def batch_for(row: Row, seed: int) -> dict[str, Any]:
    model_type, _, scale, frames, side, _ = NETWORKS[row["network"]]
    channels = 6 if model_type == "StereoModel" else 3
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, (1, *shape), generator=generator, dtype=torch.uint8)

    lq = noise(*([frames] if frames else []), channels, side, side)
    windows = row["network"] == "EDVR"
    gt = noise(*([frames] if frames and not windows else []), channels, side * scale, side * scale)
    item = {"lq": lq, "gt": gt, "key": ["a"]}
    return item if not frames or windows else {**item, "frames": [[str(i)] for i in range(frames)]}


def train_two_steps(tiny: Path, row: Row) -> None:
    model = built(tiny, row)
    before = {name: value.detach().clone() for name, value in model.network_g.named_parameters()}
    if model.gradients.scale is not None:
        # as it would be after steps that overflow, which are skipped
        model.gradients.scale.fill_(1 if row["loss"] == "sum" else 1024)
    for step in (1, 2):
        terms = model.train_step([batch_for(row, 10 * step + i) for i in range(int(row["accumulate"]))], step)
        assert all(torch.isfinite(value) for name, value in terms.items() if name != "grad_norm"), terms
        assert int(model.bad_steps_in_a_row) == 0
    parameters = dict(model.network_g.named_parameters())
    assert all(value.dtype == torch.float32 for value in parameters.values())
    changed = [name for name, value in parameters.items() if not torch.equal(value, before[name])]
    assert len(changed) > len(parameters) / 2
    assert all(torch.isfinite(value).all() for value in parameters.values())
    records = model.validate([batch_for(row, 0)])
    assert all(0 < record.metrics["psnr"] < 60 for record in records)
    assert records


def marked(row: Row) -> Any:
    video = NETWORKS[row["network"]][0] == "VideoModel"  # half precision is slow on CPUs, and flows are much work
    return pytest.param(row, marks=[pytest.mark.slow] if video else [], id=row["network"])


@pytest.mark.parametrize("row", [marked(row) for row in ROWS])
def test_every_two_settings_train_together(tiny: Path, row: Row) -> None:
    train_two_steps(tiny, row)


WITH_COMPILE = [
    ("train.precision=bfloat16", "train.accumulate=2", "train.channels_last=true", "train.clip_grad={norm: 1.0}"),
    ("train.checkpoint_activations=true", "train.freeze={parts: [first], until: 2}", *GAN, "val.weights=raw"),
]


def has_compiler() -> bool:
    try:
        find_compiler("cpu")
    except BuildError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(("settings", "world"), [(WITH_COMPILE[0], 1), (WITH_COMPILE[1], 2)], ids=["one", "two"])
def test_a_compiled_network_trains_with_the_other_settings(tiny: Path, settings: tuple[str, ...], world: int) -> None:
    short = ["train.compile=true", "train.total_iter=3", "train.scheduler=null", "val.val_freq=3"]
    status, output = run("train.py", "-opt", str(tiny), "--set", *short, *settings, world=world, timeout=400)
    assert status == 0, output
    root = tiny.parent / "experiments" / "tiny"
    assert sorted(history(root)) == [1, 2, 3]
    assert all(entry["total"] > 0 for entry in history(root).values())


def test_validation_compiles_nothing(tiny: Path) -> None:
    row = {**ROWS[0], "network": "MSRResNet", **{name: next(iter(values)) for name, values in SETTINGS.items()}}
    model = built(tiny, row | {"validation": "no ema"})
    compiled = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Any:
        compiled.append(graph)
        return graph.forward

    torch.compiler.reset()
    model.compiled = True
    model.network_g.compile(backend=backend, dynamic=False)
    model.validate([batch_for(row, 0)])
    assert compiled == []
    model.train_step([batch_for(row, 0)], 1)
    assert len(compiled) == 1


def test_without_a_compiler_compile_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"train\.compile: expected what torch\.compile needs, but no C\+\+ compiler"):
        make_model(tiny, "train.compile=true")


def test_every_two_settings_are_in_the_table() -> None:
    met = {(a, row[a], b, row[b]) for row in ROWS for a in row for b in row}
    choices = {"network": NETWORKS, **SETTINGS}
    missing = [
        (a, one, b, other)
        for a in choices for b in choices if a != b
        for one in choices[a] for other in choices[b]
        if (a, one, b, other) not in met
    ]  # fmt: skip
    assert missing == []
