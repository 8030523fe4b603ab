"""Filling a part of a network from a checkpoint of its own, as the official networks do when they are built."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def load_part(part: nn.Module, path: str, *, prefix: str) -> None:
    """Copy the weights in ``path`` into ``part``.

    The file may hold the part alone, a larger network of which it is a subset, or a network that has it
    under ``prefix``; as a plain dict of tensors or under params_ema or params. Buffers that the part
    fills by itself may be missing. On the meta device, where tensors have no values, no file is read.

    Args:
        part: What receives the weights.
        path: A .pth file; it is read without running any code that it may hold.
        prefix: Name of the part in networks that contain it, with the dot.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no checkpoint, or holds no such part.
    """
    if all(parameter.is_meta for parameter in part.parameters()):
        return
    name = type(part).__name__
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path}: expected pretrained weights of {name}, found no such file. "
            "Put it there or correct the path; a checkpoint of the whole network makes it needless: then leave it out."
        )
    weights = {str(key).removeprefix("module."): value for key, value in _read(path).items()}
    if any(key.startswith(prefix) for key in weights):
        weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    made_by_itself = {key for key, _ in part.named_buffers()}
    own = {key: value for key, value in part.state_dict().items() if key in weights or key not in made_by_itself}
    missing = [key for key in own if key not in weights]
    unlike = [key for key in own if key in weights and getattr(weights[key], "shape", None) != own[key].shape]
    if missing or unlike:
        example = f"no '{missing[0]}'" if missing else f"another shape of '{unlike[0]}'"
        raise ValueError(
            f"{path}: expected the {len(own)} tensors of {name}, got {len(missing)} too few and {len(unlike)} of "
            f"another shape: {example}. Is this the right file?"
        )
    part.load_state_dict({key: weights[key] for key in own}, strict=False)


def _read(path: str) -> Mapping[Any, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a broken or hostile file provokes is of many kinds
        # torch's own words for what it refuses advise to run it
        refused = type(error).__name__ == "UnpicklingError" or not str(error)
        reason = type(error).__name__ if refused else str(error).splitlines()[0]
        raise ValueError(
            f"{path}: expected a checkpoint of tensors, could not read it: {reason}. Fetch or copy it again."
        ) from error
    for entry in ("params_ema", "params"):
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            content = content[entry]
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dict of tensors, got {type(content).__name__}. Save the state_dict.")
    return content
