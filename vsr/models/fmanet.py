"""FMA-Net's two stages: learning how a video was blurred and reduced, then restoring it as well."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vsr.config import FMANET_LOSSES, Options
from vsr.models.restoration import Batch, RestorationModel
from vsr.registry import MODELS

log = logging.getLogger(__name__)


@MODELS.register
class FMANetModel(RestorationModel):
    """FMANet on windows: in stage 1 its Net^D alone, in stage 2, which starts from stage 1's weights, both networks.

    The terms of train.losses have these names; x are the blurred LQ frames, y the sharp GT frames, c is the centre:

    ======= ===== ===========================================================================================
    recon    1, 2 the centre frame of x that Net^D makes of y, against that of x
    hr_warp  1, 2 y, moved onto y_c and masked, against y_c
    flow     1, 2 the flow that moved it, against labels, to the centre itself zero; off where there are none
    D_TA     1, 2 temporal anchor: sharp LQ frames that Net^D's features show, against the true ones
    output      2 the restored centre frame, against y_c
    lr_warp     2 x, moved onto x_c and masked, against x_c
    R_TA        2 as D_TA, of Net^R
    ======= ===== ===========================================================================================

    What is validated is in stage 2 the restored frame. In stage 1 it is ``recon``, against x_c; that needs y, so the
    data set gives GT of all frames of a window.
    """

    def __init__(self, *, options: Options, device: torch.device, train: bool = True) -> None:
        super().__init__(options=options, device=device, train=train)
        if getattr(self.network_g, "stage", None) not in FMANET_LOSSES:
            raise ValueError(
                f"network_g.type: expected FMANet for model_type FMANetModel, got {options.network_g.type}."
            )
        self.stage: int = self.network_g.stage  # type: ignore[assignment]
        if self.stage == 1:
            self.enlarges = 1
            for metric in self.metrics.values():
                metric.definition += ", of the blurred LQ frame as it is made of GT (stage 1)"
        if train:
            weights = {name: getattr(loss, "loss_weight", None) for name, loss in self.criteria.items()}
            off = [name for name in FMANET_LOSSES[self.stage] if weights.get(name, 0) == 0]
            said = ", ".join(off) or "none"
            log.info("FMA-Net, stage %d; terms of the loss that the options switch off: %s", self.stage, said)

    def load_pretrained(self, source: str) -> set[str]:
        """As for all models; where Net^R is not loaded in stage 2, as from stage 1, Net^D must be, whole, to train.

        Raises:
            ValueError: a part of Net^D is missing, or of another shape; or Net^R is, and nothing is to be trained.
        """
        loaded = super().load_pretrained(source)
        of_net_d = [name for name in self.network_g.state_dict() if name.startswith("degradation_learning_network.")]
        lacking = [name for name in of_net_d if name not in loaded]
        if self.stage == 2 and lacking and loaded.issubset(of_net_d):
            raise ValueError(
                f"{source}: expected all {len(of_net_d)} tensors of Net^D to start stage 2 from, {lacking[0]} is "
                "missing or of another shape. Give network_g the arguments that it has in stage 1, or name the weights "
                "of a stage 1 with these in path.pretrain_network_g."
            )
        if self.stage == 2 and not self.trains and loaded.issubset(of_net_d):
            raise ValueError(
                f"{source}: expected the weights of a stage 2 to restore with, got those of a stage 1, without Net^R. "
                "Name models/net_g_best.pth of a stage 2 in path.pretrain_network_g."
            )
        return loaded

    # --- training ------------------------------------------------------------------------------

    def arranged(self, batch: Batch) -> Batch:
        """Return a batch whose ``gt`` is what is measured, one frame; GT of whole windows is ``gt_frames`` then."""
        frames = batch.get("gt")
        if frames is None or frames.dim() != 5:
            return batch
        measured = batch["lq"] if self.stage == 1 else frames
        return {**batch, "gt": measured[:, measured.shape[1] // 2], "gt_frames": frames}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self.parallel(batch["lq"].transpose(1, 2), batch["gt_frames"].transpose(1, 2))
        return {"restored": outputs["recon" if self.stage == 1 else "output"], **outputs}

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        # the network's outputs are (b, channels, t, h, w)
        x, y = batch["lq"].transpose(1, 2), batch["gt_frames"].transpose(1, 2)
        sharp, flow = batch["lq_sharp"].transpose(1, 2), batch.get("flow")
        compared = {
            "recon": ("recon", _center(x)),
            "hr_warp": ("hr_warp", _center(y)[:, :, None].expand_as(y)),
            "flow": ("image_flow", None if flow is None else flow.transpose(1, 2)),
            "D_TA": ("F_sharp_D", sharp),
            "output": ("output", _center(y)),
            "lr_warp": ("lr_warp", _center(x)[:, :, None].expand_as(x)),
            "R_TA": ("F_sharp_R", sharp),
        }
        terms = {}
        for name, criterion in self.criteria.items():
            output, target = compared[name]
            if target is not None:
                terms[name] = criterion(outputs[output], target)
        return terms

    # --- inference -----------------------------------------------------------------------------

    def restore(self, batch: Batch) -> Tensor:
        """Restore the centre frames; in stage 1, where ``gt_frames`` is needed, make blurred LQ frames of them."""
        if self.stage == 2:
            return super().restore(batch)  # nothing is made of GT there
        large = F.pixel_unshuffle(batch["gt_frames"], self.options.scale)  # of LQ's size: cut into the same tiles
        joined = torch.cat((batch["lq"], large), 2)
        return self._restored(joined, self_ensemble=False, network=self._blurred)

    def _blurred(self, joined: Tensor) -> Tensor:
        x, large = joined[:, :, :3], joined[:, :, 3:]
        y = F.pixel_shuffle(large, self.options.scale)
        recon: Tensor = self.inference_network(x.transpose(1, 2), y.transpose(1, 2))["recon"]
        return recon

    # --- checks --------------------------------------------------------------------------------

    def check_sample(self, sample: Batch, where: str, *, train: bool) -> None:
        shape: Any = tuple(sample["lq"].shape)
        window = self.network_g.num_seq
        if len(shape) != 4 or "frames" in sample:
            raise ValueError(
                f"{where}.type: expected a data set of windows (t, 3, h, w) for model_type FMANetModel, got samples of "
                f"{shape}. Use {'FMANetDataset' if train else 'FMANetTestDataset'}."
            )
        if shape[0] != window:
            raise ValueError(
                f"{where}.num_frame: expected {window}, num_seq of network_g, got {shape[0]}. Make the two equal."
            )
        of_windows = "gt" in sample and sample["gt"].dim() == 4
        if train and ("lq_sharp" not in sample or not of_windows):
            raise ValueError(
                f"{where}.type: expected GT and sharp LQ of all frames to train FMA-Net on, got "
                f"{', '.join(key for key in sample if key != 'key')}. Use FMANetDataset."
            )
        if not train and self.stage == 1 and not of_windows:
            raise ValueError(
                f"{where}.gt_frames: expected all, as stage 1 makes the blurred frame of the sharp ones, got samples "
                "without. Use FMANetTestDataset with gt_frames: all and dataroot_gt."
            )
        if train and "flow" in self.criteria and "flow" not in sample:
            log.warning(
                "train.losses.flow: it is off, as %s has no flow; make it with scripts/generate_flow.py and name "
                "dataroot_flow, set find_flow: true, or leave the loss out", where,
            )  # fmt: skip
        super().check_sample(sample, where, train=train)


def _center(frames: Tensor) -> Tensor:
    """Return the centre frames of (b, channels, t, h, w)."""
    return frames[:, :, frames.shape[2] // 2]
