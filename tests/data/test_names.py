"""Lists as users have them, with blank lines and wrong ones; and gaps, as far as names tell them."""

from pathlib import Path

import pytest

from vsr.data.names import gaps, read_clip_list, read_image_list


def test_lists_of_the_official_form_are_read(tmp_path: Path) -> None:
    path = tmp_path / "meta.txt"
    path.write_text("00001/0001 7 (256,448,3)\nmy clip 3\n")
    assert read_clip_list(str(path)) == {"00001/0001": 7, "my clip": 3}
    path.write_text("0001_s001.png (480,480,3)\n\nmy image (1).png\ngrey.png (480,480)\n")
    assert read_image_list(str(path)) == ["0001_s001.png", "my image (1).png", "grey.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"000 100 (1,2,3)\n\n001 many\n", r"meta.txt:3: expected 'folder n \(h,w,c\)', got '001 many'"),
        (b"000 1\n000 2\n", "meta.txt:2: expected each name once, got '000' again"),
        (b"\n \n", "meta.txt: expected lines .*, got an empty file"),
        (b"\x89PNG\xff", "meta.txt: expected a text file in UTF-8"),
    ],
)
def test_a_wrong_list_is_refused_with_file_and_line(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "meta.txt").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        read_clip_list(str(tmp_path / "meta.txt"))
    with pytest.raises(FileNotFoundError, match="meta_info_file"):
        read_clip_list(str(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match="meta_info_file: expected a text file, got the folder"):
        read_clip_list(str(tmp_path))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["0.png", "1.png", "2.png", "3.png"], []),
        (["0.png", "1.png", "3.png", "4.png"], [("1.png", "3.png", 1)]),
        (["008.jpg", "009.jpg", "010.jpg", "110.jpg", "112.jpg"], []),  # two of four steps: which is the rule?
        (["008.jpg", "009.jpg", "010.jpg", "011.jpg", "110.jpg", "111.jpg"], [("011.jpg", "110.jpg", 98)]),
        (["00.png", "02.png", "04.png", "06.png"], []),
        (["00.png", "02.png", "04.png", "08.png"], [("04.png", "08.png", 1)]),
        (["f_1_x4.png", "f_2_x4.png", "f_3_x4.png", "f_9_x4.png"], []),  # the last number is another one
        (["1305031102.175304.png", "1305031102.211214.png", "1305031102.243211.png", "1305031102.275326.png"], []),
        (["a.png", "b.png", "d.png", "e.png"], []),
        (["0.png", "1.png", "3.png"], []),
        (["0.png", "7.png"], []),
        ([], []),
    ],
)  # fmt: skip
def test_gaps_are_told_where_names_tell_them(names: list[str], expected: list[tuple[str, str, int]]) -> None:
    assert gaps(names) == expected


def test_blank_lines_and_line_ends_of_windows_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "clips.txt").write_bytes(
        b"\xef\xbb\xbf000 100 (720,1280,3)\r\n\r\n  \r\n001 50 (720,1280,3)\r\n\r\n\r\n"
    )
    assert read_clip_list(str(tmp_path / "clips.txt")) == {"000": 100, "001": 50}
    (tmp_path / "images.txt").write_text("\n0001_s001.png (480,480,3)\n\n\n a b.png \n\t\n")
    assert read_image_list(str(tmp_path / "images.txt")) == ["0001_s001.png", "a b.png"]
