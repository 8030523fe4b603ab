"""What a run of predictions leaves in its folder Results: pictures, the memory's weights as pictures, checkpoints.

    Results/nextframe_fi50_Humaneva/Static_Conv_multi_sep1by1_pixsim_m10_e128_hop1/
        unet_conv[3,32,64,128][True, True, True]/L1Loss_e1e-03_d1e-03_W64H64/
            best_loss/out_image/0/*.jpg      inputs, prediction and target of samples of the validation set
            best_loss/weight_image/0/*.jpg   the weights of each level's memory, by hop and slot
            last/...                         the same of the newest state
            weight/best_loss.pth, last.pth

A test leaves out_image and weight_image of each of its sets in results/NAME/Results/SET. The folders' names are
those of earlier experiments; with prediction.legacy_names to the letter, where the name of the memory does not tell one
read from another. Runs go on from their training states; nothing here is read again.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from vsr.config import Component, Options, PredictionOptions
from vsr.engine.evaluate import EvaluationSet
from vsr.engine.results import totals
from vsr.models.prediction import LOSS, PredictionModel
from vsr.optim import state_by_name
from vsr.utils.files import atomic_write
from vsr.utils.images import Frame, to_uint8, write_image
from vsr.utils.records import Record

log = logging.getLogger(__name__)

DATASETS = {"HumanEvaDataset": "Humaneva", "CharadesDataset": "Charades_v1_480"}
WORDS_HEIGHT, WORDS_WIDTH = 16, 168  # pixels below a picture of weights, that tell its scale
Pictures = dict[str, Frame]


def results_folder(options: Options, model: PredictionModel) -> Path:
    """Return the path of a run's results below its folder."""
    train, prediction = options.train, options.prediction or PredictionOptions()
    assert train is not None
    section, net = options.datasets["train"], options.network_g.args
    data, kind = section.dataset.args, section.dataset.type
    label = DATASETS.get(kind, section.name or kind.removesuffix("Dataset"))
    parts = [options.network_g.type]
    if options.network_g.type == "MemoryPrediction":
        memory = memory_name(net, legacy=prediction.legacy_names)
        channels = ",".join(map(str, net["channels"]))
        parts = [
            f"{memory}_m{net['memory_size']}_e{net['embed_size']}_hop{net['hops']}",
            f"{net['encoder'].removesuffix('_conv')}_conv[{channels}]{list(net['noskip'])}",
        ]
    loss = next(iter(train.losses.values())).type
    found = {letter: _rate(model, part) for letter, part in (("e", "encoder."), ("d", "decoder."))}
    rates = [f"{letter}{rate:.0e}" for letter, rate in found.items() if rate is not None]
    rates = rates or [f"{train.optim_g.args['lr']:.0e}"]  # a network of other parts
    # A MixedDataset has these of each part.
    interval = f"_fi{data['frame_interval']}" if "frame_interval" in data else ""
    size = f"_W{data['W']}H{data['H']}" if {"W", "H"} <= data.keys() else ""
    return Path("Results", f"{prediction.test_type}{interval}_{label}", *parts, f"{loss}_{'_'.join(rates)}{size}")


def memory_name(net: Mapping[str, Any], *, legacy: bool) -> str:
    """Return the name of a memory of these arguments of MemoryPrediction."""
    parts = ["Static", "FC" if net["embedding"] == "FC" else "Conv"]
    parts += ["multi"] * net["multi"] + ["sep1by1"] * (net["embedding"] == "sep1by1")
    if not legacy:
        parts += [net["read"]] + [f"pad{net['pad']}"] * (net["read"] == "pixwise")
        parts += [f"flat2d_stride{net['flat2d']}"] * bool(net["flat2d"]) + ["QSsep"] * net["QSsep"]
    return "_".join(parts)


def _rate(model: PredictionModel, part: str) -> float | None:
    """Return the learning rate that a part of the network starts with; None: there is no such part."""
    parameter = next((value for name, value in model.network_g.named_parameters() if name.startswith(part)), None)
    if parameter is None:
        return None
    groups = model.optimizer.param_groups
    factor = next(group["lr_mul"] for group in groups if any(value is parameter for value in group["params"]))
    assert model.options.train is not None
    rate: float = model.options.train.optim_g.args["lr"] * factor
    return rate


def against_baselines(
    name: str,
    means: Mapping[str, float],
    copied: Sequence[Record] | None,
    mean: Sequence[Record],
    network: Component,
) -> dict[str, float]:
    """Tell how a validation stands beside predictions without a network, and warn of one that does not beat them.

    Args:
        name: Of the set.
        means: The network's totals, by metric.
        copied: Records of the last frame as the prediction.
        mean: Those of the mean of the memory's frames.
        network: network_g, which may have room for more skips.

    Returns:
        The baselines' totals, by names such as 'loss of copy-last'.
    """
    beside = {"copy-last": totals(copied or (), list(means)), "mean-of-memory": totals(mean, list(means))}
    losses = ", ".join(f"{who} {found[LOSS]:.5f}" for who, found in beside.items() if LOSS in found)
    last = beside["copy-last"].get(LOSS)
    if LOSS in means and last is not None:
        if means[LOSS] < last:
            log.info("%s: loss %.5f, baselines: %s", name, means[LOSS], losses)
        else:
            unet = network.type == "MemoryPrediction" and network.args["encoder"] == "unet_conv"
            more = ", or give it skips (network_g.noskip)" if unet and any(network.args["noskip"]) else ""
            log.warning(
                "%s: loss %.5f, baselines: %s. The network does not beat a copy of the last frame: train it longer%s",
                name, means[LOSS], losses, more,
            )  # fmt: skip
    return {f"{metric} of {who}": value for who, found in beside.items() for metric, value in found.items()}


def compare_predictions(
    test_set: EvaluationSet, model: PredictionModel, records: Sequence[Record], copied: Sequence[Record] | None
) -> None:
    """Tell how a test stands beside the two baselines; every process calls it."""
    mean = test_set.mean_of_memory(model)
    means = totals(records, list(model.metrics))
    against_baselines(test_set.name, means, copied, mean, model.options.network_g)


class PredictionResults:
    """Writes the tree; for rank 0 alone.

    Args:
        model: What predicts.
        val_set: Whose samples are shown.
        root: The run's folder.
    """

    def __init__(self, model: PredictionModel, val_set: EvaluationSet, root: Path) -> None:
        self.model, self.val_set = model, val_set
        self.folder = root / results_folder(model.options, model)

    def write(self, name: str, step: int, best_loss: float | None) -> Pictures:
        """Write pictures and weights under ``name``, best_loss or last; return the first sample's weights as pictures.

        Args:
            step: Of the network.
            best_loss: The least one of the run's validations so far.
        """
        shown = write_pictures(self.model, self.val_set.dataset, self.folder / name)
        (self.folder / "weight").mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / "weight" / f"{name}.pth") as file:
            torch.save(self._checkpoint(step, best_loss), file)
        return shown

    def _checkpoint(self, step: int, best_loss: float | None) -> dict[str, Any]:
        """Return the parts of the network that validation measures, and what a training state would have."""
        network = self.model.inference_network
        parts = {name: part.state_dict() for name, part in network.named_children()}
        return {
            **parts,  # encoder, decoder, mem_net; with QSsep query_encoder
            "optimizer": state_by_name(self.model.optimizer, self.model.network_g.named_parameters()),
            "iter": step,
            "best_loss": best_loss,
            "rng": {"manual_seed": self.model.options.manual_seed, "torch": torch.get_rng_state()},
        }


def write_pictures(model: PredictionModel, dataset: Any, folder: Path) -> Pictures:
    """Write pictures of samples and of their weights below ``folder``; return those of the first one's weights."""
    shown: Pictures = {}
    for number, (images, weights) in enumerate(_samples(model, dataset)):
        shown = shown or weights
        for kind, pictures in (("out_image", images), ("weight_image", weights)):
            place = folder / kind / str(number)
            place.mkdir(parents=True, exist_ok=True)
            for stem, picture in pictures.items():
                write_image(place / f"{stem}.jpg", picture)
    return shown


def _samples(model: PredictionModel, dataset: Any) -> Iterator[tuple[Pictures, Pictures]]:
    """Yield the pictures of each sample to show, and those of its weights."""
    count = min(model.prediction.pictures, len(dataset))
    model.inference_network.eval()
    for number in range(count):
        sample = dataset[(2 * number + 1) * len(dataset) // (2 * count)]
        with torch.inference_mode(), model.uncompiled():
            batch = model.prepare(torch.utils.data.default_collate([sample]))
            out, weights = model.inference_network(batch["lq"], with_weights=True)
            images = _pictures(model, out.float(), batch)
        yield images, weight_pictures(weights, images["target"].shape[:2])


def _pictures(model: PredictionModel, out: Tensor, batch: Mapping[str, Any]) -> Pictures:
    frames = {f"input_{number:02d}": frame for number, frame in enumerate(batch["lq"][0])}
    frames |= {"prediction": model.as_frame(out, batch)[0], "target": batch["gt"][0]}
    if model.test_type == "subtract":
        true = batch["gt"] - batch["lq"][:, -1]
        frames |= {"difference": 0.5 + out[0] / 2, "difference_target": 0.5 + true[0] / 2}
    pictures = {name: to_uint8(frame) for name, frame in frames.items()}
    if model.test_type == "opticalflow":
        longest = float(batch["flow"].norm(dim=1).max())
        flows = {"flow": out[0], "flow_target": batch["flow"][0]}
        pictures |= {name: flow_picture(flow.cpu().numpy(), longest) for name, flow in flows.items()}
    return pictures


def flow_picture(flow: np.ndarray, longest: float) -> Frame:
    """Show a flow (2, h, w): its direction as hue, its length as brightness, full at ``longest`` pixels."""
    length, angle = cv2.cartToPolar(flow[0].astype(np.float32), flow[1].astype(np.float32), angleInDegrees=True)
    hsv = np.full((*flow.shape[1:], 3), 255, np.uint8)
    hsv[..., 0] = angle / 2  # OpenCV's hues end at 180
    hsv[..., 2] = 255 * np.clip(length / max(longest, 1e-6), 0, 1)
    picture: Frame = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)  # type: ignore[assignment]
    return picture


def weight_pictures(weights: Mapping[str, list[Tensor]], size: tuple[int, int]) -> Pictures:
    """Show the weights of one sample, a picture for each level, hop and slot, with its scale in words below.

    One weight a slot is a bar, from 0 to 1, with a line where all slots that hold something would weigh the same.
    Weights of pixels are a map from dark (0) to bright (the greatest one of all slots in that hop). Frames are enlarged
    by a whole factor until the words fit.

    Args:
        weights: By level, of each hop (1, m) or (1, m, h, w).
        size: Height and width of a frame.
    """
    factor = -(-WORDS_WIDTH // size[1])
    size = size[0] * factor, size[1] * factor
    shown: Pictures = {}
    for level, hops in weights.items():
        for hop, found in enumerate(hops, start=1):
            slots = found[0].float().nan_to_num(0).cpu().numpy()  # of a network that has diverged, too
            top, line = max(slots.max(), 1e-12), 1 / max((slots.reshape(len(slots), -1).max(1) > 0).sum(), 1)
            for number, values in enumerate(slots):
                if values.ndim:
                    picture, words = _map(values / top, size), f"0 to {top:.3f}, mean {values.mean():.3f}"
                else:
                    picture, words = _bar(float(values), line, size), f"{values:.3f}, line {line:.3f}, 0 to 1"
                shown[f"{level}_hop{hop}_slot{number:02d}"] = np.concatenate((picture, _words(words, size[1])))
    return shown


def _bar(value: float, line: float, size: tuple[int, int]) -> Frame:
    height, width = size
    picture = np.full((height, width, 3), 32, np.uint8)
    picture[height - round(height * min(value, 1)) :, width // 4 : width - width // 4] = (240, 200, 60)
    picture[min(height - round(height * line), height - 1)] = 255
    return picture


def _map(values: np.ndarray, size: tuple[int, int]) -> Frame:
    """Show values in [0, 1] (h, w), each as a block."""
    colours = cv2.applyColorMap((255 * np.clip(values, 0, 1)).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    blocks = cv2.resize(colours, size[::-1], interpolation=cv2.INTER_NEAREST)
    picture: Frame = cv2.cvtColor(blocks, cv2.COLOR_BGR2RGB)
    return picture


def _words(text: str, width: int) -> Frame:
    picture = np.zeros((WORDS_HEIGHT, width, 3), np.uint8)
    cv2.putText(picture, text, (3, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (255, 255, 255), 1, cv2.LINE_AA)
    return picture
