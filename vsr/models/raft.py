"""Optical flow by RAFT-small (Teed and Deng, ECCV 2020, arXiv:2003.12039), with torchvision's network.

The weights are the official ``raft-small.pth`` (or torchvision's own). vsr has no copy of the network: it is wanted
for the preparation of data only, and DIS (``vsr.data.flow``) needs no weights at all. torchvision is imported when
RAFT is asked for and not before.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.data.augment import Flow
from vsr.data.flow import check_frames
from vsr.models.weights import read_weights
from vsr.utils.images import Frame

ITERATIONS = 12  # refinements of the flow, as the official code makes them for a pair of images
MIN_SIDE = 128  # pixels: on less the coarsest correlation level is one pixel, and the flow is not finite
MULTIPLE = 8
MOST_ENLARGED = 8.0  # times; what is narrower still is padded
VOLUME_BYTES = 2**29  # of the correlations of all pixels with all pixels, of the pairs that go at a time
MOST_PAIRS = 16

# Official name -> torchvision's, both are regular expressions of whole parts of the name.
_NAMES = tuple(
    (re.compile(old), new)
    for old, new in (
        (r"^fnet\.", "feature_encoder."),
        (r"^cnet\.", "context_encoder."),
        (r"^(\w+_encoder)\.conv1\.", r"\1.convnormrelu.0."),
        (r"^(\w+_encoder)\.conv2\.", r"\1.conv."),
        (r"^(\w+_encoder\.layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
        (r"^update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
        (r"^update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
        (r"^update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
        (r"^update_block\.gru\.conv([zrq])\.", r"update_block.recurrent_block.convgru1.conv\1."),
    )
)
# What the large network has and the small one has not, in the official code and in torchvision.
_LARGE = ("update_block.gru.convz1.", "update_block.mask.", "update_block.recurrent_block.convgru2.", "mask_predictor.")


def torchvision_name(name: str) -> str:
    """Return what torchvision's raft_small calls the parameter that the official code calls ``name``.

    torchvision's own names are returned as they are.
    """
    for old, new in _NAMES:
        name = old.sub(new, name)
    return name


def load_raft_small(path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """Build torchvision's RAFT-small and fill it with the weights of a file, ready for ``raft_flows``.

    Args:
        path: The official raft-small.pth, or torchvision's raft_small_*.pth.
        device: Where the network shall live.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, or one of another network; of the large RAFT, say.
        ImportError: torchvision is missing, or does not fit this torch.
    """
    weights = {torchvision_name(name): value for name, value in read_weights(path).items()}
    if any(name.startswith(_LARGE) for name in weights):
        raise ValueError(
            f"{path}: expected weights of RAFT's small network, got those of the large one, which is not supported. "
            "Take raft-small.pth, or --method dis, which needs no weights."
        )
    network = _raft_small()
    own = network.state_dict()
    unlike = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    unlike += [name for name in weights if name not in own]
    if unlike:
        raise ValueError(
            f"{path}: expected weights of RAFT's small network ({len(own)} tensors), got {len(weights)} tensors of "
            f"another; {len(unlike)} differ, such as {', '.join(unlike[:3])}. Take raft-small.pth."
        )
    network.load_state_dict(weights, strict=True)
    return network.to(device).eval()


def _raft_small() -> nn.Module:
    try:
        from torchvision.models.optical_flow import raft_small
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise ImportError(f"RAFT: expected the package torchvision, which is not installed. {_advice()}") from error
    except (ImportError, RuntimeError, OSError, AttributeError) as error:  # the signs of two that do not fit
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else '-'}"
        raise ImportError(
            f"RAFT: torchvision is installed, but cannot be imported beside torch {torch.__version__} ({reason}): "
            f"the two do not fit. {_advice()}"
        ) from error
    network: nn.Module = raft_small(weights=None, progress=False)
    return network


def _advice() -> str:
    here = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU; plain 'pip install' gives the one for CUDA"
    return (
        f"Install the torchvision that was built for this torch from where it came from ({torch.__version__}, for "
        f"{here}). Or take --method dis, which needs neither it nor weights."
    )


def pairs_at_a_time(size: tuple[int, int]) -> int:
    """Return how many pairs of frames (height, width) go through the network together, for the sake of its memory."""
    height, width = _padded(_enlarged(size))
    places = (height // MULTIPLE) * (width // MULTIPLE)
    return max(1, min(MOST_PAIRS, VOLUME_BYTES // (4 * places * places)))


@torch.inference_mode()
def raft_flows(
    network: nn.Module,
    centres: Sequence[Frame],
    neighbours: Sequence[Frame],
    *,
    iterations: int = ITERATIONS,
    bgr: bool = False,
) -> Flow:
    """Find the flows (n, 2, h, w), float32, from n centres to their neighbours, as ``vsr.data.flow`` defines them.

    Args:
        network: Of ``load_raft_small``.
        centres, neighbours: n frames uint8 (h, w, 3) RGB each, all of one size. Those smaller than 128 are enlarged
            for the network.
        iterations: Refinements; the last one's flow is returned.
        bgr: Show the network blue as red, as FMA-Net's preparation does. It was trained on RGB.

    Raises:
        ValueError: the frames are of another type or shape, or of different sizes; iterations is below 1.
    """
    if iterations < 1:
        raise ValueError(f"iterations: expected 1 or more, got {iterations}.")
    for centre, neighbour in zip(centres, neighbours, strict=True):
        check_frames(centre, neighbour)
        check_frames(centre, centres[0])
    device = next(network.parameters()).device
    size = centres[0].shape[:2]
    height, width = _enlarged(size)
    first, second = (_prepared(frames, device, bgr=bgr) for frames in (centres, neighbours))
    flow: Tensor = network(first, second, num_flow_updates=iterations)[-1][..., :height, :width].float()
    if (height, width) != size:
        flow = F.interpolate(flow, size, mode="bilinear", align_corners=False, antialias=True)
        flow = flow * flow.new_tensor([size[1] / width, size[0] / height]).view(1, 2, 1, 1)
    return flow.cpu().contiguous().numpy()


def _prepared(frames: Sequence[Frame], device: torch.device, *, bgr: bool) -> Tensor:
    """Stack frames to (n, 3, h, w) in [-1, 1], black below and on the right as the official code pads."""
    size = frames[0].shape[:2]
    pixels = torch.from_numpy(np.stack([frame[..., ::-1] if bgr else frame for frame in frames])).to(device)
    pixels = pixels.permute(0, 3, 1, 2).float()
    if (wanted := _enlarged(size)) != size:
        pixels = F.interpolate(pixels, wanted, mode="bicubic", align_corners=False).clamp(0, 255)
    height, width = _padded(wanted)
    pixels = F.pad(pixels, (0, width - wanted[1], 0, height - wanted[0]))
    return (2 * (pixels / 255) - 1).contiguous()


def _enlarged(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size that small frames are brought to: padded instead, their flow would be off by half a pixel."""
    factor = min(max(1.0, MIN_SIDE / min(size)), MOST_ENLARGED)
    return round(size[0] * factor), round(size[1] * factor)


def _padded(size: tuple[int, int]) -> tuple[int, int]:
    height, width = (max(MIN_SIDE, -(-side // MULTIPLE) * MULTIPLE) for side in size)
    return height, width
