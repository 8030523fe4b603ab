import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from vsr.data.plain_pickle import read_plain_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
PLAIN = {
    "name": "REDS",
    "resolution": "3_720_1280",
    "keys": [f"{clip:03d}_{frame:08d}" for clip in range(3) for frame in range(400)],
    "numbers": [0, -5, 255, 70000, 2**40, 2.5, None, True, False],
    "tuples": [(), (1,), (1, 2), ("a", 2, 3), (1, 2, 3, 4)],
    "nested": {"a": {"b": [[], {}]}},
    "twice": ["x", "x"],
}


def write(folder: Path, value: Any, protocol: int) -> Path:
    (folder / "meta_info.pkl").write_bytes(pickle.dumps(value, protocol))
    return folder / "meta_info.pkl"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_are_read_as_the_pickle_module_reads_them(tmp_path: Path, protocol: int) -> None:
    assert read_plain_pickle(write(tmp_path, PLAIN, protocol)) == PLAIN


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_code_is_neither_run_nor_accepted(tmp_path: Path, protocol: int) -> None:
    file = write(tmp_path, {"keys": [Attack(tmp_path / "pwned")]}, protocol)
    with pytest.raises(ValueError, match=r"meta_info.pkl: expected lists, dicts.*got the opcode (STACK_)?GLOBAL"):
        read_plain_pickle(file)
    assert not (tmp_path / "pwned").exists()
    pickle.loads(file.read_bytes())  # else the test would prove nothing
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        pickle.dumps(PLAIN)[:500],
        b".",
        b"a.",
        b"\x85.",
        b"e.",
        b"l.",
        b"NN.",
        b"(Nd.",
        b"h\x07.",
        b"]NNs.",
    ],
)
def test_damage_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "keys.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=r"keys.pkl: expected a whole pickle, got a damaged one"):
        read_plain_pickle(tmp_path / "keys.pkl")
