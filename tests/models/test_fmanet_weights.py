"""FMA-Net's official pairs of checkpoints, and networks of red-first frames made of them."""

import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vsr
from vsr.models.weights import read_weights
from vsr.utils import logs

ROOT = Path(__file__).parents[2]
OPTION: dict[str, Any] = {
    "type": "FMANet",
    "dim": 12,
    "ds_kernel_size": 6,
    "us_kernel_size": 3,
    "num_RDB": 1,
    "growth_rate": 4,
    "num_dense_layer": 2,
    "num_flow": 2,
    "num_FRMA": 1,
    "num_transformer_block": 1,
    "num_heads": 2,
}
D, R = "degradation_learning_network", "restoration_network"


def network(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return vsr.build_network(OPTION | changes).eval()


def save_as_official(of: nn.Module, folder: Path, *, prefix: str = "") -> None:
    """Write what FMA-Net's code writes at its best epoch: weights, optimisers and schedules of each network."""
    for letter, part in (("D", getattr(of, D)), ("R", getattr(of, R, None))):
        if part is None:
            continue
        optimizer = torch.optim.Adam(part.parameters(), 2e-4)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [260, 360], 0.5)
        content = {
            "epoch": 395,
            f"model_{letter}_state_dict": {prefix + name: value for name, value in part.state_dict().items()},
            f"optimizer_{letter}_state_dict": optimizer.state_dict(),
            f"scheduler_{letter}_state_dict": schedule.state_dict(),
        }
        torch.save(content, folder / f"model_{letter}_best.pt")


def other_way_round(colours: Tensor) -> Tensor:
    return colours.flip(1)


def results(of: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
    with torch.no_grad():
        found: dict[str, Tensor] = of(x, y)
    return found


@pytest.mark.parametrize("changes", [{}, {"bias": True, "num_seq": 5, "dim": 10}, {"stage": 1}], ids=str)
@pytest.mark.parametrize(("named", "prefix"), [("", "module."), ("model_{}_best.pt", "")], ids=["folder", "file"])
def test_official_files_of_blue_first_frames_give_a_network_of_red_first_ones(
    changes: dict[str, Any], named: str, prefix: str, tmp_path: Path
) -> None:
    official = network(**changes)
    save_as_official(official, tmp_path, prefix=prefix)
    loaded = vsr.load_network(tmp_path / named.format("D" if changes.get("stage") == 1 else "R"))
    t = changes.get("num_seq", 3)
    x, y = torch.rand(1, 3, t, 5, 6), torch.rand(1, 3, t, 20, 24)
    expected = results(official, other_way_round(x), other_way_round(y))
    found = results(loaded, x, y)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        wanted = value if key == "image_flow" else other_way_round(value)
        torch.testing.assert_close(found[key], wanted, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


def test_the_colours_stay_where_bgr_is_said_to_be_false(tmp_path: Path) -> None:
    official = network()
    save_as_official(official, tmp_path)
    found = read_weights(tmp_path, bgr=False)
    assert list(found) == list(official.state_dict())
    assert all(torch.equal(found[name], value) for name, value in official.state_dict().items())
    turned = read_weights(tmp_path)
    assert {name for name in found if not torch.equal(found[name], turned[name])} == {
        f"{D}.feature_extractor.0.weight",
        f"{D}.a_conv.2.weight",
        f"{R}.feature_extractor.0.weight",
        f"{R}.f_conv3.0.weight",
        f"{R}.a_conv.2.weight",
        f"{R}.res_conv2.weight",
    }
    torch.save({"params": found}, tmp_path / "ours.pth")
    for said, wanted in ((True, turned), (None, found)):
        ours = read_weights(tmp_path / "ours.pth", bgr=said)
        assert all(torch.equal(ours[name], value) for name, value in wanted.items())


def test_two_files_become_one_that_needs_no_turning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_as_official(network(), tmp_path)
    monkeypatch.setattr(logs, "setup", lambda: None)  # it would take the log from the tests that follow
    monkeypatch.setattr(sys, "argv", ["convert_weights.py", str(tmp_path), str(tmp_path / "new" / "fmanet.pth")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts" / "convert_weights.py"), run_name="__main__")
    assert end.value.code == 0
    converted, loaded = vsr.load_network(tmp_path / "new" / "fmanet.pth"), vsr.load_network(tmp_path)
    x, y = torch.rand(1, 3, 3, 5, 6), torch.rand(1, 3, 3, 20, 24)
    found, wanted = results(converted, x, y), results(loaded, x, y)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("name", ["FMANet_REDS_{}_best.pt", "my_Run_{}.pt", "net_{}.pth"])
def test_net_d_s_file_beside_net_r_s_is_found_under_names_of_one_s_own(name: str, tmp_path: Path) -> None:
    official = network()
    save_as_official(official, tmp_path)
    for letter in "DR":
        (tmp_path / f"model_{letter}_best.pt").rename(tmp_path / name.format(letter))
    assert list(read_weights(tmp_path / name.format("R"))) == list(official.state_dict())


def test_half_of_a_pair_is_refused_in_plain_words(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a checkpoint, or a folder with FMA-Net's model_D_best\.pt"):
        vsr.load_network(tmp_path)
    save_as_official(network(), tmp_path)
    (tmp_path / "model_D_best.pt").unlink()
    for path in (tmp_path, tmp_path / "model_R_best.pt"):
        with pytest.raises(FileNotFoundError, match=r"model_D_best\.pt"):
            vsr.load_network(path)
    with pytest.raises(FileNotFoundError, match="expected a checkpoint, found no such file"):
        vsr.load_network(tmp_path / "model_D_best.pt")


def test_net_r_of_another_pair_is_refused(tmp_path: Path) -> None:
    save_as_official(network(dim=24), tmp_path)
    save_as_official(network(stage=1), tmp_path)  # replaces Net^D
    with pytest.raises(ValueError, match="of another shape"):
        vsr.load_network(tmp_path, OPTION)
