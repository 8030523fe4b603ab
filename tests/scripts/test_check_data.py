import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vsr.utils.images import write_image

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_data.py"
OPTIONS = """
name: check
model_type: ImageModel
scale: 2
datasets:
  val: {{type: PairedImageDataset, dataroot_gt: {root}/gt, dataroot_lq: {root}/lq}}
network_g: {{type: MSRResNet, upscale: 2, num_feat: 8, num_block: 1}}
"""


@pytest.fixture
def option_file(tmp_path: Path) -> Path:
    """An option file with a set of 30 pairs of images."""
    rng = np.random.default_rng(0)
    for root, side in (("gt", 16), ("lq", 8)):
        (tmp_path / root).mkdir()
        for i in range(30):
            image = np.full((side, side, 3), 0, np.uint8) + rng.integers(0, 256, (1, side, 3), dtype=np.uint8)
            write_image(tmp_path / root / f"{i:02d}.png", image.astype(np.uint8))
    (tmp_path / "check.yml").write_text(OPTIONS.format(root=tmp_path), encoding="utf-8")
    return tmp_path / "check.yml"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_table_the_fingerprint_and_all_problems_are_printed(option_file: Path) -> None:
    good = run("-opt", str(option_file))
    assert good.returncode == 0, good.stderr
    lines = good.stdout.splitlines()
    assert lines[0].split() == ["set", "type", "clips", "images", "GT", "LQ", "storage", "decoded", "ok"]
    assert lines[1].split() == ["val", "PairedImageDataset", "-", "30", "16x16", "8x8", "disk", "60", "yes"]
    assert "val: v1-30-16x16-8x8-" in good.stdout
    assert lines[-1] == "all ok"
    for i in range(25):
        (option_file.parent / "lq" / f"{i:02d}.png").unlink()
    bad = run("-opt", str(option_file))
    assert bad.returncode == 1
    assert bad.stdout.count("  problem: ") == 20
    assert "  ... and 6 problems more: --most 26 or --json" in bad.stdout  # 25 files, and that the set cannot be built
    assert bad.stdout.splitlines()[-1] == "problems: 26"
    machine = run("-opt", str(option_file), "--json")
    assert machine.returncode == 1
    (result,) = json.loads(machine.stdout)
    assert (result["key"], result["ok"], len(result["problems"])) == ("val", False, 26)


def test_a_mistake_in_the_option_file_is_one_message(option_file: Path) -> None:
    for arguments in (["-opt", str(option_file), "--set", "scale=x"], ["-opt", "none.yml"]):
        found = run(*arguments)
        assert found.returncode == 1
        assert found.stderr.startswith("error: ")
        assert "Traceback" not in found.stderr
