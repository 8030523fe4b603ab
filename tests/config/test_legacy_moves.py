import logging

import pytest

from vsr.config.legacy_moves import MOVES, move, move_keys, sets
from vsr.config.reader import Node, parse, plain, read_override


def read(text: str) -> Node:
    root = parse(text, "x.yml")
    assert isinstance(root, Node)
    return root


def test_a_key_moves_with_its_mark_into_a_section_that_may_have_to_be_made(caplog: pytest.LogCaptureFixture) -> None:
    root, problems = (
        read("train:\n  val_freq: 5\n  niter: 9\nlogger: {print_freq: 1}\nuse_tb_logger: false\n"),
        list[str](),
    )
    with caplog.at_level(logging.INFO, logger="vsr"):
        move_keys(root, problems)
    assert problems == []
    assert plain(root) == {
        "train": {"total_iter": 9},
        "logger": {"print_freq": 1, "use_tb_logger": False},
        "val": {"val_freq": 5},
    }
    assert str(root["val"].where("val_freq")) == "x.yml:2 train.val_freq"
    assert "x.yml:2 train.val_freq: it is val.val_freq here" in caplog.messages


def test_a_star_stands_for_every_key_of_its_level() -> None:
    root, problems = (
        read("datasets: {train: {use_flip: true}, val: {type: x}, test: {use_flip: false}, odd: 3}"),
        list[str](),
    )
    move_keys(root, problems)
    assert plain(root)["datasets"] == {
        "train": {"use_hflip": True}, "val": {"type": "x"}, "test": {"use_hflip": False}, "odd": 3,
    }  # fmt: skip


def test_two_spellings_of_one_key_are_a_problem_with_both_places() -> None:
    root, problems = read("train:\n  niter: 5\n  total_iter: 6\n"), list[str]()
    move_keys(root, problems)
    assert problems == [
        "x.yml:2 train.niter: expected one train.total_iter, got a second. See x.yml:3 train.total_iter."
    ]


def test_a_move_into_what_is_no_section_is_left_to_the_check() -> None:
    root, problems = read("train: {val_freq: 5}\nval: 3\n"), list[str]()
    move_keys(root, problems)
    assert (problems, plain(root)) == ([], {"train": {}, "val": 3})


def test_an_override_moves_on_a_path_that_merges_into_the_file() -> None:
    change = read_override("train.lr_G=1e-4")
    move_keys(change, [])
    assert plain(change) == {"train": {"optim_g": {"lr": 1e-4}}}
    assert change["train"]["optim_g"].on_path


def test_moving_what_is_not_there_does_nothing() -> None:
    root = read("a: {b: 1}")
    move(root, "a.c", "d", [])
    move(root, "a.b.c", "d", [])
    assert plain(root) == {"a": {"b": 1}}


def test_sets_within_mixed_ones_count() -> None:
    root = read("datasets: {train: {type: M, datasets: [{type: A}, {type: B}, 3]}, val: {type: C}, x: 1}")
    assert [dataset["type"] for dataset in sets(root)] == ["M", "A", "B", "C"]


def test_no_key_of_the_table_moves_twice() -> None:
    order = list(MOVES)
    assert not [new for i, new in enumerate(MOVES.values()) if new in order[i + 1 :]]
