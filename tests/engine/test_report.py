"""The report page, read as a browser would: parsed, its pictures decoded."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from vsr.engine.report import Example, SetReport, pick_examples, write_report
from vsr.engine.results import Record

VOID = {"meta", "img", "input", "br"}


class Page(HTMLParser):
    """All tags with their attributes, the text of the body, and proof that every tag is closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += f"{data}\n"

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        return [a for t, a in self.tags if t == tag and attributes.items() <= a.items()]


def picture(seed: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def decode(url: str) -> tuple[str, np.ndarray]:
    """Return the type and the RGB pixels of a data URL."""
    kind, data = re.fullmatch(r"data:image/(\w+);base64,(.*)", url).groups()
    bgr = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    return kind, bgr[..., ::-1]


def records(count: int, clip: str = "clip") -> list[Record]:
    return [Record(f"{clip}/{i:03d}", {"psnr": 30.0 + i, "lpips": 0.3 - 0.01 * i}) for i in range(count)]


def report(path: Path, **changes) -> Page:
    base = [Record(r.key, {"psnr": 28.0, "lpips": 0.4}) for r in records(5)]
    values = {
        "name": "val",
        "records": records(5),
        "baseline": base,
        "definitions": {"psnr": "PSNR, RGB, crop 4", "lpips": "LPIPS"},
        "higher_is_better": {"psnr": True, "lpips": False},
    }
    write_report(path / "report.html", title="run", facts={"Network": "EDVR"}, sets=[SetReport(**values | changes)])
    return Page(path / "report.html")


def test_the_table_holds_means_baseline_gain_and_definitions(tmp_path: Path) -> None:
    """By hand: psnr 30 to 34 has the mean 32, 4 above 28; lpips 0.3 to 0.26 has 0.28, 0.12 below 0.4."""
    page = report(tmp_path)
    lines = page.text.split()
    for word in ("EDVR", "32.000", "28.000", "+4.000", "0.2800", "0.4000", "\N{MINUS SIGN}0.1200"):
        assert word in lines, word
    assert "PSNR, RGB, crop 4" in page.text
    assert "lpips: lower is better" in page.text
    assert len(page.all("td", **{"class": "good"})) == 4  # both gains are improvements; of the clip, and in total
    assert not page.all("td", **{"class": "bad"})


def test_the_totals_of_several_sets_stand_in_one_table_at_the_top(tmp_path: Path) -> None:
    base = [Record(r.key, {"psnr": 28.0}) for r in records(5)]
    sets = [
        SetReport(name="REDS4", records=records(5), baseline=base, definitions={"psnr": "PSNR, RGB"}),
        SetReport(name="Vid4", records=records(3), baseline=base[:3], definitions={"psnr": "PSNR, RGB"}),
    ]

    def top(*sets: SetReport) -> list[str]:
        write_report(tmp_path / "r.html", title="run", facts={}, sets=sets)
        text = Page(tmp_path / "r.html").text
        return text[: text.index("REDS4: 5") if "REDS4: 5" in text else text.index("5 frames of")].split()

    # by hand: the means of 30 to 34 and of 30 to 32
    expected = "All sets set psnr lpips restored bicubic gain restored bicubic gain REDS4 32.000 28.000 +4.000"
    assert " ".join(top(*sets)).startswith(f"run run {expected}")
    assert " ".join(top(*sets)).count("31.000 28.000 +3.000") == 1
    assert "All" not in top(sets[0])
    alone = SetReport(name="Vid4", records=records(3))  # compared with nothing: no column of a baseline for any set
    assert " ".join(top(sets[0], alone)).startswith("run run All sets set psnr lpips REDS4 32.000 0.2800 Vid4 31.000")


def test_a_baseline_goes_by_its_own_name(tmp_path: Path) -> None:
    page = report(tmp_path, beside="copy")
    assert "copy: the last input frame, a prediction that nothing moves; gain: restored minus copy" in page.text
    assert "bicubic" not in page.text
    assert page.all("polyline", **{"class": "line copy"})


def test_a_loss_is_marked_as_one(tmp_path: Path) -> None:
    better = [Record(r.key, {"psnr": 50.0, "lpips": 0.0}) for r in records(5)]
    assert len(report(tmp_path, baseline=better).all("td", **{"class": "bad"})) == 4


def test_the_page_asks_for_nothing_outside_itself(tmp_path: Path) -> None:
    example = Example(label="best", key="clip/004", metrics={}, before=picture(0), after=picture(1), target=picture(2))
    page = report(tmp_path, examples=[example])
    text = (tmp_path / "report.html").read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert not page.all("link")
    for _, attributes in page.tags:
        assert "srcset" not in attributes
        assert attributes.get("src", "data:").startswith("data:")
        assert not {"onclick", "onload", "href"} & attributes.keys()
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'; img-src data:; ")


def test_the_policy_admits_the_script_of_the_page_and_no_other(tmp_path: Path) -> None:
    page = report(tmp_path)
    script = re.search("<script>(.*)</script>", (tmp_path / "report.html").read_text(), re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (
        f"script-src 'sha256-{digest}'" in page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    )


def test_small_pictures_are_embedded_exactly_and_in_rgb(tmp_path: Path) -> None:
    before, after, target = (picture(i) for i in range(3))
    example = Example(label="worst", key="clip/000", metrics={"psnr": 30.0}, before=before, after=after, target=target)
    page = report(tmp_path, examples=[example])
    images = {a["alt"].rpartition(", ")[2]: decode(a["src"]) for a in page.all("img")}
    for name, expected in (("input", before), ("restored", after), ("ground truth", target)):
        assert images[name][0] == "png"
        assert np.array_equal(images[name][1], expected), name
    assert page.all("input", type="range")
    assert [a["data-right"] for a in page.all("button") if "data-right" in a] == ["restored", "truth"]
    assert "psnr 30.000 (bicubic 28.000)" in page.text


def test_large_pictures_are_embedded_as_jpeg(tmp_path: Path) -> None:
    smooth = np.zeros((1000, 1000, 3), np.uint8)
    smooth[..., 0] = np.linspace(0, 255, 1000)  # red: a swap of channels would show
    page = report(tmp_path, examples=[Example(label="best", key="clip/004", metrics={}, before=smooth, after=smooth)])
    for attributes in page.all("img"):
        kind, image = decode(attributes["src"])
        assert kind == "jpeg"
        assert np.abs(image.astype(int) - smooth).max() <= 6
    assert not [a for a in page.all("button") if "data-right" in a]  # there is no ground truth to show
    assert len(page.all("img")) == 2


def test_names_from_outside_are_shown_as_text(tmp_path: Path) -> None:
    evil = "<script>alert('1')</script>\"&"
    frames = [Record(f"{evil}/{i}", {evil: 1.0 + i}) for i in range(3)]
    example = Example(label=evil, key=f"{evil}/0", metrics={evil: 1.0}, before=picture(0), after=picture(1))
    values = {"name": evil, "records": frames, "baseline": frames, "definitions": {evil: evil}, "examples": [example]}
    write_report(tmp_path / "evil.html", title=evil, facts={evil: evil}, sets=[SetReport(**values)])
    page = Page(tmp_path / "evil.html")
    assert len(page.all("script")) == 1
    assert page.text.count(evil) >= 8
    assert page.all("img")[0]["alt"].startswith(evil)


def test_many_clips_are_folded_away_below_their_total(tmp_path: Path) -> None:
    many = [Record(f"{clip:02d}/0", {"psnr": 30.0}) for clip in range(26)]
    page = report(tmp_path, records=many, baseline=None)
    assert len(page.all("details")) == 1
    assert "all 26 clips" in page.text
    assert len(page.all("tr", **{"class": "total"})) == 1
    assert not report(tmp_path, records=many[:25], baseline=None).all("details")


def test_a_set_without_ground_truth_has_pictures_but_no_table(tmp_path: Path) -> None:
    example = Example(label="first", key="a", metrics={}, before=picture(0), after=picture(1))
    page = report(tmp_path, records=[Record("a"), Record("b")], baseline=[], examples=[example])
    assert "2 not measured" in page.text
    assert not page.all("table")
    assert not page.all("svg")
    assert len(page.all("img")) == 2


def test_sets_of_nothing_make_a_page(tmp_path: Path) -> None:
    assert "nothing was measured" in report(tmp_path, records=[], baseline=None).text
    write_report(tmp_path / "none.html", title="run", facts={}, sets=[])
    assert Page(tmp_path / "none.html").all("h1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"before": picture(0, 19)}, "before: expected the size of the restored frame"),
        ({"target": picture(0).astype(np.float32)}, "target: expected a uint8 image"),
        ({"after": picture(0)[..., 0]}, "after: expected a uint8 image"),
    ],
)
def test_pictures_that_cannot_be_compared_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Example(**{"label": "best", "key": "a", "metrics": {}, "before": picture(0), "after": picture(1)} | changes)


def test_the_best_the_median_and_the_worst_frame_are_picked() -> None:
    shuffled = [records(5)[i] for i in (3, 0, 4, 2, 1)]
    assert pick_examples(shuffled, "psnr", True) == [
        ("best", "clip/004"),
        ("median", "clip/002"),
        ("worst", "clip/000"),
    ]
    by_lpips = pick_examples(shuffled[:3], "lpips", False)
    assert by_lpips == [("best", "clip/004"), ("median", "clip/003"), ("worst", "clip/000")]


def test_examples_are_distinct_and_fewer_in_tiny_sets() -> None:
    equal = [Record(name, {"psnr": 30.0}) for name in "abc"]
    assert sorted(key for _, key in pick_examples(equal, "psnr", True)) == ["a", "b", "c"]
    assert pick_examples(records(2), "psnr", True) == [("best", "clip/001"), ("worst", "clip/000")]
    assert pick_examples(records(1), "psnr", True) == [("best", "clip/000")]
    assert pick_examples([], "psnr", True) == []


def test_frames_without_a_value_are_no_examples_unless_none_has_one() -> None:
    mixed = [Record("a"), Record("b", {"psnr": float("nan")}), Record("c", {"psnr": float("inf")}), *records(1)]
    assert pick_examples(mixed, "psnr", True) == [("best", "c"), ("worst", "clip/000")]
    unmeasured = [Record(name) for name in "abcd"]
    assert pick_examples(unmeasured, "psnr", True) == [("first", "a"), ("middle", "c"), ("last", "d")]
