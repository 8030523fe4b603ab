"""train.mode, a spelling of train.freeze for networks with a memory."""

from pathlib import Path
from typing import Any

import pytest

from vsr.config import FreezeOptions, OptionError, dump_options, load_options

FILE = """\
name: x
model_type: VideoModel
scale: 4
datasets:
  train: {type: VideoTrainDataset, dataroot_gt: clips, gt_size: 64, num_frame: 5}
network_g: {type: EDVR_Crop5}
path: {pretrain_network_g: edvr.pth}
train:
  total_iter: 10
  pixel_opt: {type: L1Loss}
  optim_g: {type: Adam, lr: 1e-4}
"""
FROZEN = FreezeOptions(except_=["memory"], pretrained=True)


@pytest.fixture(autouse=True)
def registries() -> None:
    """The project's own components, unlike in the other tests of options."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "x.yml").write_text(FILE)
    return tmp_path / "x.yml"


def with_train(file: Path, line: str) -> Path:
    file.write_text(FILE + f"  {line}\n")
    return file


def test_freeze_trains_the_memory_on_a_network_that_must_be_there(file: Path) -> None:
    options = load_options(with_train(file, "mode: freeze"))
    assert options.train is not None
    assert options.train.freeze == FROZEN
    assert options.path.strict_load_g is False


def test_freeze_may_end(file: Path) -> None:
    options = load_options(with_train(file, "mode: freeze\n  freeze: {until: 5}"))
    assert options.train is not None
    assert options.train.freeze == FreezeOptions(except_=["memory"], pretrained=True, until=5)


def test_scratch_trains_everything_and_a_network_to_start_from_need_not_fit(file: Path) -> None:
    options = load_options(with_train(file, "mode: scratch"))
    assert options.train is not None
    assert options.train.freeze is None
    assert options.path.strict_load_g is False
    options = load_options(with_train(file, "mode: scratch\n  tsa_iter: 5"))
    assert options.train is not None
    assert options.train.freeze == FreezeOptions(except_=["fusion"], until=5)


def test_what_the_file_says_of_strict_loading_stays(file: Path) -> None:
    file.write_text(FILE.replace("edvr.pth}", "edvr.pth, strict_load_g: true}") + "  mode: freeze\n")
    assert load_options(file).path.strict_load_g is True


@pytest.mark.parametrize(
    ("line", "override", "expected"),
    [
        ("mode: scratch", "train.mode=freeze", FROZEN),
        ("mode: freeze", "train.mode=scratch", None),
        ("mode: freeze", "train.mode=null", None),
        ("mode: scratch\n  tsa_iter: 5", "train.mode=null", FreezeOptions(except_=["fusion"], until=5)),
        ("tsa_iter: 5", "train.mode=freeze", FROZEN),
        ("tsa_iter: 5", "train.mode=scratch", FreezeOptions(except_=["fusion"], until=5)),
        ("mode: freeze", "train.freeze.until=7", FreezeOptions(except_=["memory"], pretrained=True, until=7)),
    ],
)
def test_an_override_says_what_it_would_in_the_file(
    line: str, override: str, expected: FreezeOptions | None, file: Path
) -> None:
    options = load_options(with_train(file, line), [override])
    assert options.train is not None
    assert options.train.freeze == expected
    assert options.path.strict_load_g == ("mode" not in line and "mode" not in override)


def test_the_options_of_a_run_say_it_in_the_words_of_the_schema(file: Path, tmp_path: Path) -> None:
    options = load_options(with_train(file, "mode: freeze"))
    written = tmp_path / "options.yml"
    written.write_text(dump_options(options))
    assert load_options(written) == options


@pytest.mark.parametrize(
    ("line", "overrides", "message"),
    [
        ("mode: frozen", [], "x.yml:12 train.mode: expected freeze or scratch, got 'frozen'"),
        ("mode: freeze\n  tsa_iter: 5", [], "train.mode: expected either this or tsa_iter, got both"),
        ("mode: freeze\n  freeze: {parts: [spynet]}", [], "train.mode: expected either this or freeze, got both"),
        ("mode: freeze", ["path.pretrain_network_g=null"], "expected path.pretrain_network_g beside it, got none"),
        ("mode: scratch", ["path.pretrain_netwrok_g=a.pth"], "unknown key. Did you mean 'pretrain_network_g'"),
    ],
)
def test_what_does_not_fit_is_told(line: str, overrides: list[str], message: str, file: Path) -> None:
    with pytest.raises(OptionError) as caught:
        load_options(with_train(file, line), overrides)
    assert message in str(caught.value)


def test_a_misspelt_path_of_weights_is_explained_where_it_stands(file: Path) -> None:
    file.write_text(FILE.replace("pretrain_network_g", "pretrain_netwrok_g") + "  mode: freeze\n")
    with pytest.raises(OptionError) as caught:
        load_options(file)
    assert "x.yml:7 path.pretrain_netwrok_g: unknown key. Did you mean 'pretrain_network_g'?" in str(caught.value)
    assert "x.yml:12 train.mode: expected path.pretrain_network_g beside it" in str(caught.value)


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ({"type": "pixswise"}, "network_g.memory.type: expected the name of a memory, got 'pixswise'. Did you mean"),
        ({"type": "pixwise", "crpo": 3}, "network_g.memory.crpo: not an argument of the memory pixwise. Did you mean"),
        ({"type": "pixwise", "crop": 3.5}, "network_g.memory.crop: expected int, got 3.5"),
        ({"type": "pixsim", "crop": 3}, "network_g.memory.crop: expected 0, got 3"),
        ({"type": "pixwise", "fusion": "sum"}, "network_g.memory.fusion: expected one of 'add', 'concat'"),
        ({"type": "pixwise", "slots": 5}, "network_g.memory.slots: not an argument of the memory pixwise"),
    ],
)
def test_the_arguments_of_a_memory_are_checked_with_the_file(memory: dict[str, Any], message: str, file: Path) -> None:
    flow = ", ".join(f"{key}: {value}" for key, value in memory.items())
    with pytest.raises(OptionError) as caught:
        load_options(file, [f"network_g.memory={{{flow}}}"])
    assert message in str(caught.value)
