import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from vsr.utils.images import write_image

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_loader.py"
OPTIONS = """
name: bench
model_type: ImageModel
scale: 2
datasets: {{train: {{type: PairedImageDataset, dataroot_gt: {gt}, gt_size: 16}}}}
network_g: {{type: MSRResNet, upscale: 2, num_feat: 8, num_block: 1}}
train: {{total_iter: 1, optim_g: {{type: Adam, lr: 1e-3}}, pixel_opt: {{type: L1Loss}}}}
"""


def test_a_table_and_advice_are_printed_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gt").mkdir()
    (tmp_path / "temporary").mkdir()
    for i in range(3):
        image = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        write_image(tmp_path / "gt" / f"{i}.png", image)
    (tmp_path / "bench.yml").write_text(OPTIONS.format(gt=tmp_path / "gt"))
    spec = importlib.util.spec_from_file_location("bench_loader", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    arguments = ["-opt", str(tmp_path / "bench.yml"), "--seconds", "0.02", "--folder", str(tmp_path / "temporary")]
    monkeypatch.setattr(sys, "argv", ["bench_loader.py", *arguments])
    assert script.main() == 0
    output = capsys.readouterr().out
    for storage in ("disk", "lmdb png", "lmdb tiles", "lmdb raw"):
        assert f"\n{storage} " in output
    assert "workers on" in output
    assert os.listdir(tmp_path / "temporary") == []
    (tmp_path / "gt").rename(tmp_path / "gone")
    assert script.main() == 1
    assert "dataroot_gt: expected an existing file or folder" in capsys.readouterr().err
    assert os.listdir(tmp_path / "temporary") == []
