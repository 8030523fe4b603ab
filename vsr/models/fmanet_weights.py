"""FMA-Net's official checkpoints: a file for each of its two networks, which were trained on blue-first frames."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

# The entry that holds a network's tensors -> where the network is in vsr's FMANet.
NET_D, NET_R = "model_D_state_dict", "model_R_state_dict"
_PREFIXES = {NET_D: "degradation_learning_network.", NET_R: "restoration_network."}
_FILES = ("model_D_best.pt", "model_R_best.pt")
# Layers that see colours: the tensor, which axis, and where three channels are the colours of a frame. -6 and -3:
# f_conv3 sees flows, then a warped frame and the centre one.
_COLOURS: tuple[tuple[str, int, tuple[int, ...]], ...] = (
    ("degradation_learning_network.feature_extractor.0.weight", 1, (0,)),
    ("degradation_learning_network.a_conv.2.weight", 0, (0,)),
    ("degradation_learning_network.a_conv.2.bias", 0, (0,)),
    ("restoration_network.feature_extractor.0.weight", 1, (0,)),
    ("restoration_network.f_conv3.0.weight", 1, (-6, -3)),
    ("restoration_network.a_conv.2.weight", 0, (0,)),
    ("restoration_network.a_conv.2.bias", 0, (0,)),
    ("restoration_network.res_conv2.weight", 0, (0,)),
    ("restoration_network.res_conv2.bias", 0, (0,)),
)


def read_parts(path: Path, read: Callable[[Path], dict[Any, Any]]) -> list[dict[Any, Any]]:
    """Return the contents that belong together where ``path`` is named: one file's, or two of FMA-Net.

    Args:
        path: A file, or a folder with model_D_best.pt and, in stage 2, model_R_best.pt. To a file of Net^R belongs
            the file of Net^D beside it: model_R_best.pt and model_D_best.pt, say.
        read: Reads a file.

    Raises:
        FileNotFoundError: a folder without such files, or a file of Net^R alone.
    """
    if path.is_dir():
        files = [path / name for name in _FILES if (path / name).is_file()]
        if not files or files[0].name != _FILES[0]:
            raise FileNotFoundError(
                f"{path}: expected a checkpoint, or a folder with FMA-Net's {_FILES[0]} and, of stage 2, {_FILES[1]}; "
                "found neither. Name a file."
            )
        return [read(file) for file in files]
    content = read(path)
    if NET_R not in content or NET_D in content:
        return [content]
    beside = path.with_name(re.sub(r"_R(?=[_.])", "_D", path.name, count=1))
    if beside == path or not beside.is_file():
        raise FileNotFoundError(
            f"{path}: expected Net^D's checkpoint beside that of FMA-Net's Net^R, found no {beside.name}. "
            "Put the two into one folder."
        )
    return [read(beside), content]


def is_official(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(content.get(entry), dict) for entry in _PREFIXES)


def join(parts: list[dict[Any, Any]], name: Callable[[str], str]) -> dict[str, Tensor]:
    """Return the tensors of FMANet from official contents.

    Args:
        parts: See ``read_parts``.
        name: Takes what wrappers of a module put before a name off.
    """
    return {
        prefix + name(str(key)): value
        for entry, prefix in _PREFIXES.items()
        for content in parts
        if isinstance(content.get(entry), dict)
        for key, value in content[entry].items()
    }


def red_first(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make of FMANet's tensors, trained on blue, green, red, those of a network for red, green, blue."""
    turned = dict(weights)
    for name, axis, places in _COLOURS:
        if name in turned:
            order = list(range(turned[name].shape[axis]))
            for place in places:
                first = place % len(order)
                order[first : first + 3] = order[first : first + 3][::-1]
            turned[name] = turned[name].index_select(axis, turned[name].new_tensor(order).long())
    return turned
