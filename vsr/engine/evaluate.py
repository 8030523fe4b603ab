"""Measuring a model on a validation or test set, beside the input that it was given."""

import logging
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vsr.config import DatasetOptions, Options
from vsr.data.clips import ClipSet
from vsr.data.loader import build_dataset, build_val_loader, share_of
from vsr.data.workers import WatchedLoader
from vsr.engine.hangs import HangWatch
from vsr.engine.results import REFERENCES
from vsr.engine.stopping import StopRequest
from vsr.models.prediction import PredictionModel
from vsr.models.restoration import Batch, OnFrame, RestorationModel
from vsr.utils import dist
from vsr.utils.images import to_uint8, write_image
from vsr.utils.records import Record
from vsr.utils.resize import imresize

log = logging.getLogger(__name__)

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 60


class EvaluationSet:
    """One section of ``datasets`` and what has to be known to measure a model on it.

    Args:
        key: Of the section, 'val' or 'test_2'.
        options: Of the run.
    """

    def __init__(self, key: str, options: Options) -> None:
        self.key, self.scale = key, options.scale
        self.section: DatasetOptions = options.datasets[key]
        self.name = self.section.name or key
        self.dataset: Any = build_dataset(self.section, scale=options.scale, seed=options.manual_seed, key=key)
        self.compare_bicubic = options.val.compare_bicubic or options.model_type == "PredictionModel"
        self._baseline: list[Record] | None = None
        self._mean_of_memory: list[Record] | None = None

    def reference(self, model: RestorationModel) -> str | None:
        """What disparities are compared with, a key of ``vsr.engine.results.REFERENCES``; None: no metric has any."""
        measured = any(getattr(metric, "of_pairs", False) for metric in model.metrics.values())
        if not measured or not getattr(self.dataset, "has_gt", True):
            return None
        return "truth" if getattr(self.dataset, "has_disparity", False) else "SGBM"

    @property
    def beside(self) -> str:
        """What ``baseline`` measures, a key of ``vsr.engine.results.BESIDE``."""
        if hasattr(self.dataset, "baseline_frame"):
            return "copy"
        return "bicubic" if self.scale > 1 else "input"

    def measure(
        self, model: RestorationModel, on_frame: OnFrame | None = None, *, stop: StopRequest | None = None
    ) -> list[Record]:
        """Restore and measure the whole set, each process its share; every process returns all records.

        A process that is asked to stop leaves out the rest of its share.
        """
        return self._validate(model, stop, on_frame=on_frame)

    def baseline(self, model: RestorationModel, *, stop: StopRequest | None = None) -> list[Record] | None:
        """Measure the input, upsampled if need be, with the model's metrics; once, as it never changes."""
        if not self.compare_bicubic or self._baseline is not None:
            return self._baseline
        records = self._validate(model, stop, restore=self.bicubic)
        if stop is None or not stop.asked():
            self._baseline = records
        return records

    def mean_of_memory(self, model: PredictionModel, *, stop: StopRequest | None = None) -> list[Record]:
        """Measure the mean of the frames that a memory keeps as a prediction; once."""
        if self._mean_of_memory is not None:
            return self._mean_of_memory
        records = self._validate(model, stop, restore=model.mean_of_memory)
        if stop is None or not stop.asked():
            self._mean_of_memory = records
        return records

    def check_memory(self, model: RestorationModel) -> None:
        """Raise ValueError if ``measure`` would find too little shared memory for its workers."""
        try:
            self._loader(model)
        except ValueError as error:
            raise ValueError(f"datasets.{self.key}: {error}") from error

    def _validate(self, model: RestorationModel, stop: StopRequest | None, **how: Any) -> list[Record]:
        watch = HangWatch(dist.patience())
        with closing(self._loader(model)) as loader:
            items = watch.each(stop.until(loader) if stop else loader)
            named = told(items, self.name, len(loader))
            return model.validate(named, lead=self._lead(model), after_gaps=self._after_gaps(), **how)

    def _after_gaps(self) -> Collection[str]:
        clips = getattr(self.dataset, "clips", None)
        return clips.after_gaps() if isinstance(clips, ClipSet) else ()

    def _loader(self, model: RestorationModel) -> WatchedLoader:
        return build_val_loader(
            self.dataset,
            self.section,
            key=self.key,
            rank=dist.rank(),
            world_size=dist.world_size(),
            pin_memory=model.device.type == "cuda",
            lead=self._lead(model),
        )

    def _lead(self, model: RestorationModel) -> int:
        """Return 1 if a metric needs the frame before this process's share, of the same clip; 0 else."""
        share = share_of(len(self.dataset), dist.rank(), dist.world_size())
        follows = any(getattr(metric, "follows", False) for metric in model.metrics.values())
        if not follows or not share or share.start == 0 or not getattr(self.dataset, "consecutive", False):
            return 0
        keys = self.dataset.keys[share.start - 1 : share.start + 1]
        return int(len({key.rpartition("/")[0] for key in keys}) == 1)

    def bicubic(self, batch: Batch, scale: int | None = None) -> Tensor:
        """Upsample a prepared batch of one by antialiased bicubic: (1, 3, H, W), (1, 6, H, W) or (1, t, 3, H, W)."""
        scale = self.scale if scale is None else scale
        lq = batch["lq"]
        if lq.dim() == 5 and "frames" not in batch:
            centre = lq.shape[1] // 2  # the frame that a window is about, unless the next one is to be predicted
            lq = lq[:, getattr(self.dataset, "baseline_frame", centre)]
        frames = [imresize(frame, scale) if scale > 1 else frame for frame in lq.flatten(0, -4).cpu()]
        return torch.stack(frames).unflatten(0, lq.shape[:-3])

    def pictures(
        self, model: RestorationModel, key: str, restored: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return the bicubically upsampled input, the restored frame and the ground truth of one record.

        Args:
            model: What restores.
            key: The record's: of an item, or of a frame of a clip that is an item.
            restored: The frame as it was restored before; None: it is restored again.

        Returns:
            Three uint8 (h, w, 3) RGB pictures; the last is None where there is no ground truth. The views of
            a stereo pair stand side by side.
        """
        keys = self.dataset.keys
        item = keys.index(key) if key in keys else keys.index(key.rpartition("/")[0])
        with torch.inference_mode():
            batch = model.prepare(torch.utils.data.default_collate([self.dataset[item]]))
            names = [name[0] for name in batch.get("frames", ())]
            frame = names.index(key.rpartition("/")[2]) if names else 0

            def picture(images: Tensor) -> np.ndarray:
                return side_by_side(to_uint8(images.reshape(-1, *images.shape[-3:])[frame]))

            if restored is None:
                model.inference_network.eval()
                restored = picture(model.restore_at_precision(batch))
            restored = side_by_side(restored)
            target = picture(batch["gt"]) if "gt" in batch else None
            if names:  # of a clip, only the frame that is shown has to be upsampled
                batch["lq"] = batch["lq"][:, frame : frame + 1]
            before = self.bicubic(batch, model.enlarges)
            return side_by_side(to_uint8(before.reshape(before.shape[-3:]))), restored, target


def told(items: Iterable[Item], name: str, count: int) -> Iterator[Item]:
    """Yield ``count`` items, and tell rank 0's screen how far it is: by a bar, or by a line a minute."""
    shown = dist.is_main() and sys.stderr.isatty()
    began = last = time.perf_counter()
    with tqdm(total=count, desc=name, unit="item", leave=False, disable=not shown, dynamic_ncols=True) as bar:
        for done, item in enumerate(items, start=1):
            yield item
            bar.update()
            now = time.perf_counter()
            if dist.is_main() and not shown and now - last >= SECONDS_BETWEEN_LINES:
                last = now
                each = (now - began) / done
                log.info("%s: %d of %d, about %.0f s left", name, done, count, each * (count - done))


def definitions(model: RestorationModel, sets: Sequence[EvaluationSet]) -> Mapping[str, str]:
    """Return each metric's exact definition on these sets, by its name in ``val.metrics``."""
    known: dict[str, list[str]] = {}  # the names of the sets by their reference
    for part in sets:
        if (reference := part.reference(model)) is not None:
            known.setdefault(REFERENCES[reference], []).append(part.name)
    where = {text: "" if len(known) == 1 else f" on {', '.join(names)}" for text, names in known.items()}
    by = "; ".join(f"by {text}{on}" for text, on in where.items())
    return {
        name: f"{metric.definition}; {by}" if getattr(metric, "of_pairs", False) and by else metric.definition
        for name, metric in model.metrics.items()
    }


def higher_is_better(options: Options, model: RestorationModel, name: str) -> bool:
    """Whether a higher value is better: as ``val.metrics.<name>.better`` says, else the metric itself."""
    stated = options.val.metrics[name].better if name in options.val.metrics else None
    return bool(model.metrics[name].higher_is_better) if stated is None else stated == "higher"


def side_by_side(image: np.ndarray) -> np.ndarray:
    """Return the views of a stereo pair (h, w, 6) as one picture (h, 2w, 3), left one first; a picture as it is."""
    return image if image.shape[2] == 3 else np.concatenate([image[..., :3], image[..., 3:]], axis=1)


def frame_file(root: Path, suffix: str | None, key: str) -> Path:
    """Return where the frame of this key is saved below ``root``."""
    return root / f"{key}{f'_{suffix}' if suffix else ''}.png"


def frame_writer(root: Path, suffix: str | None) -> OnFrame:
    """Return a function that writes a frame below ``root`` under its key; of a stereo pair KEY_L and KEY_R."""

    def write(key: str, image: np.ndarray) -> None:
        views = {key: image} if image.shape[2] == 3 else {f"{key}_L": image[..., :3], f"{key}_R": image[..., 3:]}
        for name, view in views.items():
            path = frame_file(root, suffix, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, view)

    return write
