import csv
import math
from dataclasses import replace

import pytest

from vsr.engine.results import (
    Record,
    decimals_of,
    format_sets,
    format_table,
    how,
    rows,
    set_row,
    totals,
    write_csv,
    write_sets_csv,
)

CLIPS = [
    Record("a/0", {"psnr": 30.0, "ssim": 0.9}),
    Record("a/1", {"psnr": 32.0, "ssim": 0.8}),
    Record("b/0", {"psnr": 20.0, "ssim": 0.5}),
]
BICUBIC = [
    Record("a/0", {"psnr": 29.0, "ssim": 0.85}),
    Record("a/1", {"psnr": 29.0, "ssim": 0.85}),
    Record("b/0", {"psnr": 20.5, "ssim": 0.5}),
]
DEFINITIONS = {"psnr": "PSNR, RGB, crop 0", "ssim": "SSIM, Y, 2-D window, crop 0"}


def test_the_total_of_clips_is_the_mean_of_their_means() -> None:
    """By hand: a has (30 + 32) / 2 = 31, b has 20, so 25.5; the mean over the three frames would be 27.33."""
    assert totals(CLIPS, ["psnr", "ssim"]) == {"psnr": 25.5, "ssim": pytest.approx(0.675)}
    assert how(CLIPS, ["psnr"]) == "3 frames of 2 clips; totals are means over each clip's frames, then over clips"


def test_the_total_of_frames_alike_is_the_mean_over_all_of_them() -> None:
    """By hand: (30 + 32 + 20) / 3, and of a metric that a clip's first frame has not, over the others."""
    pooled = [replace(record, pooled=True) for record in CLIPS]
    pooled[1] = replace(pooled[1], metrics={"psnr": 32.0, "ssim": 0.8, "tof": 0.5})
    assert totals(pooled, ["psnr", "tof"]) == {"psnr": pytest.approx(82 / 3), "tof": 0.5}
    assert how(pooled, ["psnr"]) == "3 frames of 2 clips; totals are means over all frames"
    assert rows(pooled, ["psnr"])[0].restored == {"psnr": 31.0}


def test_the_total_of_images_is_the_mean_over_images() -> None:
    images = [Record("baby", {"psnr": 30.0}), Record("bird", {"psnr": 33.0}), Record("head", {"psnr": 36.0})]
    assert totals(images, ["psnr"]) == {"psnr": 33.0}
    assert how(images, ["psnr"]) == "3 images; totals are means over images"


def test_images_in_folders_are_images_all_the_same() -> None:
    images = [
        Record("GOPR/1", {"psnr": 30.0}, image=True),
        *(Record(f"GP/{i}", {"psnr": 33.0}, image=True) for i in "ab"),
    ]
    assert totals(images, ["psnr"]) == {"psnr": 32.0}


def test_the_order_of_clips_does_not_matter_but_is_kept() -> None:
    mixed = [CLIPS[2], CLIPS[0], CLIPS[1]]
    assert totals(mixed, ["psnr"]) == totals(CLIPS, ["psnr"])
    assert [row.label for row in rows(mixed, ["psnr"])] == ["b", "a", "total"]


def test_an_identical_frame_makes_the_total_infinite_and_is_counted() -> None:
    records = [*CLIPS, Record("b/1", {"psnr": math.inf, "ssim": 1.0})]
    assert totals(records, ["psnr", "ssim"]) == {"psnr": math.inf, "ssim": pytest.approx((0.85 + 0.75) / 2)}
    assert how(records, ["psnr", "ssim"]).endswith("; psnr is infinite in 1 of 4")
    assert "inf" in format_table("val", records, DEFINITIONS)


def test_a_value_that_is_not_a_number_shows() -> None:
    records = [*CLIPS, Record("b/1", {"psnr": math.nan})]
    assert math.isnan(totals(records, ["psnr"])["psnr"])
    assert how(records, ["psnr"]).endswith("; psnr is not a number in 1 of 4")
    assert "nan" in format_table("val", records, DEFINITIONS)


def test_what_has_no_ground_truth_is_said_and_enters_no_mean() -> None:
    records = [*CLIPS, Record("b/1"), Record("c/0")]
    assert totals(records, ["psnr", "lpips"]) == {"psnr": 25.5}
    assert "2 not measured (no ground truth, no val.metrics, or none with a value)" in how(records, ["psnr"])
    assert totals([Record("c/0")], ["psnr"]) == {}
    table = format_table("mine", [Record("c/0"), Record("c/1")], DEFINITIONS, [])
    assert table == (
        "mine: 2 frames of 1 clip; totals are means over each clip's frames, then over clips; "
        "2 not measured (no ground truth, no val.metrics, or none with a value)"
    )


def test_means_of_other_images_give_no_gain_and_it_is_said_where_the_baseline_has_no_value() -> None:
    records = [Record("1", {"psnr": 30.0, "bad": 4.0}, True), Record("2", {"psnr": 20.0, "bad": 8.0}, True)]
    baseline = [Record("1", {"psnr": 28.0}, True), Record("2", {"psnr": 19.0, "bad": 9.0}, True)]
    first, second, total = rows(records, ["psnr", "bad"], baseline)
    assert (first.gain("bad"), second.gain("bad"), total.gain("bad"), total.gain("psnr")) == (None, -1.0, None, 1.5)
    assert (total.restored["bad"], total.baseline["bad"]) == (6.0, 9.0)
    assert "; bicubic has no bad in 1\n" in format_table("val", records, {"psnr": "PSNR", "bad": "bad"}, baseline)


def test_nothing_measured_is_no_error() -> None:
    assert totals([], ["psnr"]) == {}
    assert format_table("val", [], DEFINITIONS) == "val: nothing was measured"


def test_the_table_shows_clips_total_baseline_gain_and_definitions() -> None:
    assert format_table("REDS4", CLIPS, DEFINITIONS, BICUBIC).splitlines() == [
        "REDS4: 3 frames of 2 clips; totals are means over each clip's frames, then over clips",
        "         psnr  bicubic    gain    ssim  bicubic     gain",
        "a      31.000   29.000  +2.000  0.8500   0.8500  +0.0000",
        "b      20.000   20.500  -0.500  0.5000   0.5000  +0.0000",
        "total  25.500   24.750  +0.750  0.6750   0.6750  +0.0000",
        "psnr: PSNR, RGB, crop 0",
        "ssim: SSIM, Y, 2-D window, crop 0",
        "bicubic: the input enlarged by antialiased bicubic interpolation; gain: restored minus bicubic",
    ]


def test_the_table_without_a_baseline_has_one_column_a_metric() -> None:
    assert format_table("val", CLIPS, {"psnr": "PSNR, RGB"}).splitlines()[1:] == [
        "         psnr    ssim",
        "a      31.000  0.8500",
        "b      20.000  0.5000",
        "total  25.500  0.6750",
        "psnr: PSNR, RGB",
    ]


def test_a_baseline_that_lacks_frames_is_compared_where_it_has_them() -> None:
    lines = format_table("val", CLIPS, {}, BICUBIC[:2]).splitlines()
    assert lines[3].split() == ["b", "20.000", "-", "-", "0.5000", "-", "-"]


def test_two_infinite_values_have_no_gain() -> None:
    same = [Record("a/0", {"psnr": math.inf})]
    assert rows(same, ["psnr"], same)[0].gain("psnr") is None
    assert rows(same, ["psnr"], [Record("a/0", {"psnr": 30.0})])[0].gain("psnr") == math.inf


def test_the_table_stays_within_100_columns_whatever_the_names_and_metrics() -> None:
    metrics = {f"metric_{i}": 0.1 * i for i in range(9)}
    records = [Record(f"{'very_long_clip_name_' * 5}{i}/0", metrics) for i in range(3)]
    lines = format_table("val", records, {}, records).splitlines()[1:-1]
    assert max(map(len, lines)) <= 100
    assert all(any(name in line for line in lines) for name in metrics)
    labels = {line.split()[0] for line in lines if line.startswith("very")}
    assert len(labels) == 3  # shortened in the middle, their ends still tell them apart
    assert sum(line.startswith("total") for line in lines) == 5  # 31 columns of names and 28 a metric: 2 fit


def test_a_long_list_shows_the_total_and_the_number_only() -> None:
    images = [Record(f"{i:04d}", {"psnr": 30.0}) for i in range(1000)]
    assert format_table("DIV2K", images, {"psnr": "PSNR, RGB, crop 0"}).splitlines() == [
        "DIV2K: 1000 images; totals are means over images",
        "         psnr",
        "total  30.000",
        "psnr: PSNR, RGB, crop 0",
    ]
    assert len(format_table("Set5", images[:5], DEFINITIONS).splitlines()) == 1 + 1 + 5 + 1 + 1


def test_small_metrics_have_four_decimals_and_large_ones_three() -> None:
    assert decimals_of([0.9, 1.0, -0.2]) == 4
    assert decimals_of([0.9, 31.0]) == 3
    assert decimals_of([math.inf]) == 4


def test_the_csv_holds_every_frame_with_all_digits(tmp_path) -> None:
    records = [
        Record('odd "clip", one/0', {"psnr": 1 / 3, "ssim": math.inf}),
        Record("odd/deep/1", {"psnr": 2.0}),
        Record("image"),
    ]
    write_csv(tmp_path / "val.csv", records, [Record("odd/deep/1", {"psnr": 0.1})])
    with (tmp_path / "val.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    assert lines == [
        ["key", "clip", "frame", "psnr", "ssim", "bicubic psnr", "bicubic ssim"],
        ['odd "clip", one/0', 'odd "clip", one', "0", "0.3333333333333333", "inf", "", ""],
        ["odd/deep/1", "odd/deep", "1", "2.0", "", "0.1", ""],
        ["image", "", "image", "", "", "", ""],
    ]
    write_csv(tmp_path / "val.csv", records)  # replaces it
    assert (tmp_path / "val.csv").read_text().startswith("key,clip,frame,psnr,ssim\n")
    assert [p.name for p in tmp_path.iterdir()] == ["val.csv"]


@pytest.mark.parametrize(("beside", "meaning"), [("input", "the input as it is"), ("copy", "the last input frame")])
def test_a_baseline_that_is_not_enlarged_is_not_called_bicubic(tmp_path, beside: str, meaning: str) -> None:
    table = format_table("val", CLIPS, DEFINITIONS, BICUBIC, beside)
    assert table.splitlines()[1].split()[:3] == ["psnr", beside, "gain"]
    assert f"{beside}: {meaning}" in table.splitlines()[-1]
    assert "bicubic" not in table
    write_csv(tmp_path / "t.csv", CLIPS, BICUBIC, beside=beside)
    assert (tmp_path / "t.csv").read_text().splitlines()[0].endswith(f",{beside} psnr,{beside} ssim")


def test_several_sets_are_one_table_with_a_line_a_set(tmp_path) -> None:
    images = [Record("1", {"psnr": 30.0, "lpips": 0.25}), Record("2", {"psnr": 33.0, "lpips": 0.5})]
    enlarged = [Record("1", {"psnr": 29.0, "lpips": 0.5}), Record("2", {"psnr": 29.0, "lpips": 0.5})]
    sets = [set_row("REDS4", CLIPS, BICUBIC), set_row("Set5", images, enlarged), set_row("wild", [Record("0")], [])]
    assert format_sets(sets, DEFINITIONS, "bicubic").splitlines() == [
        "totals of 3 sets",
        "         psnr  bicubic    gain    ssim  bicubic     gain   lpips  bicubic     gain",
        "REDS4  25.500   24.750  +0.750  0.6750   0.6750  +0.0000       -        -        -",
        "Set5   31.500   29.000  +2.500       -        -        -  0.3750   0.5000  -0.1250",
        "wild        -        -       -       -        -        -       -        -        -",
        "psnr: PSNR, RGB, crop 0",
        "ssim: SSIM, Y, 2-D window, crop 0",
        "bicubic: the input enlarged by antialiased bicubic interpolation; gain: restored minus bicubic",
    ]
    assert format_sets(sets[:1], DEFINITIONS).splitlines()[1:3] == ["         psnr    ssim", "REDS4  25.500  0.6750"]
    write_sets_csv(tmp_path / "report.csv", sets, "bicubic")
    with (tmp_path / "report.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    assert lines == [
        ["set", "psnr", "ssim", "lpips", "bicubic psnr", "bicubic ssim", "bicubic lpips"],
        ["REDS4", "25.5", str(sets[0].restored["ssim"]), "", "24.75", "0.675", ""],
        ["Set5", "31.5", "", "0.375", "29.0", "", "0.5"],
        ["wild", "", "", "", "", "", ""],
    ]
    write_sets_csv(tmp_path / "report.csv", sets)
    assert (tmp_path / "report.csv").read_text().startswith("set,psnr,ssim,lpips\nREDS4,25.5,")
