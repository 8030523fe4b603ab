from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vsr.config import load_options
from vsr.config.convert import convert

if TYPE_CHECKING:
    from conftest import Case

OLD = """\
# My run.
# Two lines of it.
name: old   # after the run of May
model_type: EDVRModel
scale: 4
num_gpu: 8  # as we had then

# what it learns from
datasets:
  train:
    type: Clips
    # for the cluster:
    # dataroot_gt: /data
    dataroot_gt: 'a # b'  # a name with a hash
    gt_size: 256
    batch_size_per_gpu: 4
    prefetch_mode: ~  # nothing
network_g: {type: Net, num_feat: 64}  # small
path: {pretrain_network_g: ~}
train:
  # the loss
  pixel_opt:
    type: Loss
    reduction: sum  # over all pixels
  total_iter: !!float 6e3
  optim_g: {type: Optim, lr: !!float 4e-4, betas: [0.9, 0.99]}
  tsa_iter: 500
  dcn_lr_mul: 0.25
val:
  metrics:
    psnr: {type: Metric, crop_border: 0}
# the end
"""
NEW = """\
# My run.
# Two lines of it.
name: old # after the run of May
model_type: VideoModel
scale: 4

# what it learns from
datasets:
  train:
    type: Clips
    # for the cluster:
    # dataroot_gt: /data
    dataroot_gt: 'a # b' # a name with a hash
    gt_size: 256
    batch_size_per_gpu: 4

network_g: # small
  type: Net
  num_feat: 64

train:
  total_iter: 6000
  losses:
    # the loss
    pixel:
      type: Loss
      reduction: sum # over all pixels
  optim_g: {type: Optim, lr: 4e-4, betas: [0.9, 0.99]}
  lr_mul: {dcn: 0.25}
  freeze: {except: [fusion], until: 500}
  reference_batch: 32

val:
  metrics:
    psnr: {type: Metric, crop_border: 0}
# the end
"""


def test_an_old_file_is_written_anew_with_its_comments(case: "Case", tmp_path: Path) -> None:
    old = case.load(OLD)
    converted = convert(case.path)
    assert converted.text == NEW
    assert converted.lost == [6, 17]  # the comments of num_gpu and prefetch_mode
    new = tmp_path / "new.yml"
    new.write_text(converted.text, encoding="utf-8")
    assert load_options(new) == old
    again = convert(new)
    assert (again.text, again.lost) == (NEW, [])


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("!!float 1e-7", "1e-7"),
        ("1.25e-5", "1.25e-5"),
        ("-0.00012", "-1.2e-4"),
        ("0.01", "0.01"),
        ("0.", "0.0"),
        ("255.", "255.0"),
        ("20000.0", "20000"),
        ("1e22", "10000000000000000000000"),
    ],
)
def test_numbers_are_written_as_people_write_them(case: "Case", value: str, written: str) -> None:
    case.load(case.good.replace("type: Loss}", f"type: Loss, loss_weight: {value}}}"))
    assert f"loss_weight: {written}}}" in convert(case.path).text


@pytest.mark.parametrize("text", ["'000'", "'true'", "'1e5'", '"a: b"', '"[x]"', '"a, {b}"', '"ü\\tz"', "''", "'~'"])
def test_text_that_could_be_something_else_stays_text(case: "Case", text: str) -> None:
    old = case.load(case.good.replace("{type: Clips, dataroot_gt: gt}", f"{{type: Clips, dataroot_gt: {text}}}"))
    case.path.write_text(convert(case.path).text, encoding="utf-8")
    assert load_options(case.path) == old


@pytest.mark.parametrize(
    "text",
    [
        "'it''s # x'  # a name",
        '"a \\" # x"  # a name',
        "|  # a name\n      one # x\n      # y",
        ">-  # a name\n      one # x\n\n      two",
    ],
)
def test_a_hash_inside_of_a_value_is_no_comment(case: "Case", text: str) -> None:
    old = case.load(case.good.replace("dataroot_gt: gt\n", f"dataroot_gt: {text}\n"))
    converted = convert(case.path)
    assert converted.lost == []
    assert converted.text.count("# a name") == 1
    (line,) = [line for line in converted.text.splitlines() if "dataroot_gt" in line and "# a name" in line]
    assert line.endswith(" # a name")
    case.path.write_text(converted.text, encoding="utf-8")
    assert load_options(case.path) == old


def test_null_stays_where_it_means_something(case: "Case") -> None:
    old = case.load(case.good.replace("  total_iter: 100", "  total_iter: 100\n  offset_watch: ~\n  ema_decay: 0"))
    assert old.train is not None
    assert old.train.offset_watch is None  # the default is to watch
    text = convert(case.path).text
    assert "offset_watch: null" in text


def test_lists_of_mappings_stand_on_lines_of_their_own(case: "Case") -> None:
    stages = ", ".join(f"{{type: Mixup, alpha: {number}.5, prob: 0.{number}}}" for number in range(1, 6))
    old = case.load(NAMES + case.good.replace("total_iter: 100", f"total_iter: 100\n  batch_augment: [{stages}]"))
    text = convert(case.path).text
    assert "  batch_augment:\n    - {type: Mixup, alpha: 1.5, prob: 0.1}\n" in text
    case.path.write_text(text, encoding="utf-8")
    assert load_options(case.path) == old


NAMES = "imports: [math, json]\n"


def test_a_file_with_mistakes_is_not_converted(case: "Case") -> None:
    case.path.write_text(case.good.replace("total_iter", "total_itr"), encoding="utf-8")
    with pytest.raises(ValueError, match="Did you mean 'total_iter'"):
        convert(case.path)
