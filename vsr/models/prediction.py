"""Prediction of what follows a sequence: the next frame, the difference to it, or the optical flow to it."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vsr.config import Options, PredictionOptions
from vsr.models.restoration import Batch, OnFrame, RestorationModel
from vsr.models.terms import Term
from vsr.ops.warp import flow_warp
from vsr.registry import MODELS
from vsr.utils.records import Record

LOSS = "loss"  # the metric that every validation has
SUPERVISED = "wsupervised"  # the term of the loss on the memory's weights
DEFINITIONS = {
    "nextframe": "mean |predicted - true frame| in [0, 1], neither clamped nor rounded",
    "subtract": "mean |predicted - true difference to the last frame|, frames in [0, 1], neither clamped nor rounded",
    "opticalflow": "mean |predicted - DIS flow from the last frame to the true one|, in widths and heights of a frame",
}


class ItemLoss:
    """The loss of the item that was predicted last: other metrics are given pictures, which are clamped and rounded."""

    higher_is_better, left_only, unit, decimals = False, False, "", 4

    def __init__(self, definition: str) -> None:
        self.definition, self.value = definition, float("nan")

    def measure(self, restored: np.ndarray, target: np.ndarray) -> float:
        return self.value


@MODELS.register
class PredictionModel(RestorationModel):
    """Networks that map a sequence (b, s, 3, h, w) to what follows its last frame (kind 'prediction').

    With x the last frame and y the target, the network learns by the losses of train.losses, as prediction.test_type
    says:

    =========== =============================== ==================================================
    nextframe   y                               the prediction is the network's output
    subtract    y - x                           x + output
    opticalflow the flow from x to y, in pixels x warped by the output: x(p - flow(p)), which holds
                (the data set's with_flow)      where the flow is smooth
    =========== =============================== ==================================================

    The loss of a flow is that of dx / width and dy / height. With prediction.wsupervised there is the cross-entropy of
    the bottleneck's weights, too, of the last hop: all weight is to lie in the slot whose frame is nearest to y.

    Every validation has the metric ``loss``, that of the table without weights; the others are of the predicted frame.
    """

    def __init__(self, *, options: Options, device: torch.device, train: bool = True) -> None:
        super().__init__(options=options, device=device, train=train)
        self.prediction = options.prediction or PredictionOptions()
        self.test_type = self.prediction.test_type
        name = options.network_g.type
        if getattr(self.network_g, "kind", "") != "prediction":
            raise ValueError(
                f"network_g.type: expected a network of predictions for model_type PredictionModel, got {name}. "
                "Use MemoryPrediction, or model_type: VideoModel."
            )
        if not _takes_weights(self.network_g.forward):
            raise ValueError(
                f"network_g.type: expected a network of predictions whose forward takes with_weights, got {name}. "
                "Write forward(x, *, with_weights=False), which returns (out, weights) if asked; weights may be {}."
            )
        channels = 2 if self.test_type == "opticalflow" else 3
        if self.network_g.num_out_ch != channels:
            raise ValueError(
                f"network_g.num_out_ch: expected {channels} for prediction.test_type {self.test_type}, "
                f"got {self.network_g.num_out_ch}. Change one of the two."
            )
        if LOSS in self.metrics:
            raise ValueError(f"val.metrics: expected no '{LOSS}', which PredictionModel has of its own. Rename it.")
        definition = DEFINITIONS[self.test_type]
        if options.val.precision != "float32":
            definition += f", network in {options.val.precision}"
        self.item_loss = ItemLoss(definition)
        self.metrics = {LOSS: self.item_loss, **self.metrics}
        self._flow: Tensor | None = None  # of the last prediction

    def check_sample(self, sample: Batch, where: str, *, train: bool) -> None:
        shape, name = tuple(sample["lq"].shape), self.options.network_g.type
        target = tuple(sample["gt"].shape) if "gt" in sample else ()
        if len(shape) != 4 or len(target) != 3 or "interval" not in sample:  # of a window, gt is the centre frame
            of = f"lq {shape} with gt {target}" if target else f"lq {shape} without gt"
            raise ValueError(
                f"{where}.type: expected a data set of sequences that one frame, gt, follows (samples with 'interval') "
                f"for model_type PredictionModel, got {of}{'' if 'interval' in sample else ' and no interval'}. "
                "Use HumanEvaDataset, CharadesDataset or NextFrameDataset."
            )
        if shape[0] != self.network_g.num_frame:
            raise ValueError(
                f"{where}.input_size: expected {self.network_g.num_frame}, the sequence of network_g ({name}), "
                f"got {shape[0]}. Make the two equal."
            )
        multiple = self.network_g.size_multiple
        if shape[-1] % multiple or shape[-2] % multiple:
            raise ValueError(
                f"{where}.W and H: expected multiples of {multiple} for {name}, got {shape[-1]} and {shape[-2]}."
            )
        size = getattr(self.network_g, "fixed_size", (0, 0))
        if all(size) and shape[-2:] != size:
            raise ValueError(
                f"{where}.W and H: expected {size[1]} and {size[0]}, which {name} was told, got {shape[-1]} and "
                f"{shape[-2]}. Make them equal."
            )
        if self.test_type == "opticalflow" and "flow" not in sample:
            raise ValueError(f"{where}.with_flow: expected true for prediction.test_type opticalflow, got false.")
        super().check_sample(sample, where, train=train)

    # ---------------------------------------------------------------- training

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if not self.prediction.wsupervised:
            return super().forward(batch)
        out, weights = self.parallel(batch["lq"], with_weights=True)
        if not weights.get("bottleneck"):
            raise ValueError(
                "prediction.wsupervised: expected a network that returns weights of its 'bottleneck', got "
                f"{self.options.network_g.type}, which returns none. Set it to 0."
            )
        of_slots = weights["bottleneck"][-1]
        return {"restored": out, "slots": of_slots if of_slots.dim() == 2 else of_slots.mean((2, 3))}

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        target = self._target(batch)
        unit = self._unit(target)
        terms = super().losses({"restored": outputs["restored"] / unit}, {**batch, "gt": target / unit}, step)
        if "slots" in outputs:
            slots = nearest_slot(batch["lq"], batch["gt"], outputs["slots"].shape[1])
            terms[SUPERVISED] = self.prediction.wsupervised * F.nll_loss(outputs["slots"].clamp_min(1e-12).log(), slots)
        return terms

    def loss_terms(self, values: int) -> dict[str, Term]:
        supervised = {SUPERVISED: Term(self.prediction.wsupervised)} if self.prediction.wsupervised else {}
        return super().loss_terms(values) | supervised

    def _target(self, batch: Batch) -> Tensor:
        """Return what the network's output is to be, for a prepared batch."""
        if self.test_type == "opticalflow":
            return batch["flow"]
        return batch["gt"] - batch["lq"][:, -1] if self.test_type == "subtract" else batch["gt"]

    def _unit(self, target: Tensor) -> Tensor | float:
        """Return what an output is divided by in losses: width and height, of a flow."""
        if self.test_type != "opticalflow":
            return 1.0
        return target.new_tensor([target.shape[-1], target.shape[-2]]).view(2, 1, 1)

    # ---------------------------------------------------------------- inference

    def restore(self, batch: Batch) -> Tensor:
        """Return the predicted frames (b, 3, h, w), not clamped."""
        return self.as_frame(self.inference_network(batch["lq"]), batch)

    def as_frame(self, output: Tensor, batch: Batch) -> Tensor:
        """Turn the network's output for a prepared batch into the frames that it predicts."""
        last = batch["lq"][:, -1]
        if self.test_type == "opticalflow":
            self._flow = output
            return flow_warp(last, -output, padding_mode="border")
        return last + output if self.test_type == "subtract" else output

    def mean_of_memory(self, batch: Batch) -> Tensor:
        """Predict the mean of the frames that the memory keeps: a baseline, as the last frame is."""
        kept: int = getattr(self.network_g, "used", batch["lq"].shape[1])
        mean: Tensor = batch["lq"][:, -kept:].mean(1)
        return mean

    def validate(
        self,
        loader: Iterable[Batch],
        *,
        restore: Callable[[Batch], Tensor] | None = None,
        on_frame: OnFrame | None = None,
        lead: int = 0,
        after_gaps: Collection[str] = (),
    ) -> list[Record]:
        predict = restore or self.restore_at_precision

        def measured(batch: Batch) -> Tensor:
            self._flow = None
            frame = predict(batch)
            self.item_loss.value = float(self._error(frame, batch)) if "gt" in batch else float("nan")
            return frame

        return super().validate(loader, restore=measured, on_frame=on_frame, lead=lead, after_gaps=after_gaps)

    def _error(self, frame: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return the loss of what was just predicted; a frame that no flow made is one where nothing moves."""
        target = self._target(batch)
        if self.test_type == "opticalflow":
            out = torch.zeros_like(target) if self._flow is None else self._flow.float()
            return ((out - target) / self._unit(target)).abs().mean()
        return (frame.to(batch["gt"].device) - batch["gt"]).abs().mean()  # of a difference, too: x stands in both


def _takes_weights(forward: Callable[..., Any]) -> bool:
    parameters = inspect.signature(forward).parameters
    return "with_weights" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def nearest_slot(lq: Tensor, gt: Tensor, slots: int) -> Tensor:
    """Return which of a memory's slots (b,) has the frame of sequences (b, s, c, h, w) with the least L1 to ``gt``."""
    return (lq[:, -slots:] - gt[:, None]).abs().flatten(2).mean(2).argmin(1)
