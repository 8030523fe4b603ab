"""Restoration of videos: of windows around a frame, and of whole clips."""

from collections.abc import Callable, Collection, Iterable

import torch
from torch import Tensor

from vsr.inference import restore as restore_clip
from vsr.inference.features import with_kept_features
from vsr.inference.tiles import Network
from vsr.models.restoration import Batch, OnFrame, RestorationModel
from vsr.registry import MODELS
from vsr.utils.records import Record


@MODELS.register
class VideoModel(RestorationModel):
    """Networks that map a window (b, t, 3, h, w) to its centre frame, or a clip to all its frames.

    Image networks work here, too: each frame of a clip is restored by itself.
    """

    _window_network: Network | None = None  # during a validation: the network, keeping features between windows

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
                "Make the two equal (sets for prediction call it input_size)."
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
        middle = temporal == "clip" and not train and self.options.val.center_frame_only
        if temporal != "window" and not per_frame and "gt" in sample and not middle:
            raise ValueError(
                f"{where}.type: expected clips with a GT frame for each LQ frame for {name}, got windows. "
                "Use one of the VideoRecurrent... data sets"
                + (", or val.center_frame_only." if temporal == "clip" and not train else ".")
            )
        for key in ("flip_seq", "center_frame_only"):
            if temporal != "clip" and getattr(self.options.val, key):
                raise ValueError(f"val.{key}: expected false for {name}, which is no network of whole clips, got true.")
        super().check_sample(sample, where, train=train)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if getattr(self.network_g, "temporal", "window") != "image":
            return super().forward(batch)
        lq = batch["lq"]
        return {"restored": self.parallel(lq.flatten(0, 1)).unflatten(0, lq.shape[:2])}

    def validate(
        self,
        loader: Iterable[Batch],
        *,
        restore: Callable[[Batch], Tensor] | None = None,
        on_frame: OnFrame | None = None,
        lead: int = 0,
        after_gaps: Collection[str] = (),
    ) -> list[Record]:
        self._window_network = with_kept_features(self.inference_network)  # windows come one after the other
        try:
            return super().validate(loader, restore=restore, on_frame=on_frame, lead=lead, after_gaps=after_gaps)
        finally:
            self._window_network = None

    def restore(self, batch: Batch) -> Tensor:
        val = self.options.val
        whole_clips = getattr(self.network_g, "temporal", "window") == "clip"
        if "frames" not in batch and not whole_clips:  # windows
            whole = None if val.self_ensemble else self._window_network
            return self._restored(batch["lq"], self_ensemble=val.self_ensemble, whole=whole)
        clips = [self._restore_clip(clip, mirrored=val.flip_seq and whole_clips) for clip in batch["lq"]]
        if "frames" not in batch:  # val.center_frame_only
            return torch.stack([clip[len(clip) // 2] for clip in clips])
        return torch.stack(clips) if len(clips) > 1 else clips[0][None]

    def _restore_clip(self, clip: Tensor, *, mirrored: bool) -> Tensor:
        """Restore all frames of a clip (t, 3, h, w); ``mirrored``: BasicVSR's way with Vimeo-90K's short ones."""
        val, total = self.options.val, len(clip)
        frames = clip.cpu()  # and so is the result: only what is being computed has to fit on the device
        restored = restore_clip(
            self.inference_network,
            torch.cat((frames, frames.flip(0))) if mirrored else frames,
            chunk=val.chunk,
            chunk_overlap=val.chunk_overlap,
            tiling=self.tiling,
            self_ensemble=val.self_ensemble,
            device=self.device,
        )
        return (restored[:total] + restored[total:].flip(0)) / 2 if mirrored else restored
