"""Lists of stages: seeds, crops, clips, and the data sets that use them."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy import ndimage

from vsr.data.augment import Region
from vsr.data.degradations import Degradations, neighbours_of
from vsr.data.pairs import PairReader
from vsr.data.storage import open_storage
from vsr.registry import DATASETS
from vsr.utils.images import read_image, write_image
from vsr.utils.resize import imresize

SECOND_ORDER: list[dict[str, Any]] = [
    {"type": "USM"},
    {"type": "RandomBlur"},
    {"type": "RandomResize"},
    {"type": "Noise"},
    {"type": "JPEG"},
    {"type": "RandomBlur", "prob": 0.8, "blur_sigma": [0.2, 1.5]},
    {"type": "RandomResize", "relative_to": "lq", "resize_range": [0.3, 1.2], "resize_prob": [0.3, 0.4, 0.3]},
    {"type": "Noise", "noise_range": [1, 25], "poisson_scale_range": [0.05, 2.5]},
    {"type": "Shuffle", "groups": [[{"type": "Resize", "mode": "random"}, {"type": "SincFilter"}], [{"type": "JPEG"}]]},
]
LOCAL: dict[str, list[dict[str, Any]]] = {
    "bicubic": [{"type": "Resize"}],
    "at the end": [{"type": "GaussianBlur", "sigma": [1, 2]}],
    "area": [{"type": "Resize", "mode": "area"}],
    "bd": [{"type": "BlurDown"}],
    "blur": [{"type": "RandomBlur"}, {"type": "Resize"}],
    "sinc": [{"type": "Resize"}, {"type": "SincFilter", "prob": 1.0}],
    "jpeg": [{"type": "Resize"}, {"type": "JPEG", "jpeg_range": [20, 40]}],
    "jpeg first": [{"type": "JPEG", "jpeg_range": [20, 40]}, {"type": "RandomBlur"}],
    "average": [{"type": "FrameAverage", "num_frame": 3, "gamma": 2.2}],
    "usm": [{"type": "USM", "radius": 6}, {"type": "FrameAverage", "num_frame": 3}, {"type": "RandomBlur"}],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clip 'a' of six frames of 120 x 152, a texture that drifts."""
    rng = np.random.default_rng(5)
    texture = ndimage.gaussian_filter(rng.uniform(0, 255, (140, 180, 3)), (1, 1, 0))
    texture = ((texture - texture.min()) / np.ptp(texture) * 255).astype(np.uint8)
    (tmp_path / "gt" / "a").mkdir(parents=True)
    for i in range(6):
        write_image(tmp_path / "gt" / "a" / f"{i}.png", np.ascontiguousarray(texture[i : i + 120, 2 * i : 2 * i + 152]))
    return tmp_path / "gt"


def train_set(root: Path, stages: list[dict[str, Any]], **options: Any) -> Any:
    settings = {"num_frame": 4, "gt_size": 48, "scale": 4, "seed": 3} | options
    return DATASETS.build(
        {"type": "VideoRecurrentTrainDataset", "dataroot_gt": str(root), "degradations": stages, **settings}
    )


def pairs_of(root: Path, scale: int = 4) -> tuple[PairReader, list[Any]]:
    reader = PairReader(storage=open_storage(None), scale=scale)
    return reader, [reader.pair(str(root / "a" / f"{i}.png"), None) for i in range(6)]


def crops(degradations: Degradations, root: Path, region: Region) -> np.ndarray:
    """LQ crops (t, 3, h, w) of frames 1 to 3, always with the same draws."""
    reader, pairs = pairs_of(root)
    frames = [[pairs[i] for i in neighbours_of(p, 6, degradations.neighbours)] for p in (1, 2, 3)]
    return np.stack(degradations.training(reader, frames, region, np.random.default_rng(8))[0])


@pytest.mark.parametrize("name", sorted(LOCAL))
@pytest.mark.parametrize("region", [Region(9, 14, 8, 10), Region(0, 0, 8, 8), Region(22, 30, 8, 8)])
def test_the_lq_of_a_crop_is_the_crop_of_the_whole_frames_lq(name: str, region: Region, root: Path) -> None:
    degradations = Degradations(LOCAL[name], scale=4)
    assert degradations.exact
    whole, part = crops(degradations, root, Region(0, 0, 30, 38)), crops(degradations, root, region)
    difference = np.abs(region.of(whole).astype(int) - part)
    assert difference.max() <= 1  # a value next to .5, of filters that sum in another order
    assert (difference > 0).mean() < 0.01


def test_a_crop_without_its_surroundings_would_differ(root: Path) -> None:
    degradations = Degradations(LOCAL["jpeg"], scale=4)
    degradations._margin, degradations._align = 0, 1
    region = Region(9, 14, 8, 10)
    whole, part = crops(degradations, root, Region(0, 0, 30, 38)), crops(degradations, root, region)
    assert np.abs(region.of(whole).astype(int) - part).max() > 3


def test_what_is_read_around_a_crop_covers_the_kernels_and_lies_on_the_blocks() -> None:
    assert Degradations(LOCAL["bd"], scale=4).around(Region(10, 10, 8, 8), (100, 100)) == (8, 8, 12, 12)
    # JPEG of LQ: blocks of 16; 3 LQ pixels for the bicubic, 2 for the decoder.
    assert Degradations(LOCAL["jpeg"], scale=4).around(Region(20, 40, 8, 8), (40, 100)) == (0, 32, 40, 32)
    assert not Degradations(SECOND_ORDER, scale=4).exact
    assert Degradations(SECOND_ORDER, scale=4).around(Region(20, 40, 8, 8), (60, 100)) == (12, 32, 24, 24)


def test_a_list_of_one_antialiased_resizing_is_what_stands_for_no_list(root: Path) -> None:
    listed, default = train_set(root, LOCAL["bicubic"]), train_set(root, [])
    for draw in range(4):
        assert torch.equal(listed[2, draw]["lq"], default[2, draw]["lq"])
        assert torch.equal(listed[2, draw]["gt"], default[2, draw]["gt"])


def test_bd_crops_of_a_data_set_are_scipys(root: Path) -> None:
    dataset = train_set(root, LOCAL["bd"], use_hflip=False, use_rot=False, num_frame=1)
    sample = dataset[2, 0]
    frame = read_image(root / "a" / "2.png")
    expected = ndimage.gaussian_filter(frame.astype(np.float64), (1.6, 1.6, 0), mode="mirror", truncate=4)[::4, ::4]
    gt = sample["gt"][0].permute(1, 2, 0).numpy()
    found = [
        (y, x) for y in range(0, 73, 4) for x in range(0, 105, 4) if np.array_equal(frame[y : y + 48, x : x + 48], gt)
    ]
    (y, x) = found[0]
    expected = np.rint(expected[y // 4 : y // 4 + 12, x // 4 : x // 4 + 12]).clip(0, 255)
    assert np.abs(expected - sample["lq"][0].permute(1, 2, 0).numpy()).max() <= 1


def test_the_same_seed_draw_and_index_give_the_same_sample_and_others_another(root: Path) -> None:
    one, two = train_set(root, SECOND_ORDER), train_set(root, SECOND_ORDER)
    samples = [one[1, 5], two[1, 5], one[1, 6], train_set(root, SECOND_ORDER, seed=4)[1, 5]]
    assert torch.equal(samples[0]["lq"], samples[1]["lq"])
    assert torch.equal(samples[0]["gt"], samples[1]["gt"])
    assert not torch.equal(samples[0]["lq"], samples[2]["lq"])
    assert not torch.equal(samples[0]["lq"], samples[3]["lq"])
    assert samples[0]["lq"].shape == (4, 3, 12, 12)


def test_degradations_change_neither_crop_nor_flips(root: Path) -> None:
    noisy, default = train_set(root, SECOND_ORDER[1:]), train_set(root, [])
    for draw in range(3):
        assert torch.equal(noisy[2, draw]["gt"], default[2, draw]["gt"])


def same_frames(root: Path) -> None:
    """Make all frames of the clip the first one."""
    first = read_image(root / "a" / "0.png")
    for i in range(1, 6):
        write_image(root / "a" / f"{i}.png", first)


@pytest.mark.parametrize(
    "stage",
    [
        {"type": "RandomBlur"},
        {"type": "GaussianBlur", "sigma": [0.5, 3]},
        {"type": "JPEG", "jpeg_range": [10, 90]},
        {"type": "RandomResize", "resize_prob": [1, 1, 0]},
        SECOND_ORDER[-1],
    ],
)
def test_all_frames_of_a_clip_share_kernel_and_quality_unless_they_vary(stage: dict[str, Any], root: Path) -> None:
    same_frames(root)
    for vary in (False, True):
        lq = train_set(root, [{**stage, "vary": vary}])[1, 0]["lq"]
        assert torch.equal(lq[0], lq[1]) is not vary
        assert torch.equal(lq[1], lq[3]) is not vary


def test_noise_is_new_in_every_frame_and_of_one_strength(root: Path) -> None:
    flat = np.full((120, 152, 3), 128, np.uint8)
    for i in range(6):
        write_image(root / "a" / f"{i}.png", flat)
    stages = [{"type": "Noise", "noise_range": [2, 40], "gaussian_noise_prob": 1}]
    noise = train_set(root, stages, gt_size=96, scale=1)[1, 0]["lq"].double() - 128
    assert noise.shape == (4, 3, 96, 96)
    deviations = [float(frame.std()) for frame in noise]
    assert max(deviations) / min(deviations) < 1.03
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.03


def test_a_stage_more_at_the_end_changes_nothing_before_it(root: Path) -> None:
    stages = [{"type": "RandomBlur"}, {"type": "Noise"}]
    more = train_set(root, [*stages, {"type": "Noise", "noise_range": [0, 0], "gaussian_noise_prob": 1}])
    assert torch.equal(more[1, 0]["lq"], train_set(root, stages)[1, 0]["lq"])


@pytest.mark.parametrize("gamma", [1.0, 2.2])
def test_averaged_frames_are_those_around_each_frame_of_the_clip(root: Path, gamma: float) -> None:
    stages = [{"type": "FrameAverage", "num_frame": 3, "gamma": gamma}]
    option = {"type": "VideoRecurrentTestDataset", "dataroot_gt": str(root), "scale": 1, "degradations": stages}
    sample = DATASETS.build(option)[0]
    frames = np.stack([read_image(root / "a" / f"{i}.png") for i in range(6)]).astype(np.float64) / 255
    for i in range(6):
        light = np.mean([frames[max(0, i - 1)] ** gamma, frames[i] ** gamma, frames[min(5, i + 1)] ** gamma], 0)
        expected = np.rint(255 * light ** (1 / gamma))
        assert np.abs(expected - sample["lq"][i].permute(1, 2, 0).numpy()).max() <= 1
        np.testing.assert_array_equal(sample["gt"][i].permute(1, 2, 0).numpy(), np.rint(255 * frames[i]))


def test_sharpened_gt_is_that_of_the_whole_frame(root: Path) -> None:
    stages = [{"type": "USM", "radius": 6}]
    whole = DATASETS.build(
        {"type": "VideoRecurrentTestDataset", "dataroot_gt": str(root), "scale": 4, "degradations": stages}
    )[0]["gt"]
    plain = DATASETS.build({"type": "VideoRecurrentTestDataset", "dataroot_gt": str(root), "scale": 4})[0]["gt"]
    assert (whole.int() - plain.int()).abs().max() > 5
    degradations = Degradations(stages, scale=4)
    reader, pairs = pairs_of(root)
    region = Region(9, 14, 8, 10)
    _, gt = degradations.training(reader, [[pairs[1]]], region, np.random.default_rng(0))
    part = whole[1][:, 36:68, 56:96].int().numpy()
    assert np.abs(part - gt(pairs[1]).astype(int)).max() <= 1
    unsharpened = DATASETS.build(
        {"type": "VideoRecurrentTestDataset", "dataroot_gt": str(root), "scale": 4}
        | {"degradations": [{"type": "USM", "radius": 6, "gt": False}]}
    )[0]
    assert torch.equal(unsharpened["gt"], plain)


def test_a_frame_has_one_lq_in_all_windows_in_the_whole_clip_and_in_every_run(root: Path) -> None:
    stages = SECOND_ORDER
    roots = {"dataroot_gt": str(root), "scale": 4, "degradations": stages}
    windows = DATASETS.build({"type": "VideoTestDataset", "num_frame": 3, "padding": "replicate", **roots})
    again = DATASETS.build({"type": "VideoTestDataset", "num_frame": 3, "padding": "replicate", **roots})
    clip = DATASETS.build({"type": "VideoRecurrentTestDataset", **roots})[0]["lq"]
    for i in (4, 1, 2):  # in any order, with and without frames remembered
        assert torch.equal(windows[i]["lq"], clip[[max(0, i - 1), i, min(5, i + 1)]])
    assert torch.equal(again[2]["lq"], windows[2]["lq"])
    assert not torch.equal(clip[0], clip[1])


def test_windows_have_lq_of_all_frames_and_gt_of_the_centre(root: Path) -> None:
    option = {"type": "VideoTrainDataset", "num_frame": 3, "gt_size": 48, "scale": 4, "dataroot_gt": str(root)}
    sample = DATASETS.build({**option, "degradations": SECOND_ORDER[1:]}, seed=3)[2, 1]
    default = DATASETS.build(option, seed=3)[2, 1]
    assert sample["lq"].shape == (3, 3, 12, 12)
    assert torch.equal(sample["gt"], default["gt"])


def test_images_are_degraded_in_training_and_by_their_names_in_testing(root: Path) -> None:
    option = {"type": "PairedImageDataset", "dataroot_gt": str(root / "a"), "scale": 2, "degradations": SECOND_ORDER}
    train = DATASETS.build({**option, "gt_size": 48}, seed=0)
    assert torch.equal(train[3, 7]["lq"], train[3, 7]["lq"])
    assert train[3, 7]["lq"].shape == (3, 24, 24)
    test, again = DATASETS.build(option), DATASETS.build(option)
    assert torch.equal(test[3]["lq"], again[3]["lq"])
    assert test[3]["lq"].shape == (3, 60, 76)
    assert test[3]["gt"].shape == (3, 120, 152)


def test_images_at_scale_one_need_no_lq_folder_with_degradations(root: Path) -> None:
    stages = [{"type": "Noise", "gaussian_noise_prob": 1, "noise_range": [25, 25], "gray_noise_prob": 0}]
    option = {"type": "PairedImageDataset", "dataroot_gt": str(root / "a"), "scale": 1, "degradations": stages}
    sample = DATASETS.build(option)[0]
    noise = sample["lq"].double() - sample["gt"].double()
    inner = (sample["gt"] > 90) & (sample["gt"] < 165)
    assert float(noise[inner].std()) == pytest.approx(25, rel=0.03)


def test_frames_kept_in_memory_are_degraded_alike(root: Path) -> None:
    read, kept = train_set(root, SECOND_ORDER), train_set(root, SECOND_ORDER, cache_data=True)
    assert torch.equal(read[1, 2]["lq"], kept[1, 2]["lq"])


def test_reduced_gt_files_are_the_gt_that_is_degraded(root: Path) -> None:
    option = {"type": "VideoRecurrentTestDataset", "dataroot_gt": str(root), "scale": 2, "gt_downscale": 2}
    sample = DATASETS.build({**option, "degradations": [{"type": "BlurDown"}]})[0]
    gt = imresize(read_image(root / "a" / "1.png"), 0.5)
    expected = ndimage.gaussian_filter(gt.astype(np.float64), (0.8, 0.8, 0), mode="mirror", radius=6)[::2, ::2]
    assert np.abs(np.rint(expected).clip(0, 255) - sample["lq"][1].permute(1, 2, 0).numpy()).max() <= 1


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"type": "JPGE"}], r"degradations\[0\]: unknown degradation 'JPGE'. Did you mean 'JPEG'"),
        ([{"type": "Resize"}, {"type": "JPEG", "range": [1, 2]}], r"\[1\]: JPEG: 'range' is not an argument"),
        ([{"type": "JPEG"}, {"type": "FrameAverage", "num_frame": 3}], r"\[1\]: expected FrameAverage as the first"),
        ([{"type": "JPEG"}, {"type": "USM"}], r"degradations\[1\]: expected USM as the first stage"),
        ([{"type": "FrameAverage", "num_frame": 3}, {"type": "USM"}], r"\[0\]: expected FrameAverage as the first"),
    ],
)  # fmt: skip
def test_a_list_that_cannot_be_is_refused(stages: list[dict[str, Any]], message: str, root: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train_set(root, stages)


def test_the_examples_of_the_documentation_are_lists_of_stages() -> None:
    page = (Path(__file__).parents[2] / "docs" / "degradations.md").read_text(encoding="utf-8")
    examples = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    lists = [example.get("degradations") for example in examples if "degradations" in example]
    lists += [example["datasets"]["train"]["degradations"] for example in examples if "datasets" in example]
    assert sorted(len(Degradations(stages, scale=4).stages) for stages in lists) == [1, 3, 9]


def test_degradations_want_gt_and_no_lq(root: Path) -> None:
    with pytest.raises(ValueError, match="degradations: expected a dataroot_gt to make LQ from, and no dataroot_lq"):
        train_set(root, LOCAL["bd"], dataroot_lq=str(root))
    option = {"type": "VideoRecurrentTestDataset", "dataroot_lq": str(root), "scale": 4, "degradations": LOCAL["bd"]}
    with pytest.raises(ValueError, match="degradations: expected a dataroot_gt"):
        DATASETS.build(option)
    option = {"type": "PairedImageDataset", "dataroot_gt": str(root), "scale": 4, "degradations": LOCAL["average"]}
    with pytest.raises(ValueError, match="expected stages of single images, got FrameAverage"):
        DATASETS.build(option)


def test_a_blur_down_after_a_free_size_names_the_sample(root: Path) -> None:
    dataset = train_set(root, [{"type": "RandomResize", "resize_prob": [0, 1, 0]}, {"type": "BlurDown"}])
    with pytest.raises(ValueError, match="sample a/1: BlurDown: expected an image of a whole multiple of LQ's"):
        dataset[1, 0]
