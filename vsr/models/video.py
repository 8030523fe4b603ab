"""Restoration of videos: of windows around a frame, and of whole clips."""

import torch
from torch import Tensor

from vsr.inference import restore as restore_clip
from vsr.models.restoration import Batch, RestorationModel
from vsr.registry import MODELS


@MODELS.register
class VideoModel(RestorationModel):
    """Networks that map a window (b, t, 3, h, w) to its centre frame, or a clip to all its frames.

    Image networks work here, too: each frame of a clip is restored by itself.
    """

    def check_sample(self, sample: Batch, where: str, *, train: bool) -> None:
        network, name, shape = self.network_g, self.options.network_g.type, tuple(sample["lq"].shape)
        temporal = getattr(network, "temporal", "window")
        if len(shape) != 4:
            raise ValueError(
                f"{where}.type: expected a data set of windows or clips (t, 3, h, w) for model_type VideoModel, "
                f"got samples of {shape}. Use one of the Video... data sets, or model_type: ImageModel."
            )
        window = getattr(network, "num_frame", None)
        whole_clip = "frames" in sample
        if temporal == "window" and not whole_clip and shape[0] != window:
            raise ValueError(
                f"{where}.num_frame: expected {window}, the window of network_g ({name}), got {shape[0]}. "
                "Make the two equal."
            )
        centre = getattr(network, "center_frame_idx", shape[0] // 2)
        if temporal == "window" and not whole_clip and centre != shape[0] // 2:
            raise ValueError(
                f"network_g.center_frame_idx: expected {shape[0] // 2}, a window's middle frame, which has the GT, "
                f"got {centre}. Leave it out."
            )
        per_frame = "gt" in sample and sample["gt"].dim() == 4
        if train and temporal == "window" and per_frame:
            raise ValueError(
                f"{where}.type: expected windows with one GT frame for {name}, got clips with a GT frame each. "
                "Use VideoTrainDataset."
            )
        if temporal != "window" and not per_frame and "gt" in sample:
            raise ValueError(
                f"{where}.type: expected clips with a GT frame for each LQ frame for {name}, got windows. "
                "Use one of the VideoRecurrent... data sets."
            )
        super().check_sample(sample, where, train=train)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if getattr(self.network_g, "temporal", "window") != "image":
            return super().forward(batch)
        lq = batch["lq"]
        return {"restored": self.parallel(lq.flatten(0, 1)).unflatten(0, lq.shape[:2])}

    def restore(self, batch: Batch) -> Tensor:
        if "frames" not in batch:  # windows
            return super().restore(batch)
        val = self.options.val
        clips = [
            restore_clip(
                self.inference_network,
                clip,
                tile=val.tile,
                tile_overlap=val.tile_overlap,
                self_ensemble=val.self_ensemble,
            )
            for clip in batch["lq"]
        ]
        return torch.stack(clips)
