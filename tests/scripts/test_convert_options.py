from pathlib import Path
from typing import Any

from kit import ROOT

from vsr.config import load_options

OLD = """\
name: MSRResNet_x4
model_type: SRModel
scale: 4
num_gpu: 1  # set num_gpu: 0 for cpu mode
datasets:
  test_1:
    name: Set5
    type: PairedImageDataset
    dataroot_gt: datasets/Set5/GTmod12
    dataroot_lq: datasets/Set5/LRbicx4
    io_backend: {type: disk}
network_g: {type: MSRResNet, num_in_ch: 3, num_out_ch: 3, num_feat: 64, num_block: 16, upscale: 4}
path: {pretrain_network_g: x.pth, strict_load_g: true}
val:
  save_img: true
  suffix: ~
  metrics: {psnr: {type: calculate_psnr, crop_border: 4, test_y_channel: false}}
"""


def test_a_file_is_printed_or_written_but_never_over_another(tmp_path: Path, run_script: Any) -> None:
    old, new = tmp_path / "old.yml", tmp_path / "made" / "new.yml"
    old.write_text(OLD, encoding="utf-8")
    status, printed, errors = run_script("convert_options.py", str(old))
    assert status == 0
    assert printed.startswith("name: MSRResNet_x4\nmodel_type: ImageModel\n")
    assert "left out the comments of keys that mean nothing here: lines 4" in errors
    assert run_script("convert_options.py", str(old), "-o", str(new))[0] == 0
    assert new.read_text(encoding="utf-8") == printed
    assert load_options(new) == load_options(old)
    new.write_text("mine", encoding="utf-8")
    status, _, errors = run_script("convert_options.py", str(old), "-o", str(new))
    assert (status, new.read_text(encoding="utf-8")) == (1, "mine")
    assert "expected no such file, found one" in errors
    assert run_script("convert_options.py", str(old), "-o", str(new), "--force")[0] == 0
    assert new.read_text(encoding="utf-8") == printed


def test_of_a_folder_every_file_is_converted_that_can_be(tmp_path: Path, run_script: Any) -> None:
    (tmp_path / "old" / "test").mkdir(parents=True)
    (tmp_path / "old" / "test" / "good.yml").write_text(OLD, encoding="utf-8")
    (tmp_path / "old" / "duf.yaml").write_text(OLD.replace("MSRResNet,", "DUF,"), encoding="utf-8")
    status, _, errors = run_script("convert_options.py", str(tmp_path / "old"), "-o", str(tmp_path / "new"))
    assert status == 1
    assert "expected a network of vsr, got 'DUF'" in errors
    assert f"1 of 2 files are in {tmp_path / 'new'}" in errors
    assert [path.name for path in (tmp_path / "new").rglob("*.yml")] == ["good.yml"]
    assert "expected -o FOLDER" in run_script("convert_options.py", str(tmp_path / "old"))[2]


def test_our_own_files_come_out_with_the_same_meaning(tmp_path: Path, run_script: Any) -> None:
    ours = ROOT / "options" / "train" / "EDVR"
    status, _, errors = run_script("convert_options.py", str(ours), "-o", str(tmp_path))
    assert status == 0, errors
    for file in ours.rglob("*.yml"):
        assert load_options(tmp_path / file.relative_to(ours)) == load_options(file)
