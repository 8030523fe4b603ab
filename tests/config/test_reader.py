import math
import time
from pathlib import Path
from typing import Any

import pytest

from vsr.config.reader import MAX_BYTES, OptionError, parse, plain, read_file, read_override


def value_of(text: str) -> Any:
    return plain(parse(f"a: {text}\n", "x.yml"))["a"]


def problem(text: str) -> str:
    with pytest.raises(OptionError) as caught:
        parse(text, "x.yml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 0.0001),
        ("1E5", 100000.0),
        ("-1.5e+3", -1500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.5", -0.5),
        ("!!float 5e3", 5000.0),
        ("!!float 2", 2.0),
        ("-7", -7),
        ("+7", 7),
        ("0", 0),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        (".inf", math.inf),
        ("-.INF", -math.inf),
    ],
)
def test_numbers_booleans_and_null_are_those_of_yaml_1_2(text: str, value: object) -> None:
    got = value_of(text)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "on",
        "off",
        "yes",
        "No",
        "y",
        "010",
        "000",
        "-010",
        "00.5",
        "12:30",
        "1_000",
        "2020-01-01",
        "tRue",
        "1e",
        "0b1",
        "=",
    ],
)
def test_text_that_other_readers_take_for_something_else_stays_text(text: str) -> None:
    assert value_of(text) == text


def test_quotes_and_tags_decide_the_type() -> None:
    assert value_of("'1e-4'") == "1e-4"
    assert value_of("!!str 010") == "010"
    assert value_of("!!int 0x10") == 16
    assert math.isnan(value_of(".nan"))


def test_a_duplicate_key_is_refused_with_both_lines() -> None:
    text = problem("a: 1\nb:\n  c: 2\n  d: 3\n  c: 4\n")
    assert text == "x.yml:5 b.c: expected each key once, got it twice. The first is in line 3. Remove one of them."


def test_all_duplicates_are_told_at_once() -> None:
    assert len(problem("a: 1\na: 2\nb: {c: 1, c: 2}\n").splitlines()) == 2


def test_anchors_and_merges_work_and_explicit_keys_win() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {x: 7, z: 3}\nc:\n  <<: [*a, *b]\n  y: 9\nd: *a\n"
    root = parse(text, "x.yml")
    assert plain(root) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 7, "z": 3},
        "c": {"y": 9, "x": 1, "z": 3},  # of a list of merges the first wins
        "d": {"x": 1, "y": 2},
    }
    assert str(root["c"].where("z")) == "x.yml:2 c.z"  # the line where it is written, the path where it counts


def test_an_alias_is_a_copy() -> None:
    root = parse("a: &a {x: 1}\nb: *a\n", "x.yml")
    root["a"]["x"] = 2
    assert root["b"]["x"] == 1


def test_every_key_knows_its_line() -> None:
    root = parse("a: 1\n\nb:\n  c:\n    - 1\n    - 2\n", "x.yml")
    assert str(root.where("b")) == "x.yml:3 b"
    assert str(root["b"].where("c")) == "x.yml:4 b.c"
    assert str(root["b"].where("absent")) == "x.yml:3 b.absent"


@pytest.mark.fault
@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['true']",
        "a: !!python/name:os.system",
        "a: !!python/tuple [1]",
        "a: !!binary aGk=",
        "a: !!set {x}",
        "a: !own 1",
    ],
)
def test_tags_of_objects_are_refused(text: str) -> None:
    assert "x.yml:1 a: expected plain data, got the tag '!" in problem(text)


@pytest.mark.parametrize("text", ["a: !!bool yes", "a: !!int 010", "a: !!int x", "a: !!float x", "a: 1e400"])
def test_a_value_that_is_none_of_its_kind_is_refused(text: str) -> None:
    assert problem(text).startswith("x.yml:1 a: expected ")


@pytest.mark.fault
def test_an_alias_bomb_is_refused_at_once() -> None:
    rows = [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    start = time.monotonic()
    assert "an alias that unfolds to more" in problem("a: &a [1]\n" + "\n".join(rows))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("text", ["a: &x [*x]", "a: &x {b: *x}", "a: &x {b: {<<: *x}}"])
def test_an_alias_of_itself_is_refused(text: str) -> None:
    assert "an alias that unfolds to more" in problem(text)


def test_depth_and_number_of_values_are_bounded() -> None:
    assert "more than 50 levels" in problem("a: " + "[" * 5000)
    assert "more than 20000 values" in problem("- a\n" * 30000)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\n\tb: 2\n", 2, "Indent with spaces."),
        ("a:\n  b: c: d\n", 2, "mapping values are not allowed here"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        ("a: *b\n", 1, "undefined alias"),
        ("a: 1\n\nb: \x07\n", 3, "U+0007"),
        ("a: 'x\n", 2, "unexpected end of stream"),
    ],
)
def test_broken_yaml_is_told_with_its_line(text: str, line: int, words: str) -> None:
    told = problem(text)
    assert told.startswith(f"x.yml:{line}: expected valid YAML, got: ")
    assert words in told


@pytest.mark.parametrize("key", ["5", "true", "~", "[a]", "1e-4"])
def test_a_key_that_is_no_text_is_refused(key: str) -> None:
    assert problem(f"? {key}\n: 1\n").startswith("x.yml:1: expected a text as key, got ")


def test_files_are_utf8_whatever_the_locale(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_bytes("\ufeffname: Größe 東京\r\nscale: 4\r\n".encode())
    assert plain(read_file(path)) == {"name": "Größe 東京", "scale": 4}
    path.write_bytes(b"a: 1\nb: \xe9\n")
    with pytest.raises(OptionError, match=r"x\.yml:2: expected UTF-8 text, got the byte 0xe9"):
        read_file(path)


def test_a_file_that_is_no_option_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    for content, words in {
        b"": "an empty file",
        b"# nothing\n": "an empty file",
        b"- 1\n- 2\n": "got [1, 2]",
        b"name:run\n": "got 'name:run'",
        b"x" * (MAX_BYTES + 1): "at most 1048576 bytes",
        b"\x89PNG\r\n\x1a\n": "UTF-8",
    }.items():
        path.write_bytes(content)
        with pytest.raises(OptionError) as caught:
            read_file(path)
        assert words in str(caught.value)
    with pytest.raises(OptionError, match="got a folder"):
        read_file(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yml: expected an option file"):
        read_file(tmp_path / "nowhere.yml")


@pytest.mark.parametrize("text", ["a.b=1e-4", "a:b=1e-4", " a . b =1e-4"])
def test_an_override_becomes_nested_mappings(text: str) -> None:
    assert plain(read_override(text)) == {"a": {"b": 0.0001}}


def test_an_override_takes_any_yaml_value() -> None:
    assert plain(read_override("a={b: [1, on], c: x=y}")) == {"a": {"b": [1, "on"], "c": "x=y"}}
    assert plain(read_override("a=")) == {"a": None}
    assert plain(read_override("a=C:/x")) == {"a": "C:/x"}
    assert plain(read_override("a=-1")) == {"a": -1}


@pytest.mark.parametrize("text", ["a", "", "=1", "a..b=1", ".a=1", "a:=1"])
def test_an_override_without_a_key_or_a_value_is_refused(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        read_override(text)
    assert str(caught.value).startswith(f"--set {text}: expected key.path=value")


def test_mistakes_in_an_override_name_it() -> None:
    for text in ("a=[1", "a={b: 1, b: 2}", "a=!!python/name:os.system", "a='"):
        with pytest.raises(OptionError) as caught:
            read_override(text)
        assert str(caught.value).startswith(f"--set {text}")
