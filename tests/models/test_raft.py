"""RAFT-small's official weights in torchvision's network.

raft_small_names.json lists what the official checkpoint and torchvision 0.28's raft_small call the same tensor.
"""

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vsr.models.raft import MOST_PAIRS, load_raft_small, pairs_at_a_time, raft_flows, torchvision_name
from vsr.utils.images import Frame

NAMES: list[tuple[str, str, list[int]]] = json.loads(
    (Path(__file__).parents[1] / "golden/raft_small_names.json").read_text()
)


def torchvision_works() -> bool:
    try:
        from torchvision.models.optical_flow import raft_small
    except (ImportError, RuntimeError, OSError, AttributeError):
        return False
    return callable(raft_small)


needs_torchvision = pytest.mark.skipif(not torchvision_works(), reason="torchvision is missing or does not fit torch")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Random weights under the official names, saved as from DataParallel."""
    torch.manual_seed(0)
    weights = {official: 0.05 * torch.randn(shape) for official, _, shape in NAMES}
    torch.save(weights, tmp_path / "raft-small.pth")
    return tmp_path / "raft-small.pth"


def test_every_official_name_becomes_torchvisions() -> None:
    assert len(NAMES) == 106
    for official, expected, _ in NAMES:
        assert torchvision_name(official.removeprefix("module.")) == expected
        assert torchvision_name(expected) == expected


# --- the network -------------------------------------------------------------------------------------


@needs_torchvision
def test_official_weights_fill_torchvisions_network(checkpoint: Path) -> None:
    network = load_raft_small(checkpoint)
    weights, own = torch.load(checkpoint, weights_only=True), network.state_dict()
    assert list(own) == [name for _, name, _ in NAMES]
    for official, name, _ in NAMES:
        assert torch.equal(own[name], weights[official])
    assert not network.training
    first, second = frames(30, 45)
    flow = raft_flows(network, [first], [second])
    assert flow.shape == (1, 2, 30, 45)
    assert flow.dtype == np.float32
    assert np.isfinite(flow).all()
    again = checkpoint.with_name("torchvision.pth")
    torch.save(own, again)  # a file with torchvision's own names
    np.testing.assert_array_equal(raft_flows(load_raft_small(again), [first], [second]), flow)


@needs_torchvision
@pytest.mark.parametrize("change", ["missing", "shape", "more"])
def test_weights_of_another_network_are_refused(checkpoint: Path, change: str) -> None:
    weights = torch.load(checkpoint, weights_only=True)
    name = "module.fnet.conv2.bias"
    if change == "missing":
        del weights[name]
    else:
        weights[name if change == "shape" else "module.fnet.conv9.bias"] = torch.zeros(3)
    torch.save(weights, checkpoint)
    with pytest.raises(ValueError, match=r"raft-small\.pth: expected weights of RAFT's small network .* 1 differ"):
        load_raft_small(checkpoint)


@pytest.mark.parametrize(
    "name",
    ["module.update_block.gru.convz1.weight", "module.update_block.mask.0.weight", "mask_predictor.conv.weight"],
)
def test_the_large_network_is_told_apart_and_refused(tmp_path: Path, name: str) -> None:
    torch.save({"module.fnet.conv1.weight": torch.zeros(64, 3, 7, 7), name: torch.zeros(3)}, tmp_path / "sintel.pth")
    with pytest.raises(ValueError, match=r"sintel\.pth: .* the large one, which is not supported\. Take raft-small"):
        load_raft_small(tmp_path / "sintel.pth")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth: expected a checkpoint, found no such file"):
        load_raft_small(tmp_path / "none.pth")


# --- a torchvision that is not there, or broken ---------------------------------------------------------


@pytest.fixture
def without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("without_torchvision")
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "RuntimeError: operator torchvision::nms"),
        ("raise OSError('libcudart.so.13: cannot open')", "OSError: libcudart"),
        ("from torch import no_such_thing", "ImportError: cannot import name 'no_such_thing'"),
    ],
)
def test_a_broken_torchvision_is_called_broken(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="is installed, but cannot be imported beside torch") as caught:
        load_raft_small(checkpoint)
    assert reason in str(caught.value)
    assert "--method dis" in str(caught.value)
    assert torch.__version__ in str(caught.value)


@pytest.mark.usefixtures("without_torchvision")
def test_a_missing_torchvision_is_called_missing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere:
        def find_spec(self, name: str, *_: Any) -> None:
            if name.split(".")[0] == "torchvision":
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(sys, "meta_path", [Nowhere(), *sys.meta_path])
    with pytest.raises(ImportError, match="the package torchvision, which is not installed"):
        load_raft_small(checkpoint)


# --- what the network is shown ------------------------------------------------------------------------


class Probe(nn.Module):
    """Stands for the network: keeps what it is shown, and answers with a flow that tells the iteration and place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.shown: list[Tensor] = []

    def forward(self, first: Tensor, second: Tensor, num_flow_updates: int) -> list[Tensor]:
        self.shown = [first, second]
        n, _, h, w = first.shape
        place = torch.arange(h * w, dtype=torch.float32).view(h, w).expand(n, 2, h, w)
        return [place + 1000000 * i for i in range(num_flow_updates)]


def frames(height: int, width: int, count: int = 2) -> list[Frame]:
    return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def test_frames_are_padded_with_black_scaled_and_the_last_flow_is_cut_to_their_size() -> None:
    first, second = frames(130, 150)
    network = Probe()
    flow = raft_flows(network, [first], [second], iterations=3)
    for shown, frame in zip(network.shown, (first, second), strict=True):
        assert shown.shape == (1, 3, 136, 152)  # multiples of 8
        np.testing.assert_allclose(shown[0, :, :130, :150].permute(1, 2, 0).numpy(), frame / 127.5 - 1, atol=1e-6)
        assert (shown[..., 130:, :] == -1).all()
        assert (shown[..., 150:] == -1).all()
    assert flow.shape == (1, 2, 130, 150)
    np.testing.assert_array_equal(flow[0, 0, 129], 2000000 + 129 * 152 + np.arange(150))


@pytest.mark.parametrize(("size", "shown"), [((32, 64), (128, 256)), ((1, 20), (128, 160)), ((100, 400), (128, 512))])
def test_small_frames_are_enlarged_and_their_flow_is_made_smaller(size: tuple[int, int], shown: Any) -> None:
    first, second = frames(*size)

    class Still(Probe):
        def forward(self, first: Tensor, second: Tensor, num_flow_updates: int) -> list[Tensor]:
            self.shown = [first]
            return [torch.full((1, 2, *first.shape[2:]), 8.0)]

    network = Still()
    flow = raft_flows(network, [first], [second])
    assert network.shown[0].shape[2:] == shown
    factor = min(8, 128 / min(size))
    assert flow.shape == (1, 2, *size)
    np.testing.assert_allclose(flow, 8 / factor, rtol=1e-6)


def test_bgr_shows_blue_as_red() -> None:
    first, second = frames(128, 128)
    network = Probe()
    raft_flows(network, [first], [second])
    plain = network.shown[0]
    raft_flows(network, [first], [second], bgr=True)
    assert torch.equal(network.shown[0], plain.flip(1))
    assert not torch.equal(network.shown[0], plain)


def test_pairs_that_go_together_shrink_with_their_size() -> None:
    assert pairs_at_a_time((180, 320)) == MOST_PAIRS
    assert pairs_at_a_time((8, 8)) == MOST_PAIRS
    assert pairs_at_a_time((720, 1280)) == 1
    # 45 x 80 places: 51.8 MB of correlations a pair
    assert pairs_at_a_time((360, 640)) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0}, "iterations: expected 1 or more"),
        ({"neighbours": frames(20, 31)[:1]}, "two frames .* of one size"),
        ({"centres": frames(20, 30), "neighbours": [frames(20, 30)[0], frames(21, 30)[0]]}, "of one size"),
        ({"centres": [frames(20, 30)[0].astype(np.float32)]}, "expected uint8"),
    ],
)
def test_other_frames_are_refused(change: dict[str, Any], message: str) -> None:
    given = {"centres": frames(20, 30)[:1], "neighbours": frames(20, 30)[1:]} | change
    with pytest.raises(ValueError, match=message):
        raft_flows(Probe(), **given)


@needs_torchvision
@pytest.mark.slow
def test_official_weights_find_a_shift() -> None:
    path = Path(__file__).parents[2] / "experiments/pretrained_models/raft-small.pth"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    noise = np.random.default_rng(0).integers(0, 256, (180, 220, 3), dtype=np.uint8)
    large = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    centre, neighbour = large[10:150, 10:180], large[12:152, 7:177]  # what is at p is at p + (3, -2) in the second
    flow = raft_flows(load_raft_small(path), [centre], [neighbour])[0]
    assert np.median(flow[0]) == pytest.approx(3, abs=0.2)
    assert np.median(flow[1]) == pytest.approx(-2, abs=0.2)
