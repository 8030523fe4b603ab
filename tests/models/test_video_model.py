"""The model class for videos: windows, clips, and clips in chunks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vsr.archs.basicvsr import BasicVSR
from vsr.config import OptionError, load_options
from vsr.inference import infer
from vsr.metrics.tof import TOF
from vsr.models.video import VideoModel
from vsr.registry import MODELS
from vsr.utils.images import to_uint8

EDVR = "{type: EDVR, num_feat: 8, num_frame: 3, deformable_groups: 2, num_extract_block: 1, num_reconstruct_block: 1}"
BASICVSR = "{type: BasicVSR, num_feat: 8, num_block: 1}"


def make_model(tiny: Path, network: str, *overrides: str) -> VideoModel:
    options = load_options(tiny, [f"network_g={network}", "scale=4", *overrides])
    return MODELS.build({"type": "VideoModel"}, options=options, device=torch.device("cpu"))


def windows(total: int) -> list[dict[str, Any]]:
    """The batches of one item that a set of windows of 3 gives of one clip of noise."""
    clip = torch.randint(0, 256, (total, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    padded = torch.cat((clip[:1], clip, clip[-1:]))
    gt = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    return [{"lq": padded[None, i : i + 3], "gt": gt, "key": [f"c/{i}"]} for i in range(total)]


def whole_clip(total: int) -> dict[str, Any]:
    clip = torch.randint(0, 256, (1, total, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    gt = torch.full((1, total, 3, 32, 32), 128, dtype=torch.uint8)
    return {"lq": clip, "gt": gt, "key": ["c"], "frames": [[f"{i}"] for i in range(total)]}


def window_by_window(model: VideoModel) -> Any:
    """Restore window by window, each as if it were the only one."""
    return lambda batch: model.inference_network(batch["lq"])


def test_validation_extracts_the_features_of_a_frame_once_and_of_new_weights_anew(tiny: Path) -> None:
    model = make_model(tiny, EDVR)
    network = model.inference_network
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    sizes: list[int] = []
    network.conv_l2_1.register_forward_hook(lambda _, x, y: sizes.append(len(y)))
    expected = [float(record.metrics["psnr"]) for record in model.validate(windows(5), restore=window_by_window(model))]
    assert sizes == [3] * 5
    sizes.clear()
    records = model.validate(windows(5))
    assert sizes == [1] * 5
    assert [record.metrics["psnr"] for record in records] == pytest.approx(expected, abs=1e-3)
    model.validate(windows(5))  # the weights may have changed: nothing of before is used
    assert sizes == [1] * 10


def test_a_clip_is_restored_as_a_whole_or_in_chunks(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: dict[str, list[tuple[int, int]]] = {}
    results = {}
    carry = BasicVSR.carry

    def noted(self: BasicVSR, x: torch.Tensor, state: Any, keep: int) -> Any:
        lengths[name].append((x.shape[1], keep))
        return carry(self, x, state, keep)

    monkeypatch.setattr(BasicVSR, "carry", noted)
    for name, overrides in {"whole": (), "chunks": ("val.chunk=4", "val.chunk_overlap=2")}.items():
        model = make_model(tiny, BASICVSR, *overrides)
        lengths[name] = []
        frames = {}
        records = model.validate([whole_clip(7)], on_frame=frames.__setitem__)
        assert [record.key for record in records] == [f"c/{i}" for i in range(7)]
        results[name] = frames
    assert lengths == {"whole": [(7, 7)], "chunks": [(4, 2), (4, 2), (3, 3)]}
    first = [results[name]["c/0"].astype(int) for name in ("whole", "chunks")]
    assert abs(first[0] - first[1]).max() <= 2  # frames far away tell a new network little


def test_a_septuplet_is_restored_as_a_clip_and_its_mirror_image_and_its_middle_frame_measured(tiny: Path) -> None:
    model = make_model(tiny, BASICVSR, "val.center_frame_only=true", "val.flip_seq=true")
    clip = whole_clip(7)["lq"]
    window = {"lq": clip, "gt": torch.full((1, 3, 32, 32), 128, dtype=torch.uint8), "key": ["c/im4"]}
    model.check_sample({key: value[0] for key, value in window.items()}, "datasets.val", train=False)
    frames: dict[str, Any] = {}
    records = model.validate([window], on_frame=frames.__setitem__)
    with torch.no_grad():
        x = clip.float() / 255
        both = infer(model.inference_network, torch.cat((x, x.flip(1)), 1))[0]
    expected = (both[3] + both[14 - 1 - 3]) / 2  # im4 comes as the 4th frame, and as the 4th last
    assert [record.key for record in records] == ["c/im4"]
    assert (frames["c/im4"] == to_uint8(expected)).all()
    assert (frames["c/im4"] != to_uint8(both[3])).any()  # which is what a clip without its mirror image would give
    with pytest.raises(ValueError, match="center_frame_only"):
        make_model(tiny, BASICVSR).check_sample(window | {"lq": clip[0], "gt": window["gt"][0]}, "x", train=False)
    with pytest.raises(ValueError, match="GT frame for each LQ frame"):  # not to train on
        model.check_sample(window | {"lq": clip[0], "gt": window["gt"][0]}, "x", train=True)


@pytest.mark.parametrize("key", ["flip_seq", "center_frame_only"])
def test_options_of_whole_clips_are_refused_for_other_networks(tiny: Path, key: str) -> None:
    model = make_model(tiny, EDVR, f"val.{key}=true")
    sample = {key: value[0] for key, value in windows(3)[0].items()}
    with pytest.raises(ValueError, match=rf"val\.{key}: expected false"):
        model.check_sample(sample, "datasets.val", train=False)
    with pytest.raises(OptionError, match="expected false for model_type ImageModel"):
        load_options(tiny, [f"val.{key}=true", "model_type=ImageModel"])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_restored_clip_does_not_have_to_fit_on_the_gpu(tiny: Path) -> None:
    options = load_options(tiny, [f"network_g={BASICVSR}", "scale=4", "val.chunk=4", "val.chunk_overlap=2"])
    model = VideoModel(options=options, device=torch.device("cuda"))
    restored = model.restore(model.prepare(whole_clip(7)))
    assert restored.shape == (1, 7, 3, 32, 32)
    assert not restored.is_cuda


def test_a_metric_that_follows_looks_at_the_frame_before_of_the_same_clip(tiny: Path) -> None:
    rng = torch.Generator().manual_seed(3)
    frames = [torch.randint(0, 256, (1, 3, 48, 48), generator=rng, dtype=torch.uint8) for _ in range(10)]
    names = ["a/0", "a/1", "a/2", "b/0", "b/1"]
    batches = [
        {"lq": frame[:, None], "gt": gt, "key": [name]}
        for name, frame, gt in zip(names, frames[::2], frames[1::2], strict=True)
    ]
    model = make_model(tiny, EDVR, "val.metrics.tof={type: calculate_tof}")
    seen: dict[str, np.ndarray] = {}
    records = model.validate(batches, restore=lambda batch: batch["lq"][:, 0], on_frame=seen.__setitem__)
    assert [record.key for record in records if "tof" in record.metrics] == ["a/1", "a/2", "b/1"]
    pictures = [[frame[0].permute(1, 2, 0).numpy() for frame in part] for part in (frames[::2], frames[1::2])]
    by_hand = TOF().measure(pictures[0][2], pictures[1][2], (pictures[0][1], pictures[1][1]))
    assert records[2].metrics["tof"] == by_hand > 0

    seen.clear()
    tail = model.validate(batches[1:], restore=lambda batch: batch["lq"][:, 0], on_frame=seen.__setitem__, lead=1)
    assert tail == records[2:]  # what a second process measures, which has the last item of the first one's, too
    assert list(seen) == names[2:]
