"""Pretrained parts: what files they may come from, and what is said of the others."""

from pathlib import Path

import pytest
import torch

from vsr.archs.basicvsr import BasicVSR, IconVSR
from vsr.archs.basicvsrpp import BasicVSRPlusPlus
from vsr.archs.edvr import EDVR
from vsr.archs.spynet import SpyNet

TINY = {"num_feat": 8, "num_block": 0}


def filled(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network.state_dict()


def assert_same(part: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    for key, value in part.state_dict().items():
        assert torch.equal(value, weights[key]), key


@pytest.mark.parametrize("form", ["params", "params_ema", "plain", "data parallel", "without buffers", "in BasicVSR"])
def test_the_flow_comes_from_any_file_that_has_it(form: str, tmp_path: Path) -> None:
    weights = filled(SpyNet())
    content = {
        "params": {"params": weights},
        "params_ema": {"params": filled(SpyNet()), "params_ema": weights},
        "plain": weights,
        "data parallel": {"params": {f"module.{key}": value for key, value in weights.items()}},
        "without buffers": {"params": {key: value for key, value in weights.items() if key not in ("mean", "std")}},
        "in BasicVSR": {"params": filled(BasicVSR(**TINY)) | {f"spynet.{key}": v for key, v in weights.items()}},
    }[form]
    path = str(tmp_path / "flow.pth")
    torch.save(content, path)
    networks = [SpyNet(load_path=path), BasicVSR(**TINY, spynet_path=path).spynet]
    networks += [IconVSR(**TINY, spynet_path=path).spynet, BasicVSRPlusPlus(mid_channels=8, spynet_path=path).spynet]
    for network in networks:
        assert_same(network, weights)


def test_the_features_of_keyframes_come_from_edvr(tmp_path: Path) -> None:
    edvr = EDVR(num_feat=8, num_reconstruct_block=1)
    weights = filled(edvr)
    path = str(tmp_path / "edvr.pth")
    torch.save({"params": weights}, path)
    network = IconVSR(**TINY, edvr_path=path)
    assert_same(network.edvr, weights)
    window = torch.rand(1, 5, 3, 8, 8)
    pyramid = [level[None] for level in edvr.extract(window[0])]
    aligned = [edvr.pcd_align([level[:, i] for level in pyramid], [level[:, 2] for level in pyramid]) for i in range(5)]
    torch.testing.assert_close(network.edvr(window), edvr.fusion(torch.stack(aligned, 1)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match=r"none.pth: expected pretrained weights of SpyNet"):
        BasicVSR(**TINY, spynet_path=path)
    with pytest.raises(FileNotFoundError, match=r"none.pth: expected pretrained weights of EDVRFeatureExtractor"):
        IconVSR(**TINY, edvr_path=path)


def test_no_file_is_read_for_tensors_without_values() -> None:
    with torch.device("meta"):
        IconVSR(**TINY, spynet_path="none.pth", edvr_path="none.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (EDVR(num_feat=8).state_dict(), "expected the 60 tensors of SpyNet, got 60 too few"),
        ({"params": {"basic_module.0.basic_module.0.weight": torch.zeros(1)}}, "59 too few and 1 of another shape"),
        ([torch.zeros(1)], "expected a dict of tensors, got list"),
        ({}, "got 60 too few"),
        ({"params": {"mean": "rubbish"}}, "1 of another shape"),
        (Path("code"), "expected a checkpoint of tensors, could not read it"),  # an object: not loaded
    ],
)
def test_a_file_of_something_else_is_refused(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        SpyNet(load_path=str(path))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_broken_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken.pth: expected a checkpoint of tensors"):
        SpyNet(load_path=str(path))
