"""Training samples a second, by how the frames are stored.

    python benchmarks/data.py                    makes 1.5 GB of frames in a temporary folder; takes some minutes
    python benchmarks/data.py --video FILE.mp4   with the frames of a video, 1280x720, in place of made ones

REDS's geometry: GT 1280x720, LQ 320x180, a sample is a window of 5 LQ crops of 64 and the GT crop of 256 of its centre,
as float32. One process, one thread, the order shuffled.

Warm: everything is read before the first timing; the storages in turns of about 60 ms each, processor time, the fastest
turn counts. Cold: the page cache is rid of a storage's files (posix_fadvise), then one sample is drawn of each clip;
wall clock, the median of the turns; '-' where the pages stay all the same (tmpfs), which mincore tells. The host of a
virtual machine may still hold them. Cold is what the first epoch costs, and each epoch of a set larger than the memory.

Claims: tiles are at least 5 times as fast as a plain loader of the same PNG files, at no more bytes; raw 40 times;
files as fast as the plain loader.
"""

import argparse
import ctypes
import gc
import mmap
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from vsr.data.lmdb_writer import Recipe, make_lmdb  # noqa: E402
from vsr.data.storage import DiskStorage  # noqa: E402
from vsr.registry import DATASETS  # noqa: E402

SECONDS = 0.06  # of a turn
COLD_TURNS = 5
STILL_WARM = 0.05  # share of the bytes that may stay in the page cache of a storage that is called cold
STORAGES = {
    "png": ("png", "png"),
    "tiles": ("tiles", "raw"),
    "tiles, LQ too": ("tiles", "tiles"),
    "raw": ("raw", "raw"),
}


def made_frame(rng: np.random.Generator) -> Any:
    """A frame (720, 1280, 3) of blurred noise and grain whose PNG has 1.4 MB; REDS's have 1.15."""
    frame = np.zeros((720, 1280, 3), np.float32)
    for size, strength in ((4, 10), (16, 30), (64, 50)):
        coarse = rng.standard_normal((720 // size + 2, 1280 // size + 2, 3)).astype(np.float32)
        frame += strength * cv2.resize(coarse, (1280, 720), interpolation=cv2.INTER_CUBIC)
    frame += 0.5 * rng.standard_normal((720, 1280, 1)).astype(np.float32)
    return np.clip(frame + 128, 0, 255).astype(np.uint8)


def write_frames(folder: Path, clips: int, frames: int, video: str | None) -> None:
    """Write PNGs as OpenCV does by default, which are the quickest to read; LQ by area, as quick to read as any."""
    rng, capture = np.random.default_rng(0), cv2.VideoCapture(video) if video else None
    for clip in range(clips):
        for root in ("gt", "lq"):
            (folder / root / f"{clip:03d}").mkdir(parents=True)
        for number in range(frames):
            frame = made_frame(rng) if capture is None else capture.read()[1]
            if frame is None or frame.shape != (720, 1280, 3):
                raise SystemExit(f"--video: expected {clips * frames} frames of 1280x720")
            cv2.imwrite(str(folder / "gt" / f"{clip:03d}" / f"{number:08d}.png"), frame)
            small = cv2.resize(frame, (320, 180), interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(folder / "lq" / f"{clip:03d}" / f"{number:08d}.png"), small)


class PlainLoader:
    """What a loader of PNG files does without any storage behind it: decode whole frames, crop, flip, make floats."""

    def __init__(self, folder: Path, frames: int) -> None:
        self.folder, self.frames = folder, frames

    def __getitem__(self, item: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        index, draw = item
        rng = np.random.default_rng((draw, index))
        clip, centre = index // self.frames, min(max(index % self.frames, 2), self.frames - 3)
        top, left = int(rng.integers(180 - 63)), int(rng.integers(320 - 63))
        flips = rng.random(3) < 0.5
        lq = [
            self.frame("lq", clip, centre + i)[top : top + 64, left : left + 64].astype(np.float32) / 255
            for i in range(-2, 3)
        ]
        gt = self.frame("gt", clip, centre)[4 * top : 4 * top + 256, 4 * left : 4 * left + 256].astype(np.float32) / 255
        tensors = []
        for image in (*lq, gt):
            image = image[:, ::-1] if flips[0] else image
            image = image[::-1] if flips[1] else image
            image = image.transpose(1, 0, 2) if flips[2] else image
            rgb = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2RGB)
            tensors.append(torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))))
        return torch.stack(tensors[:-1]), tensors[-1]

    def frame(self, root: str, clip: int, number: int) -> Any:
        data = (self.folder / root / f"{clip:03d}" / f"{number:08d}.png").read_bytes()
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def floats(dataset: Any) -> Callable[[tuple[int, int]], Any]:
    def sample(item: tuple[int, int]) -> Any:
        found = dataset[item]
        return found["lq"].float().div_(255), found["gt"].float().div_(255)

    return sample


def drop(files: list[Path]) -> float:
    """Ask the system to forget the content of files; return the share of their bytes that it has kept."""
    kept = total = 0
    libc = ctypes.CDLL(None)
    for path in files:
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            os.fsync(file.fileno())  # what is not written yet is not dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            pages = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
            with mmap.mmap(
                file.fileno(), length, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE
            ) as view:
                start = ctypes.c_char.from_buffer(view)
                libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(length), pages)
                del start
            kept, total = kept + sum(page & 1 for page in pages), total + len(pages)
    return kept / max(1, total)


def cold_seconds(build: Callable[[], Any], files: list[Path], clips: int, frames: int) -> float | None:
    """Return the wall time of a sample whose pages are not in memory; None if they cannot be dropped."""
    rng, times = np.random.default_rng(2), []
    for turn in range(COLD_TURNS):
        gc.collect()  # no array may hold an LMDB open: pages that are mapped are not dropped
        if drop(files) > STILL_WARM:
            return None
        get = build()
        began = time.perf_counter()
        for clip in range(clips):
            get((clip * frames + int(rng.integers(frames)), turn))
        times.append((time.perf_counter() - began) / clips)
        del get
    return statistics.median(times)


def _text(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.2f}"


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--frames", type=int, default=12, help="of a clip")
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--video", help="a file with clips x frames frames of 1280x720")
    parser.add_argument("--folder", help="where to put the frames; a temporary one that is removed again")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="vsr-bench-", dir=given.folder))
    try:
        measure(folder, given)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, given: argparse.Namespace) -> None:
    write_frames(folder, given.clips, given.frames, given.video)
    common = {"type": "VideoTrainDataset", "scale": 4, "num_frame": 5, "gt_size": 256}
    roots = {"plain": (folder / "gt", folder / "lq"), "disk": (folder / "gt", folder / "lq")}
    for name, encodings in STORAGES.items():
        roots[name] = (folder / f"gt_{encodings[0]}.lmdb", folder / f"lq_{encodings[1]}.lmdb")
        for root, target, encoding in zip(("gt", "lq"), roots[name], encodings, strict=True):
            if not target.exists():
                make_lmdb(Recipe(str(folder / root), str(target), encoding), verify="none")
    roots["raw, uint8 out"] = roots["raw"]

    def build(name: str) -> Callable[[tuple[int, int]], Any]:
        if name == "plain":
            return PlainLoader(folder, given.frames).__getitem__
        gt, lq = map(str, roots[name])
        dataset = DATASETS.build({**common, "dataroot_gt": gt, "dataroot_lq": lq})
        return dataset.__getitem__ if name == "raw, uint8 out" else floats(dataset)

    def files(name: str) -> list[Path]:
        return [path for root in roots[name] for path in root.rglob("*") if path.is_file()]

    cold = {name: cold_seconds(partial(build, name), files(name), given.clips, given.frames) for name in roots}
    gets = {name: build(name) for name in roots}
    gt_bytes, lq_bytes = ({name: size(both[i]) for name, both in roots.items()} for i in (0, 1))
    for file in folder.rglob("*"):  # warm: everything is in the page cache
        if file.is_file():
            file.read_bytes()
    for image in DiskStorage().images(str(folder / "gt"), "gt")[:1]:  # and OpenCV is awake
        DiskStorage().read(str(folder / "gt" / image))
    total = given.clips * given.frames
    rng, draw = np.random.default_rng(1), 0
    fastest = dict.fromkeys(gets, float("inf"))
    count = dict.fromkeys(gets, 1)  # samples of a turn
    for turn in range(given.turns + 3):
        for name, get in gets.items():
            # clip after clip, so that no storage finds a frame that it has just decoded
            draws = range(draw, draw + count[name])
            items = [(d % given.clips * given.frames + int(rng.integers(given.frames)), d) for d in draws]
            draw += len(items)
            began = time.process_time()
            for item in items:
                get(item)
            fastest[name] = min(fastest[name], (time.process_time() - began) / len(items))
            if turn < 3:  # the first turns only tell how many samples fit into one
                count[name], fastest[name] = max(1, round(SECONDS / fastest[name])), float("inf")
    print(f"{total} frames, warm, shuffled, one thread, processor time, best of {given.turns} turns")
    print(
        "| storage | GT, MB a frame | GT + LQ, of plain | warm, ms a sample | times plain | cold, ms a sample |\n"
        "|---|---|---|---|---|---|"
    )
    whole = gt_bytes["plain"] + lq_bytes["plain"]
    for name, seconds in fastest.items():
        print(
            f"| {name} | {gt_bytes[name] / total / 1e6:.3f} | {(gt_bytes[name] + lq_bytes[name]) / whole:.2f} "
            f"| {1000 * seconds:.2f} | {fastest['plain'] / seconds:.1f} "
            f"| {_text(cold[name])} |"
        )


if __name__ == "__main__":
    main()
