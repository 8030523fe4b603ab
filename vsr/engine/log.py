"""What a training run tells: a bar or lines on the screen, log.jsonl, TensorBoard."""

import json
import logging
import math
import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vsr.config import LoggerOptions
from vsr.engine.visdom_plots import VisdomPlots
from vsr.models.offset_watch import PREFIX as OFFSET
from vsr.models.terms import Term, readings
from vsr.utils import dist

log = logging.getLogger(__name__)


class TrainLog:
    """Collects what the steps return, without waiting for the device, and tells it every print_freq steps.

    All processes construct it and call ``step``; rank 0 alone writes. A failing log never stops the
    run: it is warned of once.

    Args:
        options: How often, and whether to TensorBoard.
        folder: Where log.jsonl and tb/ go.
        start: Steps done before; total: steps of the whole run.
        terms: What is known of the losses, by their names.
    """

    def __init__(
        self, options: LoggerOptions, folder: Path, start: int, total: int, terms: Mapping[str, Term] | None = None
    ) -> None:
        self.options, self.folder, self.start, self.total = options, folder, start, total
        self._terms = terms or {}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._count, self._data_time, self._warned_of_data = 0, 0.0, False
        self._since = self._step_end = time.perf_counter()
        self._writer: Any = None
        self._failed: set[str] = set()
        self._plots: VisdomPlots | None = None
        if options.visdom and dist.is_main():
            self._plots = VisdomPlots(options.visdom, folder.name, resumed=start > 0)
        shown = dist.is_main() and sys.stderr is not None and sys.stderr.isatty()
        self._bar = tqdm(initial=start, total=total, unit="step", disable=not shown, dynamic_ncols=True)

    def data_ready(self) -> None:
        """Call when a batch has come: what passed since the last step is time spent waiting for data."""
        self._data_time += time.perf_counter() - self._step_end

    def step(
        self,
        step: int,
        terms: dict[str, Tensor],
        *,
        rate: float,
        keys: list[str],
        groups: Sequence[Mapping[str, Any]] = (),
    ) -> bool:
        """Count a step; every print_freq steps, tell of those since the last time.

        Args:
            step: From 1.
            terms: Scalars on the device, as ``train_step`` returns them.
            rate: Learning rate of this step.
            keys: Of the step's samples on this process.
            groups: Of the optimiser; of several the rate of each is told under its name.

        Returns:
            Whether it told: then the host has waited for the device.
        """
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0) + value
            self._counts[name] = self._counts.get(name, 0) + 1  # some terms are not there in every step
        self._count += 1
        self._bar.update()
        due = step % self.options.print_freq == 0 or step == self.total
        if due:
            self._tell(step, rate, keys, groups)
        self._step_end = time.perf_counter()
        return due

    def _tell(self, step: int, rate: float, keys: list[str], groups: Sequence[Mapping[str, Any]]) -> None:
        sums = torch.stack(list(self._sums.values()))
        values = dist.mean(sums / sums.new_tensor(list(self._counts.values())))
        numbers = dict(zip(self._sums, values.tolist(), strict=True))  # here the host waits for the device
        elapsed = time.perf_counter() - self._since
        seconds, data = elapsed / self._count, self._data_time / self._count
        read = readings(numbers, self._terms)
        numbers |= {f"{kind}/{name}": value for name, kinds in read.items() for kind, value in kinds.items()}
        rates = {f"lr/{group['name']}": float(group["lr"]) for group in groups} if len(groups) > 1 else {}
        entry: dict[str, Any] = {"step": step, "lr": rate, **rates, **numbers}
        entry |= {"time": seconds, "data_time": data, "memory": memory()}
        if self.options.log_keys:
            entry["keys"] = keys
        self._sums, self._counts, self._count, self._data_time, self._since = {}, {}, 0, 0.0, time.perf_counter()
        if not dist.is_main():
            return
        eta = time.strftime("%H:%M:%S", time.gmtime((self.total - step) * seconds % 86400))
        days = int((self.total - step) * seconds // 86400)
        offsets = {name: value for name, value in numbers.items() if name.startswith(OFFSET)}
        shown = "  ".join(
            f"{name} {value:.4g}{self._in_brackets(name, read)}" for name, value in numbers.items() if "/" not in name
        )
        if offsets:  # a line has room for one of them
            name = max(offsets, key=lambda name: math.inf if math.isnan(offsets[name]) else offsets[name])
            shown += f"  offset {offsets[name]:.4g} ({name.removeprefix(OFFSET)})"
        each = ", ".join(f"{name.removeprefix('lr/')} {value:.3g}" for name, value in rates.items())
        log.info(
            "step %d/%d  lr %.3g%s  %s  %.3f s/step (data %.3f)  %.0f MB  left %s%s",
            step, self.total, rate, f" ({each})" if each else "", shown, seconds, data, entry["memory"],
            f"{days} d " if days else "", eta,
        )  # fmt: skip
        if data > 0.1 * seconds and not self._warned_of_data:
            self._warned_of_data = True
            log.warning(
                "the loop waits for data %.0f%% of the time: raise num_worker_per_gpu of the set, or cache_data: true",
                100 * data / seconds,
            )
        self.write(entry)
        for name, value in {**numbers, "lr": rate, **rates, "time": seconds, "data_time": data}.items():
            self.scalar(name if name.startswith(OFFSET) else f"train/{name}", value, step)

    def _in_brackets(self, name: str, read: Mapping[str, Mapping[str, float]]) -> str:
        """Return what a line has room for of a loss's readings: those that say more than its value."""
        kinds = read.get(name, {})
        words = [f"{kind} {kinds[kind]:.4g}" for kind in ("mean", "dB") if kind in kinds]
        if not words and "raw" in kinds and self._terms[name].weight != 1:
            words = [f"raw {kinds['raw']:.4g}"]
        if len(read) > 1 and "share" in kinds:
            words.append(f"{kinds['share']:.0%}")
        return f" ({', '.join(words)})" if words else ""

    def pause(self) -> None:
        """Call after validation and checkpoints, whose time is no step's."""
        self._since += time.perf_counter() - self._step_end
        self._step_end = time.perf_counter()

    def write(self, entry: dict[str, Any]) -> None:
        """Append one line to log.jsonl; a number that is not finite becomes null, as JSON has none."""
        if dist.is_main():
            finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
            self.guarded("log.jsonl", self._append, json.dumps(finite), again=True)

    def _append(self, line: str) -> None:
        with (self.folder / "log.jsonl").open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a killed run left half a line
                    line = f"\n{line}"
            file.write(f"{line}\n".encode())

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._tensorboard("add_scalar", tag, value, step)
        if self._plots:
            self._plots.line(tag, value, step)

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """Show a picture, uint8 (h, w, 3) RGB."""
        self._tensorboard("add_image", tag, image, step, dataformats="HWC")
        if self._plots:
            self._plots.image(tag, image, step)

    def _tensorboard(self, method: str, *arguments: Any, **keywords: Any) -> None:
        if self.options.use_tb_logger and dist.is_main():
            self.guarded("TensorBoard", lambda: getattr(self._open_writer(), method)(*arguments, **keywords))

    def _open_writer(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

            self._writer = SummaryWriter(str(self.folder / "tb"), purge_step=self.start + 1)
        return self._writer

    def guarded(self, what: str, write: Any, *arguments: Any, again: bool = False) -> None:
        """Write something that is not worth a run: what fails is warned of once, and left off or tried ``again``."""
        if what in self._failed and not again:
            return
        try:
            write(*arguments)
        except Exception as error:  # disks fail, and TensorBoard in as many ways as it has versions
            if what not in self._failed:
                self._failed.add(what)
                left = "what fails is not in it" if again else "it is left off from now on"
                log.warning("%s could not be written: %s; the run goes on, %s", what, error, left)

    def close(self) -> None:
        self._bar.close()
        if self._writer is not None:
            self.guarded("TensorBoard", self._writer.close)
        if self._plots:
            self._plots.close()


def memory() -> float:
    """Return this process's peak memory in MB: the GPU's where one is in use, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
