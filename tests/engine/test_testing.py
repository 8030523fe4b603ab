"""Testing warns where the network tested is not the one that the weights were trained or published for."""

from pathlib import Path

import cv2
import pytest
import torch
from kit import write_frames

from vsr.config import dump_options, load_options
from vsr.engine.test import test as run_test
from vsr.engine.test import warn_of_other_pooling
from vsr.models.weights import build_network

RECIPE = Path(__file__).parents[2] / "options/test/NAFNet/nafnet_w32_gopro.yml"
SMALL = ["network_g.width=8", "network_g.enc_blk_nums=[1]", "network_g.dec_blk_nums=[1]", "network_g.middle_blk_num=1"]
PLAIN = "network_g={type: NAFNet, width: 8, enc_blk_nums: [1], dec_blk_nums: [1], middle_blk_num: 1}"


def test_published_weights_of_local_pooling_are_not_tested_without_it_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_frames(tmp_path / "gt", 1, (32, 32), seed=0)
    (tmp_path / "lq").mkdir()
    cv2.imwrite(str(tmp_path / "lq" / "0000.png"), cv2.blur(cv2.imread(str(tmp_path / "gt" / "0000.png")), (3, 3)))
    weights = tmp_path / "NAFNet-GoPro-width32.pth"
    place = [
        f"path.pretrain_network_g={weights}",
        f"path.results_root={tmp_path}",
        "datasets.test.num_worker_per_gpu=0",
    ]
    place += [f"datasets.test.dataroot_{root}={tmp_path}/{root}" for root in ("gt", "lq")]
    plain, local = (load_options(RECIPE, [*network, *place]) for network in ([PLAIN], SMALL))
    torch.save({"params": build_network(plain.network_g.as_option()).state_dict()}, weights)
    run_test(local)
    assert "averages over whole images" not in caplog.text
    run_test(plain)
    assert f"{weights} was trained or published as NAFNetLocal, and is tested as NAFNet" in caplog.text
    assert "Set network_g.type: NAFNetLocal" in caplog.text


@pytest.mark.parametrize(
    ("network", "file", "warns"),
    [
        ("NAFNet", "NAFNet-GoPro-width64.pth", True),
        ("NAFNet", "NAFNet-REDS-width64.pth", True),
        ("NAFNet", "NAFNet-SIDD-width32.pth", False),  # measured without, on images as large as the crops
        ("NAFNetLocal", "NAFNet-GoPro-width64.pth", False),
        ("NAFNet", "mine.pth", False),
    ],
)
def test_what_is_published_decides_for_published_files(
    network: str, file: str, warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_other_pooling(network, tmp_path / file)
    assert bool(caplog.records) is warns


def test_the_run_decides_for_its_own_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = tmp_path / "run" / "models" / "net_g_best.pth"
    weights.parent.mkdir(parents=True)
    options = tmp_path / "run" / "options.yml"
    options.write_text(dump_options(load_options(RECIPE, SMALL)), encoding="utf-8")
    warn_of_other_pooling("NAFNetLocal", weights)
    warn_of_other_pooling("BaselineLocal", weights)
    assert not caplog.records
    warn_of_other_pooling("NAFNet", weights)
    assert "published as NAFNetLocal" in caplog.text
    caplog.clear()
    options.write_text("name: [", encoding="utf-8")  # what cannot be read tells nothing, and stops nothing
    warn_of_other_pooling("NAFNet", weights)
    assert not caplog.records
