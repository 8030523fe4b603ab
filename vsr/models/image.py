"""Restoration of single images."""

from typing import Any

from vsr.models.restoration import Batch, RestorationModel
from vsr.registry import MODELS


@MODELS.register
class ImageModel(RestorationModel):
    """Networks that map an image (b, 3, h, w) to one of ``scale`` times its size."""

    def check_sample(self, sample: Batch, where: str, *, train: bool) -> None:
        shape: Any = tuple(sample["lq"].shape)
        if len(shape) != 3:
            raise ValueError(
                f"{where}.type: expected a data set of images (3, h, w) for model_type ImageModel, "
                f"got samples of {shape}. Use PairedImageDataset, or model_type: VideoModel."
            )
        if shape[0] != 3:
            raise ValueError(
                f"{where}.type: expected a data set of images (3, h, w) for model_type ImageModel, "
                f"got stereo pairs of {shape}. Use model_type: StereoModel."
            )
        temporal = getattr(self.network_g, "temporal", "image")
        if temporal != "image":
            raise ValueError(
                f"network_g.type: expected a network of single images for model_type ImageModel, got "
                f"{self.options.network_g.type} ({temporal}). Use model_type: VideoModel."
            )
        super().check_sample(sample, where, train=train)
