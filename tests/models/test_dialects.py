"""Checkpoints of other frameworks. The pairs of names in golden/dialects were read from those frameworks' code."""

import json
import logging
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import ROOT
from torch import Tensor, nn

import vsr
from vsr.models.dialects import translate, unwrap
from vsr.models.weights import fill, read_weights
from vsr.utils import logs

GOLDEN = Path(__file__).parents[1] / "golden"
DIALECTS = sorted(path.stem for path in (GOLDEN / "dialects").glob("*.json"))


def foreign(name: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Return the option of a network, weights for it under another framework's names, and under vsr's."""
    dialect = json.loads((GOLDEN / "dialects" / f"{name}.json").read_text(encoding="utf-8"))
    manifest = json.loads((GOLDEN / "models" / f"{dialect['manifest']}.json").read_text(encoding="utf-8"))
    shapes = {key: shape for key, shape, _ in manifest["state_dict"]}
    generator = torch.Generator().manual_seed(0)
    ours = {key: torch.randn(shapes[key], generator=generator) for _, key in dialect["pairs"]}
    theirs = {key: ours[own] for key, own in dialect["pairs"]}
    return {"type": manifest["arch"], **manifest["kwargs"]}, theirs, ours


def assert_holds(network: nn.Module, weights: dict[str, Tensor]) -> None:
    found = network.state_dict()
    assert [name for name, value in weights.items() if not torch.equal(found[name], value)] == []


@pytest.mark.parametrize("name", DIALECTS)
def test_every_tensor_of_another_framework_finds_its_place(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    option, theirs, ours = foreign(name)
    if name.startswith("openmmlab"):  # as mmagic saves a model: the network is a part of it
        content: Any = {
            "meta": {"epoch": 1},
            "state_dict": {f"generator.{key}": value for key, value in theirs.items()},
        }
        content["state_dict"]["step_counter"] = torch.zeros(1)
    else:
        content = theirs
    torch.save(content, tmp_path / "net.pth")
    caplog.set_level(logging.INFO, logger="vsr")
    assert_holds(vsr.load_network(tmp_path / "net.pth", option), ours)
    assert "the names of" in caplog.text
    assert_holds(vsr.load_network(tmp_path / "net.pth"), ours)  # and the network is deduced from them


@pytest.mark.parametrize("name", DIALECTS)
def test_names_of_our_own_are_left_alone(name: str) -> None:
    _, _, ours = foreign(name)
    translated, what = translate(ours)
    assert translated.keys() - {"mean", "std"} == ours.keys()
    assert "names" not in what


def test_spynet_gets_the_mean_and_std_that_published_files_leave_out(tmp_path: Path) -> None:
    _, _, ours = foreign("openmmlab_spynet")
    torch.save({"params": ours}, tmp_path / "spynet.pth")
    network = vsr.load_network(tmp_path / "spynet.pth")
    assert network.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])  # of ImageNet's photographs
    assert network.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_the_average_of_a_trainer_comes_first() -> None:
    weights = {
        "generator.a": torch.zeros(1),
        "generator_ema.module.a": torch.ones(1),
        "generator_ema.steps": torch.tensor(7),
        "discriminator.a": torch.zeros(1),
    }
    translated, what = translate(weights)
    assert translated == {"a": torch.ones(1)}
    assert what == "its part 'generator_ema', without discriminator, generator"


def test_a_network_that_has_a_part_of_such_a_name_is_not_taken_apart() -> None:
    network = nn.ModuleDict({"generator": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    other = nn.ModuleDict({"generator": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    fill(network, other.state_dict(), source="net.pth")
    assert_holds(network, other.state_dict())
    part = {name: value for name, value in foreign_values(other).items() if name != "head.bias"}
    fill(network, part, source="net.pth", strict=False)
    assert_holds(network, part)


def foreign_values(network: nn.Module) -> dict[str, Tensor]:
    return {name: value + 1 for name, value in network.state_dict().items()}


def test_openmmlabs_msrresnet_is_refused_since_it_is_another_network(tmp_path: Path) -> None:
    ours = vsr.build_network({"type": "MSRResNet", "num_feat": 8, "num_block": 2}).state_dict()
    theirs = {
        name.replace("body.", "trunk_net.").replace("upconv1.", "upsample1.upsample_conv."): value
        for name, value in ours.items()
    }
    torch.save({"state_dict": {f"generator.{name}": value for name, value in theirs.items()}}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match="trunk_net"):
        vsr.load_network(tmp_path / "net.pth", {"type": "MSRResNet", "num_feat": 8, "num_block": 2})
    with pytest.raises(ValueError, match="expected the tensors of a network that vsr knows"):
        vsr.load_network(tmp_path / "net.pth")


def test_the_pretrained_network_of_an_option_file_is_translated_too(tmp_path: Path) -> None:
    option, theirs, ours = foreign("edvr_2019")
    torch.save(theirs, tmp_path / "net.pth")
    network = vsr.build_network(option)
    fill(network, read_weights(tmp_path / "net.pth"), source="net.pth")  # what RestorationModel does
    assert_holds(network, ours)


@pytest.mark.parametrize("option", [{"type": "NAFSSR", "train_size": [1, 6, 8, 8]}, {"type": "NAFNetSR"}])
@pytest.mark.parametrize(("file", "bgr"), [("NAFSSR-T_2x.pth", None), ("mine.pth", True)])
def test_a_network_that_was_trained_on_blue_first_takes_red_first(
    option: dict[str, Any], file: str, bgr: bool | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    option = {**option, "up_scale": 2, "width": 8, "num_blks": 2}
    network = vsr.build_network(option).eval()
    torch.save({"params": network.state_dict()}, tmp_path / file)
    turned = vsr.load_network(tmp_path / file, option, bgr=bgr)
    pair = torch.rand(1, 6 if option["type"] == "NAFSSR" else 3, 12, 16)
    blue_first = pair.unflatten(1, (-1, 3)).flip(2).flatten(1, 2)  # each view's colours turned round
    with torch.no_grad():
        wanted = network(blue_first).unflatten(1, (-1, 3)).flip(2).flatten(1, 2)
        torch.testing.assert_close(turned(pair), wanted)
        assert not torch.allclose(network(pair), wanted, atol=1e-3)
    assert_holds(vsr.load_network(tmp_path / file, option, bgr=False), network.state_dict())


def test_bgr_is_for_networks_that_were_trained_so(tmp_path: Path) -> None:
    network = vsr.build_network({"type": "MSRResNet", "num_feat": 8, "num_block": 1})
    torch.save(network.state_dict(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match="bgr: expected a NAFSSR"):
        vsr.load_network(tmp_path / "net.pth", bgr=True)


def test_a_converted_checkpoint_holds_our_names_under_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    option, theirs, ours = foreign("openmmlab_edvr")
    torch.save({"state_dict": {f"generator.{key}": value for key, value in theirs.items()}}, tmp_path / "net.pth")
    monkeypatch.setattr(logs, "setup", lambda: None)  # it would take the log from the tests that follow
    monkeypatch.setattr(sys, "argv", ["convert_weights.py", str(tmp_path / "net.pth"), str(tmp_path / "new.pth")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts" / "convert_weights.py"), run_name="__main__")
    assert end.value.code == 0
    content = torch.load(tmp_path / "new.pth", weights_only=True)
    assert content.keys() == {"params"}
    assert content["params"].keys() == ours.keys()
    network = vsr.build_network(option)
    network.load_state_dict(content["params"])  # strict, and torch's own
    assert_holds(network, ours)


@pytest.mark.parametrize("name", ["a.b", "module.a.b", "_orig_mod.a.b", "module._orig_mod.a.b", "_orig_mod.module.a.b"])
def test_what_wrappers_put_before_a_name_goes(name: str) -> None:
    assert unwrap(name) == "a.b"
    assert unwrap("a.module.b") == "a.module.b"  # NAFSSR's own
