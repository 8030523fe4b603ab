"""Trainings of MemoryEDVR: what its two modes leave alone, and what it learns where frames move."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from kit import ROOT, history, write_frames
from test_end_to_end import interrupted
from torch import Tensor, nn

from vsr.archs.edvr import EDVR
from vsr.archs.memory_edvr import MemoryEDVR
from vsr.config import Options, load_options
from vsr.engine.train import train
from vsr.models.weights import read_weights

EDVR_OPTIONS = {
    "num_feat": 8, "num_frame": 3, "deformable_groups": 2, "num_extract_block": 1, "num_reconstruct_block": 1,
}  # fmt: skip
FILE = """\
name: memory
model_type: VideoModel
scale: 4
datasets:
  train:
    type: VideoTrainDataset
    dataroot_gt: {root}/clips
    num_frame: 3
    gt_size: 32
    interval_list: [1]
    batch_size_per_gpu: 1
    num_worker_per_gpu: 0
network_g:
  type: MemoryEDVR
  num_feat: 8
  num_frame: 3
  deformable_groups: 2
  num_extract_block: 1
  num_reconstruct_block: 1
  memory: {{type: pixwise, crop: 3}}
path:
  experiments_root: {root}/experiments
  pretrain_network_g: {root}/edvr.pth
train:
  total_iter: 3
  pixel_opt: {{type: L1Loss}}
  optim_g: {{type: Adam, lr: 1e-2}}
logger: {{print_freq: 1, save_checkpoint_freq: 1, use_tb_logger: false}}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clip, an option file, and the weights of an EDVR to start from."""
    write_frames(tmp_path / "clips" / "000", 5, (48, 48), seed=0)
    (tmp_path / "memory.yml").write_text(FILE.format(root=tmp_path), encoding="utf-8")
    torch.manual_seed(1)
    torch.save({"params": EDVR(**EDVR_OPTIONS).state_dict()}, tmp_path / "edvr.pth")
    return tmp_path


def options(root: Path, *overrides: str) -> Options:
    return load_options(root / "memory.yml", overrides)


def left(root: Path, step: int = 3) -> tuple[dict[str, Tensor], set[str]]:
    """The weights after a step, and the names of the parameters that the optimiser has a state of."""
    run = root / "experiments" / "memory"
    weights = read_weights(run / "models" / f"net_g_{step}.pth", "params")
    state = torch.load(run / "training_states" / f"{step}.state", weights_only=True)
    optimizer = state["model"]["optimizer"]
    return weights, {optimizer["names"][number] for number in optimizer["state"]}


def changed(root: Path, weights: dict[str, Tensor]) -> set[str]:
    """The tensors of EDVR that are not what they were at the start."""
    start = read_weights(root / "edvr.pth")
    return {name for name in start if not torch.equal(start[name], weights[name])}


def test_freeze_leaves_everything_but_the_memory_to_the_bit_and_without_a_state(root: Path) -> None:
    train(options(root, "train.mode=freeze"))
    weights, states = left(root)
    assert changed(root, weights) == set()
    assert states == {name for name in weights if name.startswith("memory.")}
    assert weights["memory.out.weight"].any()


def test_a_memory_that_spoils_its_backbone_leaves_the_backbone_as_the_best(root: Path) -> None:
    """What the demo of a memory rests on: its file has it validated before the first step, too."""
    demo = load_options(ROOT / "options/demo/memory_edvr_bunny_x4.yml")
    assert (demo.val.val_at, next(iter(demo.val.metrics))) == ([0], "psnr")
    write_frames(root / "val" / "001", 3, (48, 48), seed=1)
    val = f"datasets.val={{type: VideoTestDataset, dataroot_gt: {root}/val, num_frame: 3, num_worker_per_gpu: 0}}"
    metric = "val.metrics={psnr: {type: calculate_psnr, crop_border: 0, test_y_channel: false}}"
    train(options(root, "train.mode=freeze", "train.optim_g.lr=100", val, metric, "val.val_at=[0]"))
    run = root / "experiments" / "memory"
    lines = map(json.loads, (run / "log.jsonl").read_text(encoding="utf-8").splitlines())
    start, end = (line["psnr"] for line in lines if "val" in line)
    assert end < start - 1
    best = read_weights(run / "models" / "net_g_best.pth")
    assert changed(root, best) == set()
    assert not best["memory.out.weight"].any()


def test_scratch_trains_everything(root: Path) -> None:
    train(options(root, "train.mode=scratch"))
    weights, states = left(root)
    assert changed(root, weights) == set(read_weights(root / "edvr.pth"))
    assert states == set(weights)


def test_a_run_continued_within_the_phase_of_tsa_stays_in_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = options(root, "train.mode=scratch", "train.tsa_iter=10")
    interrupted(monkeypatch, phase, before=2)
    train(phase)
    weights, states = left(root)
    assert sorted(history(root / "experiments" / "memory")) == [1, 2, 3]
    assert changed(root, weights) == {name for name in weights if name.startswith("fusion.")}
    assert all(name.startswith("fusion.") for name in states)


def test_a_run_continued_frozen_stays_frozen_up_to_its_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = options(root, "train.mode=freeze", "train.freeze.until=3")
    interrupted(monkeypatch, frozen, before=2)
    train(frozen)
    assert changed(root, left(root, 2)[0]) == set()
    weights, _ = left(root, 3)
    assert {"conv_first.weight", "pcd_align.cas_dcnpack.weight", "fusion.feat_fusion.weight"} <= changed(root, weights)


def test_a_network_that_does_not_hold_all_that_is_frozen_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"edvr\.pth: expected all \d+ tensors that train\.freeze keeps as they are"):
        train(options(root, "train.mode=freeze", "network_g.num_reconstruct_block=2"))


def test_what_scratch_does_not_find_in_a_checkpoint_is_listed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(options(root, "train.mode=scratch", "train.total_iter=1", "network_g.with_pcd=false"))
    (told,) = {record.getMessage() for record in caplog.records if "tensors loaded" in record.getMessage()}
    assert "missing: memory.embed_q.weight" in told
    assert "unexpected: " in told
    assert "conv_l2_1.weight" in told


def moving(generator: torch.Generator, count: int, *, side: int = 12, noise: float = 0.15) -> tuple[Tensor, Tensor]:
    """Windows of 3 frames of noise that moves by 2 px a frame in one of 8 directions, and the centre enlarged x4.

    A pixel's colour tells nothing of its neighbours', and each frame has other errors: all that helps is to find the
    same place in the other frames.
    """
    motion = 2 * torch.randint(-1, 2, (count, 2), generator=generator)
    motion[(motion == 0).all(1), 0] = 2
    scenes = 2 * torch.rand(count, 3, side + 4, side + 4, generator=generator) - 1
    windows = torch.stack(
        [
            torch.stack([scene[:, 2 + t * y : 2 + t * y + side, 2 + t * x : 2 + t * x + side] for t in (-1, 0, 1)])
            for scene, (y, x) in zip(scenes, motion.tolist(), strict=True)
        ]
    )
    target = F.interpolate(windows[:, 1], scale_factor=4, mode="bilinear", align_corners=False)
    return windows + noise * torch.randn(windows.shape, generator=generator), target


def psnr_of_moving(crop: int, *, steps: int) -> float:
    """The PSNR of new windows, in dB for a peak of 1, after so many steps without alignment but by the memory."""
    torch.manual_seed(0)
    network = MemoryEDVR(
        num_feat=16, num_frame=3, deformable_groups=1, num_extract_block=0, num_reconstruct_block=0, with_tsa=False,
        with_pcd=False, memory={"type": "pixwise", "crop": crop, "norm": True, "exclude_center": True},
    )  # fmt: skip
    network.conv_hr = nn.Identity()  # three quarters of the time, and nothing to learn here
    optimizer, generator = torch.optim.Adam(network.parameters()), torch.Generator().manual_seed(1)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1, (step + 1) / 20) * (1 if step < 0.7 * steps else 0.2)
        x, target = moving(generator, 4)
        optimizer.zero_grad()
        (network(x) - target).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        x, target = moving(torch.Generator().manual_seed(999), 16)
        return -10 * float((network(x) - target).square().mean().log10())


@pytest.mark.slow
def test_where_frames_move_by_2_pixels_a_crop_of_5_beats_that_of_the_pixel_itself(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = {crop: psnr_of_moving(crop, steps=200) for crop in (0, 5)}
    with capsys.disabled():
        print(f"\ncrop 0: {found[0]:.2f} dB, crop 5: {found[5]:.2f} dB")  # noqa: T201
    assert found[5] > found[0] + 0.5
