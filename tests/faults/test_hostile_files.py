"""Files made to run code, to leave their folder or to fill the memory, given to whole runs."""

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from faultkit import bomb_png, stub_program

from vsr.config.reader import MAX_BYTES
from vsr.data.paired_image import PairedImageDataset
from vsr.data.paired_stereo_image import PairedStereoImageDataset
from vsr.data.single_image import SingleImageDataset
from vsr.data.video import VideoTestDataset, VideoTrainDataset
from vsr.engine.cli import train_main

pytestmark = pytest.mark.fault


class Evil:
    """Its pickle runs ``touch``."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.mark}'",)


def refused(capsys: pytest.CaptureFixture[str], tiny: Path, *overrides: str) -> str:
    assert train_main(["-opt", str(tiny), *(["--set", *overrides] if overrides else [])]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_the_pickle_of_these_tests_runs_when_it_is_let(tmp_path: Path) -> None:
    torch.save({"params": Evil(tmp_path / "pwned")}, tmp_path / "net.pth")
    torch.load(tmp_path / "net.pth", weights_only=False)
    assert (tmp_path / "pwned").exists()


def test_weights_and_states_that_hold_code_are_refused_and_not_run(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark, net, state = tmp_path / "pwned", tmp_path / "net.pth", tmp_path / "8.state"
    torch.save({"params": Evil(mark)}, net)
    error = refused(capsys, tiny, f"path.pretrain_network_g={net}")
    assert "expected a checkpoint that holds tensors and plain values only" in error
    assert "which was not run" in error
    torch.save({"step": 8, "draw": 16, "options": "", "model": Evil(mark)}, state)
    digest = hashlib.sha256(state.read_bytes()).hexdigest()
    state.with_suffix(".json").write_text(json.dumps({"step": 8, "size": state.stat().st_size, "sha256": digest}))
    error = refused(capsys, tiny, f"path.resume_state={state}")
    assert "8.state: expected a training state of tensors and plain values only" in error
    assert "were not run" in error
    assert not mark.exists()


PAIRS = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "f"), ("f", "g")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("manual_seed: !!python/object/apply:os.system ['touch {mark}']", "expected plain data, got the tag"),
        ("manual_seed: !!python/name:os.system", "expected plain data, got the tag"),
        ("a: &a [1]\n" + "\n".join(f"{n}: &{n} [{', '.join([f'*{b}'] * 9)}]" for b, n in PAIRS),
         "an alias that unfolds to more"),
        ("#" * MAX_BYTES, f"expected at most {MAX_BYTES} bytes"),
        ("manual_seed: ${{oc.env:HOME}}", "expected int"),
        ("name: ../../outside", "expected the name of a folder"),
        ("name: /outside", "expected the name of a folder"),
    ],
)  # fmt: skip
def test_hostile_option_files_are_refused(
    tiny: Path, tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "pwned"
    lines = tiny.read_text().splitlines()
    kept = [line for line in lines if line.partition(":")[0] not in text]
    tiny.write_text("\n".join([*kept, text.replace("{mark}", str(mark)).replace("{{", "{").replace("}}", "}")]))
    assert message in refused(capsys, tiny)
    assert not mark.exists()
    assert not (tmp_path / "experiments").exists()


@pytest.fixture
def secret(tmp_path: Path, clips: Path) -> Path:
    """An image and a clip beside the roots, of the size of those in them."""
    shutil.copytree(clips / "train" / "a", clips / "secret")
    shutil.copy(clips / "train" / "a" / "0000.png", clips / "secret.png")
    return clips / "secret"


def image_lists(secret: Path) -> list[str]:
    outside = secret / "0000.png"
    return ["../../secret/0000.png (32,48,3)", f"{outside} (32,48,3)", "./../../secret.png (32,48,3)"]


def clip_lists(secret: Path) -> list[str]:
    return ["../secret 6 (32,48,3)", f"{secret} 6 (32,48,3)", "a/../../secret 6 (32,48,3)"]


SETS: dict[str, tuple[Callable[[Path, str], object], Callable[[Path], list[str]]]] = {
    "pairs": (
        lambda clips, listing: PairedImageDataset(dataroot_gt=f"{clips}/train/a", meta_info_file=listing, scale=2),
        image_lists,
    ),
    "pairs to train on": (
        lambda clips, listing: PairedImageDataset(
            dataroot_gt=f"{clips}/train/a", meta_info_file=listing, scale=2, gt_size=16
        ),
        image_lists,
    ),
    "images": (
        lambda clips, listing: SingleImageDataset(dataroot_lq=f"{clips}/train/a", meta_info_file=listing),
        image_lists,
    ),
    "stereo": (
        lambda clips, listing: PairedStereoImageDataset(
            dataroot_gt=f"{clips}/train/a", dataroot_lq=f"{clips}/train/b", meta_info_file=listing, scale=2
        ),
        image_lists,
    ),
    "windows to train on": (
        lambda clips, listing: VideoTrainDataset(
            dataroot_gt=f"{clips}/train", meta_info_file=listing, scale=2, num_frame=3, gt_size=16
        ),
        clip_lists,
    ),
    "windows": (
        lambda clips, listing: VideoTestDataset(
            dataroot_gt=f"{clips}/train", meta_info_file=listing, scale=2, num_frame=3
        ),
        clip_lists,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SETS)
def test_lists_of_files_do_not_lead_out_of_the_root(kind: str, clips: Path, secret: Path, tmp_path: Path) -> None:
    build, lines_of = SETS[kind]
    for line in lines_of(secret):
        listing = tmp_path / "meta_info.txt"
        listing.write_text(f"{line}\n")
        with pytest.raises(ValueError, match=r"meta_info|expected"):
            build(clips, str(listing))


def test_clips_that_are_named_in_the_options_do_not_lead_out_of_the_root(
    tiny: Path, secret: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("../secret", str(secret)):
        assert "clips: expected" in refused(capsys, tiny, f"datasets.train.clips=[{name}]")


def test_a_set_whose_images_are_bombs_is_refused_before_the_first_step(
    tiny: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clips / "train" / "a" / "0000.png").write_bytes(bomb_png())
    error = refused(capsys, tiny)
    assert "got 30000 x 30000" in error
    assert "VSR_MAX_PIXELS" in error
    assert not list((tmp_path / "experiments" / "tiny").glob("training_states/*"))


def test_names_with_shell_words_are_names_of_files_and_no_more(
    tiny: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No program that the names could reach is started; ffmpeg, scontrol and sh are looked for on PATH first."""
    calls = [stub_program(tmp_path / "bin", name) for name in ("ffmpeg", "ffprobe", "scontrol")]
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    hostile = "$(touch pwned); touch pwned & `touch pwned` '\" | touch pwned"
    (clips / "train" / "a").rename(clips / "train" / hostile)
    monkeypatch.chdir(tmp_path)
    assert train_main(["-opt", str(tiny), "--set", "train.total_iter=1"]) == 0
    assert not (tmp_path / "pwned").exists()
    assert not any(call.exists() for call in calls)


def test_an_archive_in_place_of_a_checkpoint_unpacks_nothing(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as file:
        file.writestr("../pwned", b"x")
        file.writestr("archive/data.pkl", b"cos\nsystem\n(S'touch pwned'\ntR.")
    refused(capsys, tiny, f"path.pretrain_network_g={tmp_path / 'net.pth'}")
    assert not list(tmp_path.rglob("pwned"))


def test_pixels_of_a_text_file_are_not_made_up(tiny: Path, clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clips / "train" / "a" / "0000.png").write_text("#!/bin/sh\ntouch pwned\n")
    assert "0000.png: expected" in refused(capsys, tiny)
    assert cv2.imdecode(np.frombuffer(b"#!/bin/sh", np.uint8), 1) is None
