"""Every shipped option file: loads, builds at full size, and a reduced copy trains, resumes and tests."""

from pathlib import Path

import pytest
import torch
from kit import history, write_frames
from stereo_pairs import made_pair, write_pair

from vsr.config import Options, dump_options, load_options
from vsr.engine.test import test as run_test
from vsr.engine.train import train
from vsr.models.weights import build_network

ROOT = Path(__file__).parent.parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "options").rglob("*.yml"))

# Parameters of the official classes; EDVR-L is published as 20.6 M
# with TSA, and its deblurring form adds the predeblur module.
PARAMETERS = {
    "options/train/EDVR/edvr_m_x4_reds_wotsa.yml": 2_996_259,
    "options/test/EDVR/edvr_m_x4_reds4.yml": 3_300_131,
    "options/train/MSRResNet/msrresnet_x4_div2k.yml": 1_517_571,
    "options/train/EDSR/edsr_m_x4_div2k.yml": 1_517_571,
    "options/train/RCAN/rcan_x2_div2k.yml": 15_444_643,
    "options/train/RRDBNet/rrdbnet_psnr_x4_div2k.yml": 16_697_987,
    "options/test/BasicVSR/basicvsr_reds4.yml": 6_291_311,
    "options/test/BasicVSR/basicvsr_vid4.yml": 6_291_311,
    "options/test/BasicVSR/iconvsr_reds4.yml": 8_694_991,
    "options/test/BasicVSR/basicvsrpp_reds4.yml": 7_322_927,
    "options/train/SwinIR/swinir_x4_div2k.yml": 11_900_199,
    "options/train/NAFNet/nafnet_w32_gopro.yml": 17_111_907,
    "options/train/NAFNet/nafnet_w32_sidd.yml": 29_159_715,
    "options/train/NAFSSR/nafssr_t_x2.yml": 445_068,
    "options/train/NAFSSR/nafssr_t_x4.yml": 460_656,
}


def test_there_are_option_files() -> None:
    assert len(FILES) >= 6


@pytest.mark.parametrize("file", FILES)
def test_it_loads_and_its_complete_copy_is_the_same(file: str, tmp_path: Path) -> None:
    options = load_options(ROOT / file)
    copy = tmp_path / "copy.yml"
    copy.write_text(dump_options(options), encoding="utf-8")
    assert load_options(copy) == options


@pytest.mark.parametrize("file", FILES)
def test_its_network_builds_at_full_size(file: str) -> None:
    options = load_options(ROOT / file)
    with torch.device("meta"):
        network = build_network(options.network_g.as_option())
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == PARAMETERS.get(file, count)
    if "edvr_l" in file:
        assert 19e6 < count < 25e6
    assert network.scale == options.scale


def reduced(options: Options, data: Path) -> list[str]:
    """Overrides that make a run a matter of seconds, on made-up clips in place of the real ones."""
    overrides = [f"path.experiments_root={data}/experiments", f"path.results_root={data}/results"]
    for key, section in options.datasets.items():
        side = 32 if key == "train" else 24
        folder = data / key
        if section.dataset.type == "PairedStereoImageDataset":
            for number in range(10):
                pair = made_pair((2 * side, 6 * side), disparity=4, seed=number)
                write_pair(folder, f"{number:04d}", *pair, scale=options.scale)
            overrides += [f"datasets.{key}.dataroot_{root}={folder}" for root in ("gt", "lq")]
            overrides.append(f"datasets.{key}.num_worker_per_gpu=0")
            if key == "train":
                overrides += ["datasets.train.gt_size_h=32", "datasets.train.gt_size_w=64"]
            continue
        septuplets = section.dataset.type.startswith("Vimeo90K")
        for clip, seed in (("a", 1), ("b", 2)):
            name = f"00001/000{seed}" if septuplets else f"{key}_{clip}"
            for version, factor in (("gt", 1), ("lq", options.scale)):
                write_frames(
                    folder / version / name, 7 if septuplets else 5, (2 * side // factor, 2 * side // factor),
                    seed=seed, name="im{}" if septuplets else "{:04d}", first=int(septuplets),
                )  # fmt: skip
        overrides += [f"datasets.{key}.dataroot_gt={folder}/gt", f"datasets.{key}.num_worker_per_gpu=0"]
        arguments = section.dataset.args
        if arguments.get("num_frame", 0) > 5 and "num_frame" not in options.network_g.args:
            overrides.append(f"datasets.{key}.num_frame=3")
        overrides += [
            f"datasets.{key}.{name}=null"
            for name in ("clips", "exclude_clips", "frames", "meta_info_file")
            if arguments.get(name)
        ]
        if arguments["dataroot_lq"] is not None:
            overrides.append(f"datasets.{key}.dataroot_lq={folder}/lq")
        if arguments.get("gt_downscale", 1) > 1:
            overrides.append(f"datasets.{key}.gt_downscale=1")
        if arguments.get("filename_tmpl", "{}") != "{}":
            overrides.append(f"datasets.{key}.filename_tmpl='{{}}'")
        if key == "train":
            overrides += [f"datasets.train.gt_size={side}", "datasets.train.batch_size_per_gpu=1"]
    small: dict[str, object] = {
        "num_feat": 8,
        "deformable_groups": 2,
        "num_extract_block": 1,
        "num_reconstruct_block": 1,
        "num_block": 1,
        "width": 8,
        "num_blks": 1,
        "enc_blk_nums": [1, 1],
        "dec_blk_nums": [1, 1],
        "middle_blk_num": 1,
        "mid_channels": 8,
        "num_blocks": 1,
        "temporal_padding": 1,
        "spynet_path": "null",
        "edvr_path": "null",
        "num_group": 1,
        "squeeze_factor": 4,
        "num_grow_ch": 4,
        "depths": [2],
        "num_heads": [2],
        "embed_dim": 8,
        "window_size": 4,
    }
    overrides += [f"network_g.{name}={value}" for name, value in small.items() if name in options.network_g.args]
    if options.network_d is not None:
        overrides.append("network_d={type: UNetDiscriminatorSN, num_in_ch: 3, num_feat: 4}")  # of images of any size
    if options.train is not None:
        overrides += [
            f"train.losses.{name}=null" for name in options.train.losses if name == "perceptual"
        ]  # needs a file
        overrides += [
            "path.pretrain_network_g=null",
            "train.total_iter=2",
            "val.val_freq=2",
            "logger.print_freq=1",
            "logger.save_checkpoint_freq=1",
        ]
    return overrides


@pytest.mark.parametrize("file", FILES)
def test_a_reduced_copy_trains_resumes_and_tests(file: str, tmp_path: Path) -> None:
    overrides = reduced(load_options(ROOT / file), tmp_path)
    options = load_options(ROOT / file, overrides)
    if options.train is None:
        weights = tmp_path / "net.pth"
        torch.save({"params": build_network(options.network_g.as_option()).state_dict()}, weights)
        options = load_options(ROOT / file, [*overrides, f"path.pretrain_network_g={weights}"])
    else:
        train(load_options(ROOT / file, [*overrides, "train.total_iter=1"]))
        train(options)
        assert sorted(history(tmp_path / "experiments" / options.name)) == [1, 2]
    for key, records in run_test(options).items():
        assert len(records) == 10, key
        assert all(5 < record.metrics["psnr"] < 60 for record in records)
    assert (tmp_path / "results" / options.name / "report.html").is_file()
