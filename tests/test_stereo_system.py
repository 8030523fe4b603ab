"""Stereo super-resolution from end to end: downloaded trees, patches, LMDBs, training, and one table of all test sets.

The option files are the ones in options/; they find the data where their header says that the scripts put them.
"""

import csv
import logging
import math
import signal
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from killing import tree
from kit import ROOT, assert_same_run, history, kill, launch, run, steps_told, wait_for_steps
from stereo_pairs import made_pair

from vsr.config import load_options
from vsr.data.lmdb_writer import Recipe, make_lmdb
from vsr.data.stereo_sets import prepare_flickr1024, prepare_stereo
from vsr.engine.test import test as run_test
from vsr.engine.train import train
from vsr.utils.images import read_image, write_image

pytestmark = pytest.mark.slow

TRAIN = {"0001": (151, 411), "0002": (173, 433), "0003": (164, 399)}  # of the second, x2, the last patch just fits
FLICKR = {"Train": TRAIN, "Validation": {"0001": (97, 143)}, "Test": {"0001": (107, 161), "0002": (95, 129)}}
SETS = ["KITTI2012", "KITTI2015", "Middlebury", "Flickr1024"]  # in the order of options/test/NAFSSR
SMALL = [
    "network_g.width=8", "network_g.num_blks=2", "datasets.train.batch_size_per_gpu=2",
    "datasets.train.num_worker_per_gpu=0", "datasets.val.num_worker_per_gpu=0", "train.total_iter=2",
    "val.val_freq=2", "logger.print_freq=1", "logger.save_checkpoint_freq=100", "logger.use_tb_logger=false",
]  # fmt: skip
SSIMS = {
    "ssim": "SSIM, RGB, flat 7 x 7 window (scikit-image), crop 0, mean of both views",
    "ssim_2d": "SSIM, RGB, 2-D window, crop 0, mean of both views",
    "ssim_3d": "SSIM, RGB, 3-D window, crop 0, mean of both views",
}


def write_flickr(root: Path, sizes: Mapping[str, Mapping[str, tuple[int, int]]]) -> None:
    for folder, pairs in sizes.items():
        (root / folder).mkdir(parents=True)
        for seed, (name, size) in enumerate(pairs.items()):
            for side, view in zip("LR", made_pair(size, disparity=9, seed=seed), strict=True):
                write_image(root / folder / f"{name}_{side}.png", view)


def write_others(root: Path) -> None:
    """Write KITTI's and Middlebury's test images as they are downloaded."""
    kitti = {"KITTI2012": ("colored_0", "colored_1"), "KITTI2015": ("image_2", "image_3")}
    for seed, (name, folders) in enumerate(kitti.items()):
        for folder, view in zip(folders, made_pair((93, 181), disparity=9, seed=seed), strict=True):
            (root / name / "testing" / folder).mkdir(parents=True)
            write_image(root / name / "testing" / folder / "000007_10.png", view)
    (root / "Middlebury" / "Aloe").mkdir(parents=True)
    for number, view in enumerate(made_pair((101, 141), disparity=9, seed=7)):
        write_image(root / "Middlebury" / "Aloe" / f"im{number}.png", view)


def patches_of(size: tuple[int, int], scale: int) -> int:
    """Return how many patches the loops 3:20:H-33 and 3:20:W-93 have, counted in closed form."""
    rows, columns = size[0] // scale, size[1] // scale
    return max(0, (rows - 33 - 3) // 20 + 1) * max(0, (columns - 93 - 3) // 20 + 1)


def check_patches(raw: Path, patches: Path, scale: int) -> None:
    """Compare all patches with parts of the images, reduced by torch's antialiased bicubic interpolation.

    It treats the images' borders otherwise than MATLAB, but no patch reaches there.
    """
    number = 0
    for name, size in TRAIN.items():
        height, width = (side // scale * scale for side in size)
        views = [read_image(raw / "Train" / f"{name}_{side}.png")[:height, :width] for side in "LR"]
        tensors = [torch.from_numpy(view).permute(2, 0, 1)[None].double() for view in views]
        low = [F.interpolate(t, scale_factor=1 / scale, mode="bicubic", antialias=True)[0] for t in tensors]
        for top in range(2, height // scale - 33, 20):
            for left in range(2, width // scale - 93, 20):
                number += 1
                folder = patches / f"{number:06d}"
                for view in range(2):
                    part = views[view][scale * top : scale * (top + 30), scale * left : scale * (left + 90)]
                    np.testing.assert_array_equal(read_image(folder / f"hr{view}.png"), part)
                    expected = low[view][:, top : top + 30, left : left + 90].clamp(0, 255).permute(1, 2, 0).numpy()
                    found = read_image(folder / f"lr{view}.png")
                    assert np.abs(found - expected).max() < 0.51  # half a level, and what doubles round differently
    assert number == sum(patches_of(size, scale) for size in TRAIN.values())
    assert len([path for path in patches.iterdir() if path.is_dir()]) == number


def test_trees_with_mistakes_are_told_of_before_anything_is_written(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_flickr(raw, {"Train": {"0001": (40, 60), "0002": (40, 60)}})
    partner = raw / "Train" / "0002_R.png"
    partner.rename(raw / "Train" / "right2.png")
    for mend, message in (
        (lambda: (raw / "Train" / "right2.png").rename(tmp_path / "kept.png"), r"raw/Train: .*got right2.png \(1 in"),
        (lambda: (tmp_path / "kept.png").rename(partner), r"raw/Train: .*without the other: 0002_L.png \(1 in all\)"),
    ):
        before = tree(tmp_path)
        with pytest.raises(ValueError, match=message):
            prepare_flickr1024(str(raw), str(tmp_path / "made"), scales=(2, 4))
        assert tree(tmp_path) == before
        mend()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw trees in raw, and in datasets/StereoSR all that is made of them, in files and in LMDBs."""
    root = tmp_path_factory.mktemp("stereo")
    raw, made = root / "raw", root / "datasets" / "StereoSR"
    write_flickr(raw, FLICKR)
    write_others(raw)
    told = prepare_flickr1024(str(raw), str(made), scales=(2, 4))
    for scale, count in ((2, 2 * 6 + 3 * 7 + 3 * 6), (4, 1 + 1 + 1)):
        assert f"{made}/patches_x{scale}: {count} patches of 3 pairs" in told
    for kind, name in (("kitti2012", "KITTI2012"), ("kitti2015", "KITTI2015"), ("middlebury", "Middlebury")):
        prepare_stereo(kind, str(raw / name), str(made))
    flickr = made / "test" / "Flickr1024"
    for folder in (made / "patches_x2", made / "patches_x4", flickr / "hr", flickr / "lr_x2", flickr / "lr_x4"):
        make_lmdb(Recipe(str(folder), f"{folder}.lmdb", "tiles"))
    return root


@pytest.mark.parametrize("scale", [2, 4])
def test_patches_are_as_many_as_the_formula_says_and_equal_a_direct_computation(prepared: Path, scale: int) -> None:
    check_patches(prepared / "raw", prepared / "datasets" / "StereoSR" / f"patches_x{scale}", scale)


@pytest.mark.parametrize("scale", [2, 4])
def test_lmdbs_become_weights_and_one_table(
    prepared: Path, scale: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(prepared)  # the option files name datasets/StereoSR
    made = Path("datasets/StereoSR")
    flickr = made / "test" / "Flickr1024"
    lmdb = [f"datasets.{key}.io_backend.type=lmdb" for key in ("train", "val")]
    lmdb += [f"datasets.train.dataroot_{root}={made}/patches_x{scale}.lmdb" for root in ("gt", "lq")]
    lmdb += [
        f"datasets.val.dataroot_{root}={flickr}/{name}.lmdb" for root, name in (("gt", "hr"), ("lq", f"lr_x{scale}"))
    ]
    file = ROOT / f"options/train/NAFSSR/nafssr_t_x{scale}.yml"
    train(load_options(file, [f"name=lmdb{scale}", *SMALL, *lmdb]))
    if scale == 4:
        train(load_options(file, ["name=files", *SMALL]))
        assert_same_run(prepared / "experiments" / "files", prepared / "experiments" / "lmdb4", 2)

    metrics = ["val.metrics.ssim_2d.type=calculate_ssim", "val.metrics.ssim_3d={type: calculate_ssim, ssim3d: true}"]
    weights = f"path.pretrain_network_g={prepared}/experiments/lmdb{scale}/models/net_g_2.pth"
    workers = [f"datasets.{key}.num_worker_per_gpu=0" for key in ("test", "test_2", "test_3", "test_4")]
    file = ROOT / f"options/test/NAFSSR/nafssr_t_x{scale}.yml"
    options = load_options(file, [*SMALL[:2], *metrics, *workers, weights, "val.save_img=true"])
    with caplog.at_level(logging.INFO, logger="vsr"):
        run_test(options)
    said = caplog.text[caplog.text.index("totals of 4 sets") :]
    check_results(said.splitlines(), prepared / "results" / f"NAFSSR_T_x{scale}", made)


def check_results(table: list[str], results: Path, made: Path) -> None:
    """The table of all sets names every definition; its figures are those of the pictures."""
    assert [line.split()[0] for line in table[2:6]] == SETS
    both, left = "PSNR, RGB, crop 0, mean of both views", "PSNR, RGB, crop 0, left view without its first 64 columns"
    for line in (f"psnr: {both}", f"psnr_left: {left}", *(f"{name}: {text}" for name, text in SSIMS.items())):
        assert line in table, line
    with (results / "report.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["set"] for row in rows] == SETS
    for row in rows:
        found: dict[str, list[float]] = {"psnr": [], "psnr_left": []}
        for folder in (made / "test" / row["set"] / "hr").iterdir():
            pairs = [
                (
                    read_image(results / "visualization" / row["set"] / f"{folder.name}_{side}.png").astype(float),
                    read_image(folder / f"hr{number}.png").astype(float),
                )
                for number, side in enumerate("LR")
            ]
            values = [10 * math.log10(255**2 / np.mean((one - other) ** 2)) for one, other in pairs]
            found["psnr"].append(sum(values) / 2)
            one, other = (view[:, 64:] for view in pairs[0])
            found["psnr_left"].append(10 * math.log10(255**2 / np.mean((one - other) ** 2)))
        for name, figures in found.items():
            assert float(row[name]) == pytest.approx(sum(figures) / len(figures), abs=1e-9)
        assert len({row[name] for name in SSIMS}) == 3  # three definitions, three figures
        assert all(0 < float(row[name]) < 1 for name in SSIMS)


@pytest.mark.fault
def test_the_same_command_goes_on_after_a_sigterm_with_twice_the_steps_for_half_the_batch(
    prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = prepared / "datasets" / "StereoSR"
    arguments = ["-opt", str(ROOT / "options/train/NAFSSR/nafssr_s_x4.yml"), "--set", *SMALL]  # S leaves out blocks
    arguments += [f"datasets.train.dataroot_{root}={made}/patches_x4" for root in ("gt", "lq")]
    arguments += [f"datasets.val.dataroot_gt={made}/test/Flickr1024/hr"]
    arguments += [f"datasets.val.dataroot_lq={made}/test/Flickr1024/lr_x4", "val.val_freq=100"]
    arguments += [f"path.experiments_root={tmp_path}", "train.reference_batch=4"]
    half = ["train.total_iter=6", "train.scheduler.T_max=6", "train.scale_iterations=true", "name=parts"]
    process = launch("train.py", *arguments, *half)
    try:
        wait_for_steps(tmp_path / "parts", 2, process)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        kill(process)
    assert process.returncode == 0, output
    assert "numbers of steps are multiplied by 2 (total_iter: 12 in place of 6)" in output
    done = max(history(tmp_path / "parts"))
    assert 2 <= done < 12
    status, output = run("train.py", *arguments, *half)
    assert status == 0, output
    assert steps_told(tmp_path / "parts") == list(range(1, 13))  # each once: it neither began anew nor repeated any
    whole = [*arguments[3:], "train.total_iter=12", "train.scheduler.T_max=12", "name=whole"]
    with caplog.at_level(logging.WARNING, logger="vsr"):
        train(load_options(arguments[1], whole))
    assert "multiply them by 2 (total_iter: 24); train.scale_iterations: true does" in caplog.text  # and it is not done
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 12)
