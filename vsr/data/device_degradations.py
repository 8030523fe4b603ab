"""Degradations of whole batches on the device: the stages of ``vsr.data.degradation_stages`` in PyTorch.

Images are float (n, 3, h, w), RGB, of the range 0 to 255; n runs over the frames of all samples. Kernels, factors and
qualities are drawn on the host by the stages themselves; noise is drawn on the device.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vsr.data.batch_augment import BatchAugment
from vsr.data.blur_stages import USM, BlurDown, GaussianBlur, RandomBlur, SincFilter
from vsr.data.degradation_stages import JPEG, Noise, RandomResize, Resize, Shuffle
from vsr.data.kernels import padded, shaped_kernel
from vsr.data.stage import Rng, Size, Stage, check_prob
from vsr.registry import BATCH_AUGMENTS, DEGRADATIONS
from vsr.utils.resize import taps

_SUPPORTED = (USM, BlurDown, GaussianBlur, RandomBlur, SincFilter, JPEG, Noise, RandomResize, Resize, Shuffle)


@BATCH_AUGMENTS.register
class Degrade(BatchAugment):
    """Make LQ from the GT of the batch, in place of the loader's LQ: the stages of ``degradations``, on the device.

    For clips, images and stereo pairs; borders of the crop are mirrored. Factors of RandomResize and the order of
    Shuffle are those of the batch, all else that of each sample. FrameAverage and VideoCompression are left to the
    loader.

    Args:
        stages: As in ``datasets.train.degradations``.
        prob: How probable it is that a batch is changed; else the loader's LQ stays.
    """

    def __init__(self, *, stages: Sequence[Mapping[str, Any]], prob: float = 1.0) -> None:
        self.stages: list[Stage] = [DEGRADATIONS.build(stage) for stage in stages]
        for stage in self.stages:
            if not isinstance(stage, _SUPPORTED):
                name = type(stage).__name__
                raise ValueError(f"stages: expected stages that exist on the device, got {name}. Leave it to the set.")
        self.prob = check_prob(prob)

    def apply(self, lq: Tensor, gt: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        if gt.dim() != lq.dim():
            raise ValueError(
                "train.batch_augment: expected a GT frame for each LQ frame for Degrade, got windows with one. "
                "Use datasets.train.degradations."
            )
        generator = torch.Generator(gt.device).manual_seed(int(rng.integers(2**62)))
        images, size = 255 * gt.reshape(-1, 3, *gt.shape[-2:]), (lq.shape[-2], lq.shape[-1])
        frames = len(images) // len(gt)  # of a stereo pair two
        for stage in self.stages:
            if isinstance(stage, USM):
                images = sharpened(images, stage)
                gt = (images.round() / 255).reshape(gt.shape) if stage.gt else gt
            else:
                images = _applied(stage, images, rng, generator, size, frames)
        if images.shape[-2:] != size:
            images = resized(images, size, "antialiased")
        return images.round().clamp(0, 255).div(255).reshape(lq.shape).to(lq.dtype), gt


def _applied(stage: Stage, x: Tensor, rng: Rng, generator: torch.Generator, size: Size, frames: int) -> Tensor:
    """Return a batch after a stage; each sample has ``frames`` consecutive images."""
    if isinstance(stage, Shuffle):
        order = rng.permutation(len(stage.groups)) if rng.random() < stage.shuffle else range(len(stage.groups))
        for part in (part for i in order for part in stage.groups[i]):
            x = _applied(part, x, rng, generator, size, frames)
        return x
    if isinstance(stage, BlurDown):
        step = x.shape[-2] // size[0]
        if x.shape[-2:] != (step * size[0], step * size[1]):
            raise ValueError(f"BlurDown: expected a whole multiple of LQ's size {size}, got {tuple(x.shape[-2:])}.")
        sigma = 0.4 * step if stage.sigma is None else stage.sigma
        return gaussian_blur(x, sigma, stage.size)[..., ::step, ::step].contiguous()
    if isinstance(stage, Resize):
        return resized(x, size, stage.draw(rng))
    if isinstance(stage, RandomResize):
        acts, (factor, mode) = rng.random() < stage.prob, stage.draw(rng)
        height, width = size if stage.relative_to == "lq" else x.shape[-2:]
        return resized(x, (max(1, round(factor * height)), max(1, round(factor * width))), mode) if acts else x
    count = len(x) if stage.vary else len(x) // frames
    drawn = [(rng.random() < stage.prob, stage.draw(rng)) for _ in range(count)]
    drawn = drawn if stage.vary else [entry for entry in drawn for _ in range(frames)]
    acting = [bool(act) for act, _ in drawn]
    if not any(acting):
        return x
    changed = _changed(stage, x, [value for _, value in drawn], generator)
    return changed if all(acting) else torch.where(_column(acting, x) > 0, changed, x)


def _changed(stage: Stage, x: Tensor, drawn: Sequence[Any], generator: torch.Generator) -> Tensor:
    if isinstance(stage, Noise):
        return noisy(x, drawn, generator)
    if isinstance(stage, JPEG):
        return jpeg(x, drawn)
    if isinstance(stage, GaussianBlur):
        drawn = [shaped_kernel("iso", 2 * stage.reach(1) + 1, sigma=(sigma, sigma)) for sigma in drawn]
    side = max(len(kernel) for kernel in drawn)
    return filtered(x, torch.from_numpy(np.stack([padded(kernel, side) for kernel in drawn])).to(x))


# --- arithmetic ------------------------------------------------------------------------------------


def filtered(x: Tensor, kernels: Tensor) -> Tensor:
    """Return each image (n, 3, h, w) convolved with its kernel (n, k, k), borders mirrored."""
    n, channels, height, width = x.shape
    weight = kernels[:, None].repeat_interleave(channels, 0)
    wide = _mirrored(x, kernels.shape[-1] // 2, kernels.shape[-1] // 2)
    flat = wide.reshape(1, n * channels, *wide.shape[-2:])
    return F.conv2d(flat, weight, groups=n * channels).reshape(n, channels, height, width)


def gaussian_blur(x: Tensor, sigma: float, size: int) -> Tensor:
    """Return images convolved with the sampled Gaussian of ``size`` taps along each axis, borders mirrored."""
    line = torch.exp(-0.5 * ((torch.arange(size) - size // 2) / sigma) ** 2)
    line = (line / line.sum()).to(x).expand(x.shape[1], 1, size)
    x = F.conv2d(_mirrored(x, size // 2, 0), line[..., None], groups=x.shape[1])
    return F.conv2d(_mirrored(x, 0, size // 2), line[..., None, :], groups=x.shape[1])


def _mirrored(x: Tensor, rows: int, columns: int) -> Tensor:
    fits = rows < x.shape[-2] and columns < x.shape[-1]
    return F.pad(x, (columns, columns, rows, rows), "reflect" if fits else "replicate")


def sharpened(x: Tensor, stage: USM) -> Tensor:
    """See ``USM``."""
    sigma = 0.3 * ((stage.size - 1) * 0.5 - 1) + 0.8
    residual = x - gaussian_blur(x, sigma, stage.size)
    mask = gaussian_blur((residual.abs() > stage.threshold).to(x), sigma, stage.size)
    return x + mask * ((x + stage.weight * residual).clamp(0, 255) - x)


def resized(x: Tensor, size: Size, mode: str) -> Tensor:
    """Return images of a size; ``area`` averages whole pixels, the other modes are those of the loader."""
    if x.shape[-2:] == size:
        return x
    if mode == "antialiased":
        rows, columns = (_matrix(old, new).to(x) for old, new in zip(x.shape[-2:], size, strict=True))
        return rows @ x @ columns.T
    return F.interpolate(x, size=size, mode=mode, **({} if mode == "area" else {"align_corners": False}))


@functools.lru_cache(maxsize=64)
def _matrix(length: int, count: int) -> Tensor:
    """Return the antialiased bicubic reduction of an axis as a matrix (count, length)."""
    indices, weights = taps(length, count / length, True)
    matrix = np.zeros((count, length))
    np.add.at(matrix, (np.arange(count)[:, None], indices), weights)
    return torch.from_numpy(matrix)


def noisy(x: Tensor, drawn: Sequence[tuple[bool, float, bool]], generator: torch.Generator) -> Tensor:
    """Return images with noise of the kinds and strengths that ``Noise`` drew for each."""
    gaussian, strength, gray = (_column(values, x) for values in zip(*drawn, strict=True))
    normal = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    luminance = (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    levels = torch.where(gray > 0, luminance, x).clamp(0, 255).round()
    flat = levels.flatten(1)
    present = torch.zeros(len(x), 256, device=x.device, dtype=x.dtype).scatter_(1, flat.long(), 1.0)
    photons = torch.exp2(torch.ceil(torch.log2(present.sum(1))))[:, None, None, None]
    counted = torch.poisson(levels * photons / 255, generator=generator) * 255 / photons
    noise = torch.where(gaussian > 0, normal, counted - levels)
    noise = torch.where(gray > 0, noise[:, :1], noise)
    return (x + strength * noise).clamp(0, 255)


def _column(values: Sequence[float], x: Tensor) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=x.dtype).to(x.device)[:, None, None, None]


# --- JPEG ------------------------------------------------------------------------------------------

# Annex K of ITU-T T.81.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8,) * 4,
)  # fmt: skip


def jpeg(x: Tensor, qualities: Sequence[int]) -> Tensor:
    """Return images as baseline JPEG (4:2:0, libjpeg's tables) of a quality each, 1 to 100, gives them back.

    Entropy coding loses nothing and is left out. Encoders round their transforms differently: by a few levels.
    """
    height, width = x.shape[-2:]
    x = F.pad(x.clamp(0, 255).round(), (0, -width % 16, 0, -height % 16), "replicate")
    red, green, blue = x.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], 1).round()  # about 0
    luma = _coded(luma[:, None].round() - 128, _table(_LUMA, qualities, x)) + 128
    # libjpeg rounds the mean of four down and up, column by column in turn; without it many coefficients would differ.
    bias = torch.arange(x.shape[-1] // 2, device=x.device) % 2 / 4 + 0.25
    chroma = (F.avg_pool2d(chroma, 2) + bias).floor()
    chroma = F.interpolate(_coded(chroma, _table(_CHROMA, qualities, x)), scale_factor=2,
                           mode="bilinear", align_corners=False)  # fmt: skip
    luma, cb, cr = luma[:, 0].round().clamp(0, 255), *chroma.round().clamp(-128, 127).unbind(1)
    rgb = torch.stack([luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb], 1)
    return rgb[..., :height, :width].round().clamp(0, 255)


def _table(base: tuple[tuple[int, ...], ...], qualities: Sequence[int], x: Tensor) -> Tensor:
    """Return the steps (n, 1, 1, 1, 8, 8) of libjpeg's scaling of a table."""
    factors = [5000 // quality if quality < 50 else 200 - 2 * quality for quality in qualities]
    tables = (np.asarray(base) * np.asarray(factors)[:, None, None] + 50) // 100
    return torch.from_numpy(tables.clip(1, 255)).to(x)[:, None, None, None]


def _coded(planes: Tensor, table: Tensor) -> Tensor:
    """Return planes (n, c, h, w) after the quantisation of the cosine transform of their blocks."""
    k = torch.arange(8, dtype=torch.float64)
    cosine = torch.cos(torch.pi / 8 * (k + 0.5) * k[:, None]) / 2
    cosine[0] /= 2**0.5
    cosine = cosine.to(planes)
    blocks = planes.unflatten(-2, (-1, 8)).unflatten(-1, (-1, 8)).transpose(-3, -2)  # (n, c, h/8, w/8, 8, 8)
    coefficients = ((cosine @ blocks @ cosine.T) / table).round() * table
    return (cosine.T @ coefficients @ cosine).transpose(-3, -2).flatten(-2).flatten(-3, -2)
