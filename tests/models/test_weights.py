"""Checkpoints into networks."""

from pathlib import Path

import pytest
import tiny_networks
import torch

import vsr
from vsr.config import load_options
from vsr.engine.train import train
from vsr.models.weights import convert, fill, read_weights


@pytest.fixture
def network() -> tiny_networks.WindowNet:
    torch.manual_seed(0)
    return tiny_networks.WindowNet()


@pytest.mark.fault
@pytest.mark.parametrize("entry", ["params", "params_ema", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_spelling_of_a_checkpoint_is_read(
    network: tiny_networks.WindowNet, tmp_path: Path, entry: str | None, prefix: str
) -> None:
    weights = {prefix + key: value for key, value in network.state_dict().items()}
    torch.save({entry: weights} if entry else weights, tmp_path / "net.pth")
    read = read_weights(tmp_path / "net.pth")
    assert all(torch.equal(read[key], value) for key, value in network.state_dict().items())


def test_the_average_is_taken_unless_another_entry_is_named(tmp_path: Path) -> None:
    torch.save({"params": {"a": torch.zeros(1)}, "params_ema": {"a": torch.ones(1)}}, tmp_path / "net.pth")
    assert read_weights(tmp_path / "net.pth")["a"] == 1
    assert read_weights(tmp_path / "net.pth", "params")["a"] == 0
    with pytest.raises(ValueError, match="expected the entry 'params_g'"):
        read_weights(tmp_path / "net.pth", "params_g")


def test_safetensors_are_read(network: tiny_networks.WindowNet, tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    assert torch.equal(read_weights(tmp_path / "net.safetensors")["first.bias"], network.first.bias)


@pytest.mark.fault
def test_a_checkpoint_of_another_network_is_refused_with_names_and_shapes() -> None:
    wide = tiny_networks.WindowNet(width=16).state_dict()
    wide["frist.bias"] = wide.pop("first.bias")
    with pytest.raises(ValueError, match=r"1 missing: first\.bias") as error:
        fill(tiny_networks.WindowNet(), wide, source="net.pth")
    text = str(error.value)
    assert text.startswith("net.pth: expected the 4 tensors of WindowNet, got 4.")
    assert "Is 'frist.bias' the network's 'first.bias'?" in text
    assert "first.weight (16, 9, 3, 3) instead of (8, 9, 3, 3)" in text


def test_without_strict_what_fits_is_loaded(network: tiny_networks.WindowNet) -> None:
    other = tiny_networks.WindowNet()
    weights = network.state_dict()
    del weights["last.bias"]
    kept = other.last.bias.clone()
    fill(other, weights, source="net.pth", strict=False)
    assert torch.equal(other.first.weight, network.first.weight)
    assert torch.equal(other.last.bias, kept)
    with pytest.raises(ValueError, match="4 missing"):
        fill(other, {"elsewhere": torch.zeros(1)}, source="net.pth", strict=False)


@pytest.mark.fault
def test_a_checkpoint_that_holds_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "pwned",))

    torch.save({"params": Evil()}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match="which was not run"):
        read_weights(tmp_path / "net.pth")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04cut"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.pth: expected a"):
        read_weights(tmp_path / "net.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.98])
def test_a_file_cut_short_is_named(network: tiny_networks.WindowNet, tmp_path: Path, suffix: str, part: float) -> None:
    path = tmp_path / f"net.{suffix}"
    if suffix == "pth":
        torch.save({"params": network.state_dict()}, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(network.state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"net\.{suffix}: expected a checkpoint, could not read it"):
        read_weights(path)


def test_the_page_of_a_site_is_no_checkpoint_and_nobody_advises_to_run_it(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    with pytest.raises(ValueError, match="could not read it") as refused:
        read_weights(tmp_path / "net.pth")
    assert "weights_only" not in str(refused.value)


def test_a_converted_checkpoint_may_go_into_a_new_folder(network: tiny_networks.WindowNet, tmp_path: Path) -> None:
    torch.save({"state_dict": network.state_dict()}, tmp_path / "net.pth")
    convert(tmp_path / "net.pth", tmp_path / "new" / "folder" / "net.pth")
    assert torch.equal(read_weights(tmp_path / "new/folder/net.pth", "params")["first.bias"], network.first.bias)


def test_load_network_finds_the_options_of_its_run(tiny: Path, tmp_path: Path) -> None:
    train(load_options(tiny, ["train.total_iter=1"]))
    path = tmp_path / "experiments" / "tiny" / "models" / "net_g_1.pth"
    network = vsr.load_network(path)
    assert not network.training
    assert torch.equal(network.first.weight, read_weights(path)["first.weight"])
    given = vsr.load_network(path, {"type": "WindowNet", "width": 8})
    assert torch.equal(given.first.weight, network.first.weight)


def test_load_network_without_options_deduces_the_network(tmp_path: Path) -> None:
    saved = vsr.build_network({"type": "EDVR", "num_feat": 8, "deformable_groups": 2, "num_reconstruct_block": 3})
    torch.save({"params": saved.state_dict()}, tmp_path / "net.pth")
    network = vsr.load_network(tmp_path / "net.pth")
    assert type(network).__name__ == "EDVR"
    assert not network.training
    assert all(torch.equal(network.state_dict()[name], value) for name, value in saved.state_dict().items())


def test_the_files_that_training_started_from_are_not_needed_again(tmp_path: Path) -> None:
    option = {"type": "BasicVSR", "num_feat": 4, "num_block": 1}
    torch.save({"params": vsr.build_network(option).state_dict()}, tmp_path / "net.pth")
    network = vsr.load_network(tmp_path / "net.pth", {**option, "spynet_path": "gone/spynet.pth"})
    assert type(network).__name__ == "BasicVSR"


def test_what_cannot_be_deduced_asks_for_options(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"net\.pth: .* Name the network: options="):
        vsr.load_network(tmp_path / "net.pth")


def test_a_missing_file_that_is_published_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"download_weights\.py basicvsr_reds4 --folder .*weights$"):
        vsr.load_network(tmp_path / "weights" / "BasicVSR_REDS4.pth")
    with pytest.raises(FileNotFoundError, match=r"download_weights\.py spynet_sintel_final$"):
        vsr.load_network("experiments/pretrained_models/flownet/spynet_sintel_final-3d2a1287.pth")
    with pytest.raises(FileNotFoundError, match=r"no such file\. Check the path\.$"):
        vsr.load_network(tmp_path / "other.pth")


@pytest.mark.parametrize(("name", "last"), [("RRDBNet", True), ("SwinIR", False)])
def test_a_loaded_network_has_the_memory_format_that_suits_it(name: str, last: bool, tmp_path: Path) -> None:
    option = {"RRDBNet": {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}}.get(
        name, {}
    )
    option |= {"depths": [2], "embed_dim": 8, "num_heads": [2], "window_size": 4} if name == "SwinIR" else {}
    network = vsr.build_network({"type": name, **option}).eval()
    torch.save({"params": network.state_dict()}, tmp_path / "net.pth")
    loaded = vsr.load_network(tmp_path / "net.pth", {"type": name, **option})
    assert loaded.conv_first.weight.is_contiguous(memory_format=torch.channels_last) == last
    x = torch.rand(1, 3, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), network(x), rtol=1e-4, atol=1e-5)
