"""The model of stereo pairs: networks of both views and of one, what it measures, saves and refuses."""

import csv
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from stereo_pairs import made_pair, write_pair
from torch import Tensor, nn

import vsr.models.stereo as stereo
from vsr import metrics
from vsr.config import OptionError, Options, load_options
from vsr.engine.evaluate import EvaluationSet
from vsr.engine.test import test as run_test
from vsr.engine.train import train
from vsr.models.restoration import RestorationModel
from vsr.models.weights import load_network
from vsr.registry import FUSIONS, MODELS
from vsr.utils.images import read_image

# The keys and values of NAFNet's options/train/NAFSSR files; a smaller network and other folders.
OFFICIAL = """\
name: NAFSSR-tiny_x2
model_type: ImageRestorationModel
scale: 2
num_gpu: 8
manual_seed: 10
datasets:
  train:
    name: Flickr1024-sr-train
    type: PairedStereoImageDataset
    dataroot_gt: {root}/patches_x2/
    dataroot_lq: {root}/patches_x2/
    io_backend:
      type: disk
    gt_size_h: 20
    gt_size_w: 60
    use_hflip: true
    use_vflip: true
    use_rot: false
    flip_RGB: true
    use_shuffle: true
    num_worker_per_gpu: 0
    batch_size_per_gpu: 2
    dataset_enlarge_ratio: 1
    prefetch_mode: ~
  val:
    name: Flickr1024-sr-test
    type: PairedStereoImageDataset
    dataroot_gt: {root}/hr
    dataroot_lq: {root}/hr
    num_worker_per_gpu: 0
    io_backend:
      type: disk
network_g:
  type: NAFSSR
  up_scale: 2
  width: 8
  num_blks: 2
  drop_path_rate: 0.1
  train_size: [1, 6, 10, 30]
  drop_out_rate: 0.
path:
  pretrain_network_g: ~
  strict_load_g: true
  resume_state: ~
train:
  optim_g:
    type: AdamW
    lr: !!float 3e-3
    weight_decay: !!float 0
    betas: [0.9, 0.9]
  scheduler:
    type: TrueCosineAnnealingLR
    T_max: 2
    eta_min: !!float 1e-7
  total_iter: 2
  warmup_iter: -1 # no warm up
  mixup: false
  pixel_opt:
    type: MSELoss
    loss_weight: 1.
    reduction: mean
val:
  val_freq: !!float 2e4
  save_img: false
  trans_num: 1
  max_minibatch: 1
  metrics:
    psnr:
      type: calculate_psnr
      crop_border: 0
      test_y_channel: false
    ssim:
      type: calculate_skimage_ssim
logger:
  print_freq: 1
  save_checkpoint_freq: !!float 1e4
  use_tb_logger: true
  wandb:
    project: ~
    resume_id: ~
dist_params:
  backend: nccl
  port: 29500
"""
LEFT = ["val.metrics.psnr_left.type=calculate_psnr_left", "val.metrics.ssim_left.type=calculate_skimage_ssim_left"]


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """An option file of NAFNet's, with three patches to train on and two pairs of 40 x 120 to validate on."""
    for number in range(1, 4):
        write_pair(tmp_path / "patches_x2", f"{number:06d}", *made_pair((24, 66), disparity=6, seed=number), scale=2)
    for number in range(1, 3):
        write_pair(tmp_path / "hr", f"{number:04d}", *made_pair((40, 120), disparity=6, seed=9 + number), scale=2)
    path = tmp_path / "official.yml"
    path.write_text(OFFICIAL.format(root=tmp_path), encoding="utf-8")
    return path


def options_of(official: Path, *overrides: str) -> Options:
    roots = (f"path.{name}_root={official.parent}/{name}" for name in ("experiments", "results"))
    return load_options(official, [*roots, *overrides])


def model_of(official: Path, *overrides: str) -> RestorationModel:
    options = options_of(official, *overrides)
    return MODELS.build({"type": options.model_type}, options=options, device=torch.device("cpu"), train=False)


def test_nafnets_option_files_of_stereo_pairs_load_unchanged(official: Path) -> None:
    options = load_options(official)
    assert options.model_type == "StereoModel"
    assert options.datasets["train"].dataset.type == "PairedStereoImageDataset"
    # the same model type of images stays what it was
    images = official.read_text().replace("PairedStereoImageDataset", "PairedImageDataset")
    images = images.replace("gt_size_h: 20", "gt_size: 20").replace("    gt_size_w: 60\n", "")
    official.write_text(images.replace("    use_vflip: true\n    use_rot: false\n    flip_RGB: true\n", ""))
    assert load_options(official).model_type == "ImageModel"


@pytest.mark.parametrize("network", ["NAFSSR", "MSRResNet"])
def test_pairs_train_validate_and_test(official: Path, network: str) -> None:
    given = [] if network == "NAFSSR" else ["network_g={type: MSRResNet, num_feat: 8, num_block: 1, upscale: 2}"]
    options = options_of(official, *given, *LEFT, "val.compare_bicubic=true", "val.save_img=true")
    train(options)
    records = run_test(options)["val"]
    assert [record.key for record in records] == ["0001", "0002"]
    root = official.parent / "results" / options.name
    pictures = root / "visualization" / "Flickr1024-sr-test"
    assert sorted(path.name for path in pictures.iterdir()) == ["0001_L.png", "0001_R.png", "0002_L.png", "0002_R.png"]
    for record in records:
        restored = [read_image(pictures / f"{record.key}_{side}.png") for side in "LR"]
        target = [read_image(official.parent / "hr" / record.key / f"hr{number}.png") for number in range(2)]
        for name, kind in (("psnr", "calculate_psnr"), ("ssim", "calculate_skimage_ssim")):
            metric = metrics.build({"type": kind})
            each = [metric.measure(*pair) for pair in zip(restored, target, strict=True)]
            assert record.metrics[name] == pytest.approx(sum(each) / 2, abs=1e-9)
            left = metric.measure(restored[0][:, 64:], target[0][:, 64:])  # the first 64 columns do not count
            assert record.metrics[f"{name}_left"] == pytest.approx(left, abs=1e-9)
    report = (root / "report.html").read_text(encoding="utf-8")
    assert "PSNR, RGB, crop 0, mean of both views" in report
    assert "PSNR, RGB, crop 0, left view without its first 64 columns" in report
    assert "64 columns, mean of both views" not in report


CONSISTENCY = {
    "error": "calculate_disparity_error",
    "bad": "calculate_bad_disparity",
    "warped": "calculate_warped_psnr",
}


@pytest.mark.parametrize("known", [True, False])
def test_pairs_are_measured_as_a_whole_with_their_true_disparity(official: Path, known: bool) -> None:
    """The made pairs have a disparity of 6; the files say 5, so that it shows which of the two was used."""
    (official.parent / "disparity").mkdir()
    for key in ("0001", "0002"):
        np.save(official.parent / "disparity" / f"{key}.npy", np.full((40, 120), 5))
    given = [f"datasets.val.dataroot_disparity={official.parent}/disparity"] if known else []
    metric = [f"val.metrics.{name}.type={kind}" for name, kind in CONSISTENCY.items()]
    torch.save({"params": model_of(official).network_g.state_dict()}, official.parent / "net.pth")
    weights = f"path.pretrain_network_g={official.parent}/net.pth"
    options = options_of(official, *given, *metric, weights, "val.compare_bicubic=true", "val.save_img=true")
    records = run_test(options)["val"]
    root = official.parent / "results" / options.name
    truth = np.full((40, 120), 5.0) if known else None
    for record in records:
        pictures = (root / "visualization" / "Flickr1024-sr-test" / f"{record.key}_{side}.png" for side in "LR")
        restored = np.concatenate([read_image(picture) for picture in pictures], 2)
        files = (official.parent / "hr" / record.key / f"hr{number}.png" for number in range(2))
        target = np.concatenate([read_image(file) for file in files], 2)
        for name, kind in CONSISTENCY.items():
            expected = metrics.build({"type": kind}).measure(restored, target, truth)
            assert record.metrics[name] == pytest.approx(expected, abs=1e-9)
        assert (record.metrics["error"] > 0.8) == known
    report = (root / "report.html").read_text(encoding="utf-8")
    assert f"crop 0; by {'true disparity' if known else 'what SGBM finds in the target'}<br>" in report
    with (root / "Flickr1024-sr-test.csv").open(encoding="utf-8") as file:
        assert [row["disparity reference"] for row in csv.DictReader(file)] == 2 * ["truth" if known else "SGBM"]


def test_a_pair_that_has_no_value_leaves_its_set_a_mean_and_each_set_tells_its_reference(
    official: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The truth of the first pair leads out of the right view: nothing of it can be compared."""
    (official.parent / "disparity").mkdir()
    np.save(official.parent / "disparity" / "0001.npy", np.full((40, 120), 500))
    np.save(official.parent / "disparity" / "0002.npy", np.full((40, 120), 6))
    roots = f"dataroot_gt: {official.parent}/hr, num_worker_per_gpu: 0"
    given = [f"datasets.val.dataroot_disparity={official.parent}/disparity"]
    given += [f"datasets.val_2={{name: other, type: PairedStereoImageDataset, {roots}}}"]
    given += [f"val.metrics.{name}.type={kind}" for name, kind in CONSISTENCY.items()]
    torch.save({"params": model_of(official).network_g.state_dict()}, official.parent / "net.pth")
    options = options_of(official, *given, f"path.pretrain_network_g={official.parent}/net.pth")
    with caplog.at_level("INFO", logger="vsr"):
        results = run_test(options)
    first, second = results["val"]
    assert list(first.metrics) == ["psnr", "ssim"]
    assert list(second.metrics) == ["psnr", "ssim", *CONSISTENCY]
    for name in CONSISTENCY:
        assert f"0001: {name} is nan; the pair is left out of its mean" in caplog.text
        assert f"; {name} has no value, nor counts, in 0001" in caplog.text
    with (official.parent / "results" / options.name / "report.csv").open(encoding="utf-8") as file:
        known, found = csv.DictReader(file)
    assert {name: float(known[name]) for name in CONSISTENCY} == {n: second.metrics[n] for n in CONSISTENCY}
    assert (known["disparity reference"], found["disparity reference"]) == ("truth", "SGBM")
    end = "; by true disparity on Flickr1024-sr-test; by what SGBM finds in the target on other"
    assert f"crop 0{end}" in caplog.text[caplog.text.index("totals of 2 sets") :]
    assert end in (official.parent / "results" / options.name / "report.html").read_text(encoding="utf-8")


def test_a_pair_that_is_not_finite_is_no_number_in_any_metric(official: Path) -> None:
    model = model_of(official, *(f"val.metrics.{name}.type={kind}" for name, kind in CONSISTENCY.items()))
    gt = torch.randint(0, 256, (1, 6, 40, 120), dtype=torch.uint8)
    batch = {"lq": gt[..., ::2, ::2], "gt": gt, "key": ["0001"]}
    (record,) = model.validate([batch], restore=lambda given: given["gt"] * torch.nan)
    assert set(record.metrics) == {"psnr", "ssim", *CONSISTENCY}
    assert all(map(math.isnan, record.metrics.values()))


def test_true_disparities_stay_on_the_host(official: Path) -> None:
    batch = {"lq": torch.zeros(1, 6, 4, 8), "disparity": torch.ones(1, 8, 16), "key": ["0001"]}
    assert list(model_of(official).prepare(batch)) == ["lq", "key"]


def test_metrics_of_pairs_are_refused_of_single_images(official: Path) -> None:
    kept = "num_worker_per_gpu: 0"
    images = f"datasets.val={{type: PairedImageDataset, dataroot_gt: {official.parent}/hr, {kept}}}"
    with pytest.raises(ValueError, match=r"val.metrics.bad.type: expected a metric of single images for .*ImageModel"):
        model_of(official, images, "model_type=ImageModel", f"val.metrics.bad.type={CONSISTENCY['bad']}")


def test_the_picture_of_a_pair_shows_both_views(official: Path) -> None:
    options = options_of(official)
    val_set = EvaluationSet("val", options)
    before, restored, target = val_set.pictures(model_of(official), "0002")
    assert before.shape == restored.shape == target.shape == (40, 240, 3)
    views = [read_image(official.parent / "hr" / "0002" / f"hr{number}.png") for number in range(2)]
    np.testing.assert_array_equal(target, np.concatenate(views, axis=1))


def test_a_network_of_images_restores_each_view_by_itself(official: Path) -> None:
    model = model_of(official, "network_g={type: NAFNetSR, up_scale: 2, width: 8, num_blks: 1}")
    pairs = torch.rand(2, 6, 9, 14)
    with torch.no_grad():
        expected = torch.cat([model.network_g(pairs[:, :3]), model.network_g(pairs[:, 3:])], 1)
        torch.testing.assert_close(model.restore({"lq": pairs}), expected)
        model.parallel = model.network_g
        torch.testing.assert_close(model.forward({"lq": pairs})["restored"], expected)


class Shifting(nn.Module):
    """Adds a part of the right view's neighbour at the left to the left view, and the other way round."""

    kind, scale, size_multiple, min_size = "stereo", 1, 1, 1

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return torch.cat([left + 0.5 * right.roll(4, -1), right + 0.5 * left.roll(-4, -1)], 1)


def test_the_self_ensemble_flips_pairs_as_pairs(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = torch.rand(1, 6, 8, 24)
    for flip in itertools.product((False, True), repeat=2):
        once = stereo._flipped(pairs, *flip)
        assert torch.equal(stereo._flipped(once, *flip), pairs)
        # a network that knows what left and right are does the same to a flipped pair
        torch.testing.assert_close(stereo._flipped(Shifting()(once), *flip), Shifting()(pairs))
    model = model_of(official, "val.self_ensemble=true")
    with torch.no_grad():
        expected = sum(
            stereo._flipped(model.network_g(stereo._flipped(pairs, *flip)), *flip)
            for flip in itertools.product((False, True), repeat=2)
        )
        torch.testing.assert_close(model.restore({"lq": pairs}), expected / 4)
        assert not torch.allclose(model.restore({"lq": pairs}), model.network_g(pairs))


def test_tiles_hold_both_views(official: Path) -> None:
    model = model_of(official, "val.tile=24", "val.tile_overlap=8")
    pairs = torch.rand(1, 6, 20, 50)
    model.network_g = Shifting()
    model.options = options_of(official, "val.tile=24", "val.tile_overlap=16")
    torch.testing.assert_close(model.restore({"lq": pairs})[..., 8:-8], Shifting()(pairs)[..., 8:-8], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model_type=ImageModel"], r"got stereo pairs of \(6, 10, 30\). Use model_type: StereoModel"),
        (["model_type=VideoModel"], r"expected a data set of windows or clips"),
        (["network_g={type: WindowNet}", "imports=[tiny_networks]"], r"expected a network of stereo pairs .*WindowNet"),
        (["datasets.train.gt_size_h=28"], r"expected views of 28x60 .* or more, got 24x66"),
        (
            ["datasets.train.gt_size_w=61", "datasets.train.gt_size_h=5"],
            r"(?s)gt_size_h=5: expected a multiple of scale 2, got 5. Use 4.*gt_size_w=61: .* got 61. Use 60",
        ),
        (["datasets.train.flip_LR=true"], r"flip_LR"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_the_first_step(official: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(options_of(official, *overrides))


def test_a_set_of_images_is_refused(official: Path) -> None:
    kept = "num_worker_per_gpu: 0"
    images = f"datasets.val={{type: PairedImageDataset, dataroot_gt: {official.parent}/hr, {kept}}}"
    with pytest.raises(ValueError, match=r"datasets.val.type: expected a data set of stereo pairs \(6, h, w\)"):
        train(options_of(official, images))


def test_a_fusion_of_ones_own_trains_and_tests_as_the_manual_has_it(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manual = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    section = manual.split("## Blocks of your own in NAFSSR", 1)[1].split("\n## ", 1)[0]
    code, settings = (section.split(f"```{kind}\n", 1)[1].split("```", 1)[0] for kind in ("python", "yaml"))
    (official.parent / "lab" / "my_lab").mkdir(parents=True)
    (official.parent / "lab" / "my_lab" / "fusion.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(official.parent / "lab")
    monkeypatch.setattr(FUSIONS, "_entries", dict(FUSIONS._entries))
    monkeypatch.delitem(sys.modules, "my_lab.fusion", raising=False)
    given = yaml.safe_load(settings)
    chosen = [f"imports={given['imports']}", f"network_g.fusion_block={given['network_g']['fusion_block']}"]
    with pytest.raises(OptionError, match=r"fusion_block.start: expected float, got 'soon'"):
        options_of(official, chosen[0], "network_g.fusion_block={type: RowMean, start: soon}")
    options = options_of(official, *chosen)
    train(options)
    weights = official.parent / "experiments" / options.name / "models" / "net_g_2.pth"
    network = load_network(weights)
    fusion = network.get_submodule("body.1.module.fusion")
    assert type(fusion).__name__ == "RowMean"
    assert 0 < (fusion.factor - 0.1).abs().max() < 0.1  # it has learned
    assert [record.key for record in run_test(options)["val"]] == ["0001", "0002"]
