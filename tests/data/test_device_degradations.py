"""Degradations of batches against the loader's own, which work image by image."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from vsr.data import device_degradations as device
from vsr.data import filters, kernels
from vsr.data.batch_augment import augment_batch
from vsr.data.blur_stages import USM, BlurDown
from vsr.data.device_degradations import Degrade

SECOND_ORDER: list[dict[str, Any]] = [
    {"type": "USM"},
    {"type": "RandomBlur"},
    {"type": "RandomResize"},
    {"type": "Noise"},
    {"type": "JPEG"},
    {"type": "RandomBlur", "prob": 0.8},
    {"type": "RandomResize", "relative_to": "lq", "resize_range": [0.3, 1.2]},
    {"type": "Noise"},
    {"type": "Shuffle", "groups": [[{"type": "Resize", "mode": "random"}, {"type": "SincFilter"}], [{"type": "JPEG"}]]},
]


@pytest.fixture
def images() -> np.ndarray:
    """Three smooth pictures (3, 48, 64, 3) of the range 0 to 255."""
    rng = np.random.default_rng(0)
    pictures = ndimage.gaussian_filter(rng.uniform(0, 255, (3, 48, 64, 3)), (0, 2, 2, 0))
    pictures = (pictures - pictures.min()) / np.ptp(pictures) * 255
    return np.rint(pictures).astype(np.float32)


def tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def assert_alike(got: Tensor, expected: list[np.ndarray], atol: float = 2e-2) -> None:
    np.testing.assert_allclose(got.permute(0, 2, 3, 1).numpy(), np.stack(expected), atol=atol)


def test_each_image_is_blurred_with_its_own_kernel(images: np.ndarray) -> None:
    drawn = [kernels.draw_sinc(np.random.default_rng(i), 21) for i in range(3)]
    got = device.filtered(tensor(images), torch.from_numpy(np.stack(drawn)))
    assert_alike(got, [filters.filtered(image, kernel) for image, kernel in zip(images, drawn, strict=True)])


def test_the_gaussian_and_the_unsharp_mask_are_the_loaders(images: np.ndarray) -> None:
    assert_alike(device.gaussian_blur(tensor(images), 1.6, 13), [filters.gaussian_blur(i, 1.6, 13) for i in images])
    stage = USM(radius=20)
    assert_alike(device.sharpened(tensor(images), stage), [stage.sharpened(image) for image in images])


@pytest.mark.parametrize("mode", ["antialiased", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(12, 16), (17, 31), (60, 80)])
def test_resizing_is_the_loaders(mode: str, size: tuple[int, int], images: np.ndarray) -> None:
    assert_alike(device.resized(tensor(images), size, mode), [filters.resized(image, size, mode) for image in images])


def test_area_is_the_loaders_where_it_averages_whole_pixels(images: np.ndarray) -> None:
    got = device.resized(tensor(images), (12, 16), "area")
    assert_alike(got, [filters.resized(image, (12, 16), "area") for image in images])


def test_noise_of_each_kind_has_its_statistics_in_one_batch() -> None:
    x = torch.full((4, 3, 200, 200), 51.0)
    x[:, :, :100] = 204  # two values: 2 photons make 255
    drawn = [(True, 10.0, False), (True, 10.0, True), (False, 0.1, False), (False, 0.1, True)]
    noise = device.noisy(x, drawn, torch.Generator().manual_seed(0)) - x
    assert float(noise[0].std()) == pytest.approx(10, rel=0.02)
    assert float(noise[1].std()) == pytest.approx(10, rel=0.02)
    for i in (2, 3):
        assert float(noise[i, :, 100:].var()) == pytest.approx(0.01 * 51 / 255 * 2 * (255 / 2) ** 2, rel=0.06)
        assert float(noise[i, :, :100].var()) == pytest.approx(0.01 * 204 / 255 * 2 * (255 / 2) ** 2, rel=0.06)
    for i, gray in enumerate((False, True, False, True)):
        assert torch.allclose(noise[i, 0], noise[i, 2], atol=1e-3) is gray


@pytest.mark.parametrize("quality", [10, 40, 75, 95])
def test_jpeg_is_opencvs_up_to_the_rounding_of_its_transforms(quality: int, images: np.ndarray) -> None:
    got = device.jpeg(tensor(images), [quality] * 3).permute(0, 2, 3, 1).numpy()
    expected = np.stack([filters.jpeg(image, quality) for image in images])
    assert np.abs(got - expected).mean() < 1.2
    assert np.abs(got - expected).mean() < 0.25 * np.abs(expected - images).mean()
    grey = np.repeat(images[..., :1], 3, 3)
    got = device.jpeg(tensor(grey), [quality] * 3).permute(0, 2, 3, 1).numpy()
    assert np.abs(got - np.stack([filters.jpeg(image, quality) for image in grey])).mean() < 0.3


def test_every_image_has_its_own_quality(images: np.ndarray) -> None:
    together = device.jpeg(tensor(images), [10, 50, 90])
    for i, quality in enumerate((10, 50, 90)):
        torch.testing.assert_close(together[i : i + 1], device.jpeg(tensor(images[i : i + 1]), [quality]))


def clips(images: np.ndarray, scale: int, frames: int = 2) -> dict[str, Any]:
    """A batch of three clips that stand still."""
    gt = (tensor(images) / 255)[:, None].repeat(1, frames, 1, 1, 1)
    return {"gt": gt, "lq": torch.zeros(*gt.shape[:3], 48 // scale, 64 // scale), "key": ["a", "b", "c"]}


def test_lq_of_bd_is_that_of_the_loader(images: np.ndarray) -> None:
    batch = augment_batch([Degrade(stages=[{"type": "BlurDown"}])], clips(images, 4), (0, 1))
    stage = BlurDown()
    for i, image in enumerate(images):
        expected = np.rint(stage.apply(image, None, np.random.default_rng(0), (12, 16)))
        for frame in batch["lq"][i]:
            assert np.abs(255 * frame.permute(1, 2, 0).numpy() - expected).max() < 1.01


@pytest.mark.parametrize("stage", SECOND_ORDER[1:4] + SECOND_ORDER[8:])
def test_frames_of_a_clip_share_what_is_drawn_and_samples_do_not(stage: dict[str, Any], images: np.ndarray) -> None:
    same = np.repeat(images[:1], 3, 0)
    lq = augment_batch([Degrade(stages=[stage])], clips(same, 2), (0, 1))["lq"]
    noise = stage["type"] == "Noise"
    assert torch.allclose(lq[:, 0], lq[:, 1], atol=1e-4) is not noise
    if stage["type"] != "RandomResize":  # one factor for a batch
        assert not torch.allclose(lq[0], lq[1], atol=1e-3)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_second_order_list_gives_lq_of_8_bits_that_depends_on_the_seeds_alone(scale: int, images: np.ndarray) -> None:
    batch, augment = clips(images, scale), Degrade(stages=SECOND_ORDER)
    results = [augment_batch([augment], batch, seeds) for seeds in ((0, 1), (0, 1), (0, 2))]
    assert torch.equal(results[0]["lq"], results[1]["lq"])
    assert not torch.equal(results[0]["lq"], results[2]["lq"])
    lq = results[0]["lq"]
    assert lq.shape == batch["lq"].shape
    assert torch.allclose((255 * lq).round(), 255 * lq, atol=1e-3)
    assert 0 <= float(lq.min()) <= float(lq.max()) <= 1
    assert not torch.equal(results[0]["gt"], batch["gt"])  # sharpened


def test_images_need_no_time_axis_and_gt_stays_without_usm(images: np.ndarray) -> None:
    gt = tensor(images) / 255
    batch = {"gt": gt, "lq": torch.zeros(3, 3, 24, 32)}
    augment = Degrade(stages=[{"type": "GaussianBlur", "sigma": [1, 2], "prob": 0.5}])
    result = augment_batch([augment], batch, (3,))
    assert result["lq"].shape == (3, 3, 24, 32)
    assert torch.equal(result["gt"], gt)
    expected = device.resized(255 * gt, (24, 32), "antialiased").round().clamp(0, 255) / 255
    counts = [0, 0]
    for step in range(40):
        lq = augment_batch([augment], batch, (step,))["lq"]
        for got, plain in zip(lq, expected, strict=True):
            counts[torch.allclose(got, plain, atol=1e-4)] += 1
    assert min(counts) > 35  # 60 of 120 expected, standard deviation 5.5
    always = augment_batch([Degrade(stages=[{"type": "GaussianBlur", "sigma": [1, 2], "prob": 0.0}])], batch, (3,))
    torch.testing.assert_close(always["lq"], expected)


def test_what_the_device_cannot_do_is_refused(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="stages: expected stages that exist on the device, got FrameAverage"):
        Degrade(stages=[{"type": "FrameAverage", "num_frame": 3}])
    batch = clips(images, 2)
    batch["gt"] = batch["gt"][:, 0]
    with pytest.raises(ValueError, match="expected a GT frame for each LQ frame for Degrade, got windows"):
        augment_batch([Degrade(stages=[{"type": "JPEG"}])], batch, (0,))


def test_the_views_of_a_stereo_pair_are_degraded_alike() -> None:
    view = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(3))
    batch = {"gt": torch.cat([view, view], 1), "lq": torch.zeros(2, 6, 24, 32)}
    stages = [stage for stage in SECOND_ORDER if stage["type"] != "Noise"]
    lq = augment_batch([Degrade(stages=stages)], batch, (1, 2))["lq"]
    assert lq.shape == (2, 6, 24, 32)
    assert torch.equal(lq[:, :3], lq[:, 3:])
    assert not torch.equal(lq[0], lq[1])
    images = {"gt": view, "lq": torch.zeros(2, 3, 24, 32)}
    torch.testing.assert_close(augment_batch([Degrade(stages=stages)], images, (1, 2))["lq"], lq[:, :3])
