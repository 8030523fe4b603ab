"""A small tree of made-up data that lies as the option files expect it, under the names of the published sets."""

from pathlib import Path

import cv2
import numpy as np
from kit import write_frames
from stereo_pairs import made_pair

from vsr.data.flow import flow_name, flow_pairs
from vsr.data.prediction_lists import hash_partition
from vsr.utils.images import read_image, write_image
from vsr.utils.resize import imresize

SIDE = 48  # of most GT images; a multiple of all scales
COUNTS = {  # images that each set of this tree is measured on, by the names that the option files give the sets
    "REDS4": 4 * 5,
    "REDS4-inner": 4 * 3,
    "Vid4": 2 * 7,
    "UDM10": 2 * 5,
    "Vimeo90K-T": 2,
    "GoPro-test": 2,
    "SIDD-test": 2,
    "REDS-test": 2,
    "Set5": 2,
    "Set14": 2,
    "DIV2K100": 2,
    "KITTI2012": 2,
    "KITTI2015": 2,
    "Middlebury": 2,
    "Flickr1024": 2,
    "Flickr1024-test": 2,
    "BunnyVal": 22,
    "BunnyVal-inner": 20,
    "BunnyBegins": 18,
    "HumanEva-val": 4,
    "HumanEva-test": 10,
    "Charades-val": 1,
    "Charades-test": 1,
    "MotorcycleVal": 1,
}


def make_tree(root: Path) -> None:
    """Write all of it below ``root``, which is what the option files call datasets/."""
    _reds(root / "REDS")
    _vimeo(root / "vimeo90k")
    for seed, (name, clips, frames) in enumerate((("Vid4", ("calendar", "city"), 7), ("UDM10", ("000", "001"), 5))):
        for number, clip in enumerate(clips):
            write_frames(root / name / "GT" / clip, frames, (32, 32), seed=50 + 2 * seed + number, name="{:08d}")
        for lq in ("BIx4", "BDx4"):
            _reduce(root / name / "GT", root / name / lq, 4)
    _pairs(root / "GoPro", {"train": ("sharp_crops", "blur_crops"), "test": ("target", "input")}, seed=60)
    _pairs(root / "SIDD", {"train": ("gt_crops", "input_crops"), "val": ("gt_crops", "input_crops")}, seed=64)
    _super_resolution(root)
    _stereo(root / "StereoSR")
    _motorcycle(root / "motorcycle")
    _video(root / "demo" / "bigbuckbunny.mp4", frames=132, size=(192, 256))
    _predictions(root)


def _reds(root: Path) -> None:
    """The clips as EDVR's family wants them, in the output of prepare_reds.py, and the single images of NAFNet."""
    prepared = root / "prepared"
    for number in (0, 1, 2, 11, 15, 20):
        write_frames(prepared / "train_sharp" / f"{number:03d}", 5, (SIDE, SIDE), seed=number, name="{:08d}")
        for centre, neighbour in flow_pairs(5):
            name = flow_name(f"{centre:08d}", f"{neighbour:08d}")
            (flows := prepared / "train_flow_bicubic" / "X4" / f"{number:03d}").mkdir(parents=True, exist_ok=True)
            np.save(flows / name, np.zeros((SIDE // 4, SIDE // 4, 2), np.float32))
    for lq in ("train_sharp_bicubic/X4", "train_blur_bicubic/X4"):
        _reduce(prepared / "train_sharp", prepared / lq, 4)
    for lq in ("train_blur", "train_blur_comp"):
        _reduce(prepared / "train_sharp", prepared / lq, 1)
    for part, seed in (("train", 30), ("val", 31)):
        write_frames(root / part / f"{part}_sharp" / "000", 3, (SIDE, SIDE), seed=seed, name="{:08d}")
        _reduce(root / part / f"{part}_sharp", root / part / f"{part}_blur_jpeg", 1)
    (root / "meta_info_REDS_val300.txt").write_text("000/00000000.png (48,48,3)\n000/00000002.png (48,48,3)\n")


def _vimeo(root: Path) -> None:
    """Septuplets with the archive's own lists beside them; one of them is on neither."""
    names = ["00001/0001", "00001/0002", "00002/0001", "00002/0002", "00003/0001"]
    archive = root / "vimeo_septuplet"
    for seed, name in enumerate(names):
        write_frames(archive / "sequences" / name, 7, (32, 32), seed=40 + seed, name="im{}", first=1)
    (archive / "sep_trainlist.txt").write_text("\n".join(names[:2]) + "\n\n")
    (archive / "sep_testlist.txt").write_text("\n".join(names[2:4]) + "\n")
    for lq in ("vimeo_septuplet_matlabLRx4", "vimeo_septuplet_BDLRx4"):
        _reduce(archive / "sequences", root / "prepared" / lq / "sequences", 4)


def _predictions(root: Path) -> None:
    """Clips of HumanEva with the lists that prepare_humaneva.py writes; of Charades, which has none, by their names."""
    humaneva = {"train": "S1_Box_1_(C1)", "val": "S2_Box_1_(C1)", "test": "S3_Box_1_(C1)"}
    for seed, (partition, clip) in enumerate(humaneva.items()):
        folder = root / "HumanEva" / "image" / clip
        write_frames(folder, 30, (24, 32), seed=110 + seed, suffix=".jpg", name="{:06d}")
        (root / "HumanEva" / f"{partition}_list.csv").write_text(f"clip\n{clip}\n")
    names = [f"0A{number:03d}" for number in range(100)]
    for seed, partition in enumerate(("train", "val", "test")):
        clip = next(name for name in names if hash_partition(name) == partition)
        folder = root / "Charades" / "Charades_v1_480_img" / clip
        write_frames(folder, 24, (24, 32), seed=120 + seed, suffix=".jpg", name="{:07d}")


def _pairs(root: Path, parts: dict[str, tuple[str, str]], *, seed: int) -> None:
    for number, (part, (gt, lq)) in enumerate(parts.items()):
        write_frames(root / part / gt, 2, (SIDE, SIDE), seed=seed + number)
        _reduce(root / part / gt, root / part / lq, 1)


def _super_resolution(root: Path) -> None:
    """DIV2K and Flickr2K as extract_subimages.py leaves them; the test sets as BasicSR's users have them."""
    for seed, name in enumerate(("DIV2K/DIV2K_train_HR_sub", "Flickr2K/Flickr2K_HR_sub")):
        write_frames(root / name, 2, (SIDE, SIDE), seed=70 + seed, name=f"000{1 + seed}_s{{:03d}}")
        lq = name.replace("_HR_sub", "_LR_bicubic")
        for scale in (2, 3, 4):
            _reduce(root / name, root / lq / f"X{scale}_sub", scale)
    for seed, name in enumerate(("Set5", "Set14")):
        write_frames(root / name / "GTmod12", 2, (SIDE, SIDE), seed=80 + seed)
        for scale in (2, 3, 4):
            _reduce(root / name / "GTmod12", root / name / f"LRbicx{scale}", scale)
    write_frames(root / "DIV2K" / "DIV2K_valid_HR", 2, (SIDE, SIDE), seed=90, first=801)
    for scale in (2, 3, 4):
        lq = root / "DIV2K" / "DIV2K_valid_LR_bicubic" / f"X{scale}"
        _reduce(root / "DIV2K" / "DIV2K_valid_HR", lq, scale, suffix=f"x{scale}")


def _stereo(root: Path) -> None:
    for number in (1, 2):
        views = made_pair((SIDE, 2 * SIDE), disparity=4, seed=number)
        for scale in (2, 4):
            for side, view in enumerate(views):
                _write(root / f"patches_x{scale}" / f"{number:06d}" / f"hr{side}.png", view)
                _write(root / f"patches_x{scale}" / f"{number:06d}" / f"lr{side}.png", imresize(view, 1 / scale))
        for seed, name in enumerate(("KITTI2012", "KITTI2015", "Middlebury", "Flickr1024")):
            views = made_pair((SIDE, 2 * SIDE), disparity=4, seed=10 * number + seed)
            for side, view in enumerate(views):
                _write(root / "test" / name / "hr" / f"{number:04d}" / f"hr{side}.png", view)
                for scale in (2, 4):
                    low = imresize(view, 1 / scale)
                    _write(root / "test" / name / f"lr_x{scale}" / f"{number:04d}" / f"lr{side}.png", low)


def _motorcycle(root: Path) -> None:
    """As prepare_motorcycle.py leaves it."""
    for seed, pair in enumerate(("train/top", "train/bottom", "val/middle")):
        for side, view in enumerate(made_pair((SIDE, 2 * SIDE), disparity=4, seed=100 + seed)):
            _write(root / pair / f"hr{side}.png", view)
    (root / "disparity").mkdir()
    np.save(root / "disparity" / "middle.npy", np.full((SIDE, 2 * SIDE), 4, np.float32))


def _video(path: Path, *, frames: int, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True)
    height, width = size
    noise = np.random.default_rng(0).integers(0, 256, (height // 8 + 4, width // 8 + 4, 3), dtype=np.uint8)
    texture = cv2.resize(noise, (width + frames, height + frames), interpolation=cv2.INTER_CUBIC)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (width, height))
    for i in range(frames):
        writer.write(texture[i : i + height, i : i + width])
    writer.release()


def _reduce(gt: Path, lq: Path, scale: int, *, suffix: str = "") -> None:
    """Write each image below ``gt`` in low resolution below ``lq``, or blurred where the scale is 1."""
    for path in sorted(gt.rglob("*.png")):
        image = read_image(path)
        low = cv2.blur(image, (3, 3)) if scale == 1 else imresize(image, 1 / scale)
        _write(lq / path.relative_to(gt).with_stem(path.stem + suffix), low)


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image)
