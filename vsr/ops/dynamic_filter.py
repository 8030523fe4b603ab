"""Filters whose kernels are predicted for every pixel, applied to warped frames, and the warps (FMA-Net, CVPR 2024)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vsr.ops.warp import flow_warp


def multi_flow_warp(features: Tensor, flows: Tensor) -> Tensor:
    """Move each group of channels by a flow of its own, and weigh it by that flow's mask.

    Args:
        features: (b, c, t, h, w).
        flows: (b, 3n, t, h, w): for each of n groups of c/n channels dx, dy in pixels and the logit of its mask.

    Returns:
        (b, c, t, h, w).
    """
    b, c, t, h, w = features.shape
    n = flows.shape[1] // 3
    grouped = features.reshape(b, n, c // n, t, h, w).transpose(2, 3).reshape(b * n * t, c // n, h, w)
    pairs = flows.reshape(b, n, 3, t, h, w).transpose(2, 3).reshape(b * n * t, 3, h, w)
    warped = flow_warp(grouped, pairs[:, :2]) * pairs[:, 2:].sigmoid()
    return warped.reshape(b, n, t, c // n, h, w).transpose(2, 3).reshape(b, c, t, h, w)


def image_warp(images: Tensor, flow: Tensor, scale: int = 1) -> tuple[Tensor, Tensor]:
    """Move frames by a flow that is ``scale`` times smaller, and mask what it cannot see.

    Args:
        images: (b, c, t, scale*h, scale*w).
        flow: (b, 3, t, h, w): dx, dy in pixels of its own size, and the logit of the mask.

    Returns:
        The occlusion (b, 1, t, scale*h, scale*w), the mask where the flow points into the image, and the masked
        and warped frames.
    """
    b, c, t, height, width = images.shape
    frames = images.transpose(1, 2).reshape(b * t, c, height, width)
    flow = flow.transpose(1, 2).reshape(b * t, 3, *flow.shape[3:])
    moves, mask = flow[:, :2], flow[:, 2:].sigmoid()
    if scale != 1:
        moves = F.interpolate(moves * scale, scale_factor=scale, mode="bilinear", align_corners=False)
        mask = F.interpolate(mask, scale_factor=scale, mode="bilinear", align_corners=False)
    both = flow_warp(torch.cat((torch.ones_like(frames[:, :1]), frames), 1), moves) * mask
    both = both.reshape(b, t, c + 1, height, width).transpose(1, 2)
    return both[:, :1], both[:, 1:]


def down_filter(frames: Tensor, logits: Tensor, occlusion: Tensor, *, kernel_size: int, stride: int) -> Tensor:
    """Filter frames to one smaller image, each of its pixels by a kernel over space and time of its own.

    Args:
        frames: (b, c, t, stride*h, stride*w).
        logits: (b, kernel_size**2, t, h, w); their softmax over t and the window is the kernel.
        occlusion: (b, c or 1, t, stride*h, stride*w), by whose filtered value the filtered frames are divided.
        kernel_size: Side of the window.
        stride: Frames' size over that of the image.

    Returns:
        (b, c, h, w).
    """
    b, _, t = frames.shape[:3]
    h, w = logits.shape[3:]
    weight = logits.transpose(1, 2).reshape(b, 1, t * kernel_size**2, h * w).softmax(2)
    pad = (kernel_size - stride) // 2

    def filtered(x: Tensor) -> Tensor:
        channels = x.shape[1]
        x = F.pad(x.reshape(b, channels * t, *x.shape[3:]), (pad, pad, pad, pad), mode="replicate")
        windows = F.unfold(x, kernel_size, stride=stride).reshape(b, channels, t * kernel_size**2, h * w)
        return (windows * weight).sum(2).reshape(b, channels, h, w)

    return filtered(frames) / (filtered(occlusion) + 1e-8)


def up_filter(frames: Tensor, kernels: Tensor, *, kernel_size: int, scale: int) -> Tensor:
    """Filter frames to one larger image, each of its pixels by a kernel over space and time of its own.

    Args:
        frames: (b, c, t, h, w).
        kernels: (b, scale**2 * kernel_size**2, t, h, w): row and column of the pixel within its cell, then row and
            column of the window; moved to a sum of one.
        kernel_size: Side of the window, odd.
        scale: Size of the image over that of the frames.

    Returns:
        (b, c, scale*h, scale*w).
    """
    b, c, t, h, w = frames.shape
    taps = t * kernel_size**2
    kernels = kernels.reshape(b, 1, scale**2, kernel_size**2, t, h * w).transpose(3, 4).flatten(3, 4)
    kernels = kernels - kernels.mean(3, keepdim=True) + 1 / taps
    pad = kernel_size // 2
    x = F.pad(frames.reshape(b, c * t, h, w), (pad, pad, pad, pad), mode="replicate")
    windows = F.unfold(x, kernel_size).reshape(b, c, 1, taps, h * w)
    out = (windows * kernels).sum(3).reshape(b, c * scale**2, h, w)
    return F.pixel_shuffle(out, scale)
