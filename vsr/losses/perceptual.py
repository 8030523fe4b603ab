"""Losses that compare two images by what a network for recognition sees in them."""

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vsr.losses.base import checked_pair, checked_weight, no_autocast
from vsr.registry import LOSSES, suggest
from vsr.utils import files
from vsr.utils.download import fetch_once
from vsr.utils.files import cache_root

log = logging.getLogger(__name__)

VggType = Literal["vgg16", "vgg19"]
Criterion = Literal["l1", "l2", "fro"]

_CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # of each block; a pooling ends it
_CHANNELS = (64, 128, 256, 512, 512)
# torchvision's files; the digits in their names begin their SHA-256
_FILES = {"vgg16": "vgg16-397923af.pth", "vgg19": "vgg19-dcbb9e9d.pth"}
_ADDRESS = "https://download.pytorch.org/models/"


class VGGFeatures(nn.Module):
    """The convolutional part of a VGG, as far as the last layer that is wanted, with torchvision's key names.

    Source: Simonyan and Zisserman, ICLR 2015.

    Args:
        vgg_type: 'vgg16' or 'vgg19'.
        layers: Names of the outputs wanted: convB_N (before its ReLU), reluB_N or poolB of block B, 1 to 5.
    """

    def __init__(self, vgg_type: VggType, layers: Collection[str]) -> None:
        super().__init__()
        self.names = _layer_names(vgg_type)
        for layer in layers:
            if layer not in self.names:
                raise ValueError(f"layer_weights: {vgg_type} has no layer '{layer}'.{suggest(layer, self.names)}")
        self.wanted = set(layers)
        self.names = self.names[: 1 + max(map(self.names.index, layers))]
        channels, self.features = 3, nn.Sequential()
        for before, name in zip(["", *self.names], self.names, strict=False):
            kind, block = name[:4], int(name[4])
            if kind == "conv":
                self.features.append(nn.Conv2d(channels, _CHANNELS[block - 1], 3, padding=1))
                channels = _CHANNELS[block - 1]
            elif kind == "relu":
                self.features.append(nn.ReLU(inplace=before not in self.wanted))
            else:
                self.features.append(nn.MaxPool2d(2))
        self.least_side = 2 ** sum(name[:4] == "pool" for name in self.names)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the wanted layers' outputs by name for images (b, 3, h, w), normalised."""
        outputs = {}
        for name, layer in zip(self.names, self.features, strict=True):
            images = layer(images)
            if name in self.wanted:
                outputs[name] = images
        return outputs


@LOSSES.register
class PerceptualLoss(nn.Module):
    """Distance of two images' features in a VGG that was trained on ImageNet, and of their statistics (style).

    perceptual = perceptual_weight * sum over layers of weight * distance of the features;
    style = style_weight * the same of their Gram matrices (products of channels, over c h w).

    The call returns the sum; ``parts`` returns the two for a log. The VGG's weights are torchvision's:
    ``weights``, or vgg19-dcbb9e9d.pth (vgg16-397923af.pth) in $VSR_CACHE/weights, in torch's hub folder, or in
    experiments/pretrained_models. Nothing is fetched unless ``weights`` is an address. The images' gradient
    passes through the VGG, which does not learn. It works in float32.

    Sources: Johnson et al., ECCV 2016; features before the ReLU: Wang et al., ESRGAN, ECCV workshops 2018.

    Args:
        layer_weights: Weight of each layer's term by the layer's name: conv5_4 (before its ReLU), relu3_1, pool2 ...
        vgg_type: 'vgg19' or 'vgg16'.
        use_input_norm: Shift and scale images in [0, 1] to what the VGG was trained on.
        range_norm: The images are in [-1, 1], not [0, 1].
        perceptual_weight: Factor on the features' term; 0: without it.
        style_weight: Factor on the Gram matrices' term; 0: without it.
        criterion: Distance: 'l1' and 'l2' are the means of the absolute and the squared differences, 'fro' is the
            root of the sum of squares.
        weights: File of a VGG's state_dict, or its address (http, https), from where it is fetched once into
            $VSR_CACHE/weights; none: where the published ones are usually kept.
        sha256: SHA-256 of that file, whole or its first digits; a file that has another one is refused. An address
            needs it, unless it ends in the digest's first digits as torchvision's do, vgg19-dcbb9e9d.pth.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        layer_weights: Mapping[str, float],
        vgg_type: VggType = "vgg19",
        use_input_norm: bool = True,
        range_norm: bool = False,
        perceptual_weight: float = 1.0,
        style_weight: float = 0.0,
        criterion: Criterion = "l1",
        weights: str | None = None,
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        if vgg_type not in _FILES:
            raise ValueError(f"vgg_type: expected 'vgg19' or 'vgg16', got {vgg_type!r}")
        if criterion not in ("l1", "l2", "fro"):
            raise ValueError(f"criterion: expected 'l1', 'l2' or 'fro', got {criterion!r}")
        if not layer_weights:
            raise ValueError("layer_weights: expected at least one layer, got none. Add for example conv5_4: 1.")
        factors = {"perceptual_weight": perceptual_weight, "style_weight": style_weight}
        for name, value in factors.items():
            if checked_weight(value, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {value}")
        if not any(factors.values()):
            raise ValueError("perceptual_weight and style_weight: expected one above 0, got 0 and 0. The loss is 0 so.")
        self.layer_weights = {name: checked_weight(w, f"layer_weights.{name}") for name, w in layer_weights.items()}
        self.perceptual_weight, self.style_weight, self.criterion = perceptual_weight, style_weight, criterion
        self.range_norm = range_norm
        self.vgg = VGGFeatures(vgg_type, self.layer_weights)
        _fill(self.vgg, _located(weights, sha256) if weights else _published(vgg_type))
        self.vgg.requires_grad_(False)
        mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if use_input_norm else ([0.0] * 3, [1.0] * 3)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the sum of ``parts``, scalar."""
        return torch.stack(tuple(self.parts(pred, target).values())).sum()

    @property
    def part_weights(self) -> dict[str, float]:
        """The factors of the terms that are not left out."""
        weights = {"perceptual": self.perceptual_weight, "style": self.style_weight}
        return {name: weight for name, weight in weights.items() if weight}

    def parts(self, pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms that are not left out, scalars: 'perceptual', 'style'.

        Args:
            pred, target: Images of one shape, RGB, (b, 3, h, w) or (b, t, 3, h, w).

        Raises:
            ValueError: the shapes differ, there are not 3 channels, or too few pixels for the last layer.
        """
        pred, target = checked_pair(pred, target)
        least = self.vgg.least_side
        if pred.dim() < 4 or pred.shape[-3] != 3 or min(pred.shape[-2:]) < least:
            raise ValueError(
                f"pred: expected images (b, 3, h, w) of at least {least} x {least} pixels, which "
                f"{self.vgg.names[-1]} needs, got {tuple(pred.shape)}"
            )
        with no_autocast(pred):
            with torch.no_grad():
                truth = self.vgg(self._normalised(target))
            seen = self.vgg(self._normalised(pred))
            terms = {}
            if self.perceptual_weight:
                terms["perceptual"] = self.perceptual_weight * self._distance(seen, truth)
            if self.style_weight:
                grams = ({name: _gram(f) for name, f in features.items()} for features in (seen, truth))
                terms["style"] = self.style_weight * self._distance(*grams)
        return terms

    def _normalised(self, images: Tensor) -> Tensor:
        images = images.flatten(0, -4).to(self.mean.dtype)
        if self.range_norm:
            images = (images + 1) / 2
        return (images - self.mean) / self.std

    def _distance(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum over layers."""
        total = self.mean.new_zeros(())
        for name, weight in self.layer_weights.items():
            difference = first[name] - second[name]
            match self.criterion:
                case "l1":
                    distance = difference.abs().mean()
                case "l2":
                    distance = difference.square().mean()
                case _:
                    distance = difference.norm()
            total = total + weight * distance
        return total


def _layer_names(vgg_type: VggType) -> list[str]:
    """Return the names of all layers in the order of torchvision's ``features``."""
    names = []
    for block, convolutions in enumerate(_CONVOLUTIONS[vgg_type], 1):
        for i in range(1, convolutions + 1):
            names += [f"conv{block}_{i}", f"relu{block}_{i}"]
        names.append(f"pool{block}")
    return names


def _gram(features: Tensor) -> Tensor:
    """Return the products of all pairs of channels, (b, c, c), over c h w."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat[0].numel()


def _located(weights: str, digest: str | None) -> Path:
    """Return the file that the option weights names, or that was fetched from there, if it has the digest."""
    if digest is not None and re.fullmatch("[0-9a-f]{8,64}", digest) is None:
        raise ValueError(f"sha256: expected 8 to 64 hexadecimal digits, got {digest!r}")
    if weights.startswith(("http://", "https://")):
        named = re.search(r"-([0-9a-f]{8,64})\.\w+$", weights)
        if digest is None and named is None:
            raise ValueError(f"sha256: expected that of {weights}, which has come over a network, got none. Add it.")
        return fetch_once(weights, digest or named[1])  # type: ignore[index]
    path = Path(weights)
    if digest is not None and path.is_file() and not (found := files.sha256(path)).startswith(digest):
        raise ValueError(f"{path}: expected a file whose SHA-256 begins with {digest} (option sha256), got {found}.")
    return path


def _published(vgg_type: VggType) -> Path:
    """Return torchvision's file of this VGG from where it is kept."""
    file = _FILES[vgg_type]
    own = cache_root() / "weights" / file
    places = [own, Path(torch.hub.get_dir()) / "checkpoints" / file, Path("experiments/pretrained_models") / file]
    for place in places:
        if place.is_file():
            _check_digest(place, file)
            return place
    raise FileNotFoundError(
        f"PerceptualLoss: expected the weights of {vgg_type}, {file}, in {', '.join(map(str, places))}; found none. "
        f"Fetch {_ADDRESS}{file} (about 550 MB, its SHA-256 begins with {_digest(file)}) where there is a network: "
        f"curl -fL --create-dirs -o {own} {_ADDRESS}{file}, or name a copy, or the address, in the option weights."
    )


def _digest(file: str) -> str:
    return file.removesuffix(".pth").rpartition("-")[2]


def _check_digest(path: Path, file: str) -> None:
    if not (found := files.sha256(path)).startswith(_digest(file)):
        raise ValueError(
            f"{path}: expected a file whose SHA-256 begins with {_digest(file)}, got {found[:16]}... "
            f"It is broken, or came only in part. Delete it and fetch {_ADDRESS}{file} again."
        )


def _fill(vgg: VGGFeatures, path: Path) -> None:
    """Load the features from a VGG's state_dict, whose other entries are not needed."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the weights of a VGG (option weights), found no such file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a broken or hostile file provokes is of many kinds
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.filename is not None):
            raise
        kind = type(error).__name__  # the words of some advise to run what the file holds
        raise ValueError(f"{path}: expected the state_dict of a VGG, could not read it ({kind}).") from error
    own = vgg.state_dict()
    found = content if isinstance(content, dict) else {}
    for name, value in own.items():
        shape = tuple(found[name].shape) if isinstance(found.get(name), Tensor) else None
        if shape != tuple(value.shape):
            raise ValueError(
                f"{path}: expected '{name}' of shape {tuple(value.shape)}, got {shape or 'no such tensor'}. "
                "Is this the state_dict of another network, or another vgg_type?"
            )
    vgg.load_state_dict({name: found[name] for name in own})
    log.info("perceptual loss: VGG weights from %s", path)
