"""Backward warping: moving an image, or features, by an optical flow."""

import torch
import torch.nn.functional as F
from torch import Tensor

MODES = ("bilinear", "nearest", "bicubic")
PADDINGS = ("zeros", "border", "reflection")


def flow_warp(x: Tensor, flow: Tensor, interp_mode: str = "bilinear", padding_mode: str = "zeros") -> Tensor:
    """Read ``x`` where ``flow`` points: out(p) = x(p + flow(p)).

    Places are computed in float32 at least, because half precision cannot name a place in an image.

    Args:
        x: (b, c, h, w).
        flow: (b, 2, h, w), x then y, in pixels; of any floating type.
        interp_mode: 'bilinear', 'nearest' or 'bicubic'.
        padding_mode: What lies outside: 'zeros', the 'border' pixel again, or the image mirrored at the
            centres of its border pixels ('reflection').

    Returns:
        (b, c, h, w) of x's type.

    Raises:
        ValueError: the shapes do not fit each other, or a mode is unknown.
    """
    if x.dim() != 4 or flow.shape != (x.shape[0], 2, *x.shape[2:]):
        raise ValueError(
            f"flow: expected (b, 2, h, w) for x (b, c, h, w), got {tuple(flow.shape)} for {tuple(x.shape)}."
        )
    if interp_mode not in MODES or padding_mode not in PADDINGS:
        raise ValueError(
            f"interp_mode, padding_mode: expected one of {', '.join(MODES)} and one of {', '.join(PADDINGS)}, "
            f"got {interp_mode!r} and {padding_mode!r}."
        )
    height, width = x.shape[2:]
    dtype = torch.promote_types(torch.promote_types(x.dtype, flow.dtype), torch.float32)
    flow = flow.to(dtype)
    places_x = flow[:, 0] + torch.arange(width, device=x.device, dtype=dtype)
    places_y = flow[:, 1] + torch.arange(height, device=x.device, dtype=dtype)[:, None]
    if padding_mode == "reflection":  # the only one for which grid_sample's two scales differ in more than form
        grid = [2 * p / max(n - 1, 1) - 1 for p, n in ((places_x, width), (places_y, height))]
    else:  # this scale also tells places apart where a side is one pixel
        grid = [(2 * p + 1) / n - 1 for p, n in ((places_x, width), (places_y, height))]
    warped = F.grid_sample(
        x.to(dtype),
        torch.stack(grid, -1),
        mode=interp_mode,
        padding_mode=padding_mode,
        align_corners=padding_mode == "reflection",
    )
    return warped.to(x.dtype)
