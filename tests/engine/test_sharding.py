"""Validation by 1, 2 and 3 processes: the same records of images, windows, whole clips and stereo pairs."""

import json
from pathlib import Path

import pytest
import torch
from kit import ROOT, run_in_processes, write_frames
from stereo_pairs import made_pair, write_pair

from vsr.config import load_options
from vsr.engine.evaluate import EvaluationSet
from vsr.registry import MODELS

pytestmark = [pytest.mark.slow, pytest.mark.fault]

# Weights from the seed; every set of every kind, one after the other, by all processes together.
SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.append(TESTS)
from vsr.config import load_options
from vsr.engine.evaluate import EvaluationSet
from vsr.registry import MODELS
from vsr.utils import dist
dist.init(60)
found = {}
for file in KINDS:
    options = load_options(file)
    model = MODELS.build({"type": options.model_type}, options=options, device=torch.device("cpu"), train=False)
    for key in options.datasets:
        if key != "train":
            records = EvaluationSet(key, options).measure(model)
            found[f"{file}: {key}"] = [[record.key, dict(record.metrics)] for record in records]
children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
assert not children, "validation left workers behind"
Path(sys.argv[1] + str(dist.rank())).write_text(json.dumps(found))
dist.barrier()
dist.shutdown()
"""

NETWORKS = {
    "images": ("ImageModel", "{type: MSRResNet, num_feat: 8, num_block: 1, upscale: 2}"),
    "windows": ("VideoModel", "{type: WindowNet, num_frame: 3, width: 8}"),
    "stereo": ("StereoModel", "{type: NAFSSR, up_scale: 2, width: 8, num_blks: 1}"),
}


@pytest.fixture
def kinds(tmp_path: Path) -> list[str]:
    """Option files of images (5 and 2 of them), clips (of 4, 1 and 2 frames, as windows and whole) and stereo (4)."""
    for name, count in {"c": 4, "d": 1, "e": 2}.items():
        write_frames(tmp_path / "clips" / name, count, (48, 56), seed=count)
    write_frames(tmp_path / "few", 2, (24, 32), seed=1)
    write_frames(tmp_path / "images", 5, (24, 32), seed=2)
    for number in range(4):
        pair = made_pair((24, 40), disparity=6, seed=number)
        write_pair(tmp_path / "stereo", f"{number:04d}", *pair, scale=2)
    common = "num_worker_per_gpu: 1"
    sets = {
        "images": {
            "val": f"{{type: PairedImageDataset, dataroot_gt: {tmp_path}/images, {common}}}",
            "val_2": f"{{type: PairedImageDataset, dataroot_gt: {tmp_path}/few, {common}}}",
        },
        "windows": {
            "val": f"{{type: VideoTestDataset, dataroot_gt: {tmp_path}/clips, num_frame: 3, padding: replicate, "
            f"{common}}}",
            "val_whole": f"{{type: VideoRecurrentTestDataset, dataroot_gt: {tmp_path}/clips, {common}}}",
        },
        "stereo": {
            "val": f"{{type: PairedStereoImageDataset, dataroot_gt: {tmp_path}/stereo, "
            f"dataroot_lq: {tmp_path}/stereo, {common}}}"
        },
    }
    files = []
    for kind, (model, network) in NETWORKS.items():
        lines = [
            f"name: {kind}",
            f"model_type: {model}",
            "scale: 2",
            "manual_seed: 1",
            "imports: [tiny_networks]",
            "datasets:",
        ]
        lines += [f"  {key}: {text}" for key, text in sets[kind].items()]
        lines += [
            f"network_g: {network}",
            "val: {metrics: {psnr: {type: calculate_psnr}, ssim: {type: calculate_ssim}, tof: {type: calculate_tof}}}",
        ]
        path = tmp_path / f"{kind}.yml"
        path.write_text("\n".join(lines), encoding="utf-8")
        files.append(str(path))
    return files


def alone(files: list[str]) -> dict[str, list[list[object]]]:
    found = {}
    for file in files:
        options = load_options(file)
        model = MODELS.build({"type": options.model_type}, options=options, device=torch.device("cpu"), train=False)
        for key in options.datasets:
            records = EvaluationSet(key, options).measure(model)
            found[f"{file}: {key}"] = [[record.key, dict(record.metrics)] for record in records]
    return json.loads(json.dumps(found))


@pytest.mark.fault
@pytest.mark.parametrize("world", [2, 3])
def test_the_records_are_those_of_one_process_whatever_the_shares(kinds: list[str], tmp_path: Path, world: int) -> None:
    expected = alone(kinds)
    assert [len(records) for records in expected.values()] == [5, 2, 7, 7, 4]
    following = [sum("tof" in dict(metrics) for _, metrics in records) for records in expected.values()]
    assert following == [0, 0, 4, 4, 0]  # all frames of the clips of 4, 1 and 2 but the first of each
    run_in_processes(SCRIPT.replace("KINDS", repr(kinds)).replace("TESTS", repr(str(ROOT / "tests"))), world, tmp_path)
    found = [json.loads((tmp_path / f"done{rank}").read_text()) for rank in range(world)]
    assert found == [expected] * world  # to the bit, on every process


SLOW_SHARE = """
import datetime, sys, time
from torch.distributed.distributed_c10d import _set_pg_timeout
from vsr.engine.hangs import HangWatch
from vsr.utils import dist
dist.init(60)
_set_pg_timeout(datetime.timedelta(seconds=1.5))  # processes may differ by no more from now on, were it a step
dist._timeout = 1.5
watch = HangWatch(dist.patience())
for item in watch.each(range(4 if dist.rank() == 1 else 0)):
    time.sleep(1)
dist.wait_for_all()
assert dist.gather_json(dist.rank()) == [0, 1]
open(sys.argv[1] + str(dist.rank()), "w").close()
dist.shutdown()
"""


@pytest.mark.fault
def test_a_share_that_takes_longer_is_waited_for(tmp_path: Path) -> None:
    run_in_processes(SLOW_SHARE, 2, tmp_path)
    assert len(list(tmp_path.glob("done*"))) == 2


def test_a_process_that_hangs_in_its_share_ends_itself_with_its_stack(tmp_path: Path) -> None:
    script = SLOW_SHARE.replace("time.sleep(1)", "hang_here()").replace(
        "dist.init", "def hang_here():\n    time.sleep(99)\ndist.init"
    )
    with pytest.raises(AssertionError, match=r"Timeout \(0:00:04\.500000\)![^$]*in hang_here"):
        run_in_processes(script, 2, tmp_path)
