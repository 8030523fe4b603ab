import logging

import pytest

from vsr.config.legacy_sets import translate_sets
from vsr.config.reader import Node, parse, plain


def translated(dataset: str) -> object:
    root = parse(f"datasets: {{train: {dataset}}}", "x.yml")
    assert isinstance(root, Node)
    translate_sets(root)
    return plain(root["datasets"]["train"])


@pytest.mark.parametrize("entry", ["mean: ~", "std: ~", "mean: [0, 0, 0]", "std: [1.0, 1, 1]", "flip_LR: false"])
def test_a_value_that_changes_nothing_is_dropped(entry: str) -> None:
    assert translated(f"{{type: PairedImageDataset, {entry}}}") == {"type": "PairedImageDataset"}


@pytest.mark.parametrize("entry", ["mean: [0.5, 0.5, 0.5]", "flip_LR: true"])
def test_one_that_changes_something_is_left_for_the_check(entry: str) -> None:
    assert len(dict(translated(f"{{type: PairedImageDataset, {entry}}}"))) == 2  # type: ignore[call-overload]


def test_sets_of_your_own_keep_their_keys() -> None:
    assert translated("{type: Mine, mean: ~}") == {"type": "Mine", "mean": None}


def test_memcached_is_files(caplog: pytest.LogCaptureFixture) -> None:
    backend = "{type: memcached, server_list_cfg: a, client_cfg: b, sys_path: c}"
    with caplog.at_level(logging.INFO, logger="vsr"):
        assert translated(f"{{type: Mine, io_backend: {backend}}}") == {"type": "Mine", "io_backend": {"type": "disk"}}
    assert "x.yml:1 datasets.train.io_backend.type: there is no memcached here; the files are read" in caplog.messages


@pytest.mark.parametrize("folder", ["basicsr/data/meta_info", "./data/meta_info", "datasets/REDS/meta_info"])
def test_lists_of_reds_are_known_wherever_basicsr_has_them(folder: str) -> None:
    assert translated(f"{{type: Mine, meta_info_file: {folder}/meta_info_REDS_GT.txt}}") == {"type": "Mine"}
    other = {"type": "Mine", "meta_info_file": f"{folder}/mine.txt"}
    assert translated(f"{{type: Mine, meta_info_file: {folder}/mine.txt}}") == other


@pytest.mark.parametrize("name", ["Humaneva", "HumanEva", "humaneva", "HumanevaDataset", "HumanEvaDataset"])
def test_humaneva_is_spelled_in_any_capitals(name: str) -> None:
    assert translated(f"{{type: {name}, W: 64}}") == {"type": "HumanEvaDataset", "W": 64}


def test_charades_is_known_by_the_name_of_its_archive(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="vsr"):
        assert translated("{type: Charades_v1_480}") == {"type": "CharadesDataset"}
    assert "x.yml:1 datasets.train.type: Charades_v1_480 is CharadesDataset" in caplog.messages
