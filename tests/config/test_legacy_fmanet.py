"""FMA-Net's experiment.cfg: the recipes of vsr in its words."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from vsr.config import OptionError, load_options
from vsr.config.convert import convert

ROOT = Path(__file__).parents[2]
PUBLISHED = """\
[experiment]
seed = 1234

[training]
dataset_path = ./dataset/REDS4
save_dir = ./results/FMA-Net
log_dir = log_dir
gpu = 0
nThreads = 8
batch_size = 8
lr = 0.0002
num_epochs = 400
finetuning = False
need_patch = True
save_train_img = True
patch_size = 256
scale = 4
stage = 2
num_seq = 3
lr_warping_loss_weight = 0.1
hr_warping_loss_weight = 0.1
flow_loss_weight = 0.0001
D_TA_loss_weight = 0.1
R_TA_loss_weight = 0.1
Net_D_weight = 0.1

[network]
in_channels = 3
dim = 90
ds_kernel_size = 20
us_kernel_size = 5
num_RDB = 12
growth_rate = 18
num_dense_layer = 4
num_flow = 9
num_FRMA = 4
num_transformer_block = 2
num_heads = 6
LayerNorm_type = WithBias
ffn_expansion_factor = 2.66
bias = False

[validation]
val_period = 5

[test]
custom_path = /path/to/custom/dataset
"""


Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def registries() -> None:
    """Here the project's own tables are used, unlike in the tests beside this one."""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(*changes: tuple[str, str]) -> Path:
        text = PUBLISHED
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "experiment.cfg"
        path.write_text(text, encoding="utf-8")
        return path

    return written


@pytest.mark.parametrize("stage", [1, 2])
def test_the_published_file_is_the_recipe(stage: int, write: Write, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        options = load_options(write(("stage = 2", f"stage = {stage}")))
    recipe = load_options(ROOT / f"options/train/FMANet/stage{stage}_reds_x4.yml")
    assert options.network_g == recipe.network_g
    assert options.train is not None
    assert recipe.train is not None
    assert options.train.losses == recipe.train.losses
    assert options.train.scheduler == recipe.train.scheduler
    assert options.train.optim_g == recipe.train.optim_g
    assert options.train.lr_mul == recipe.train.lr_mul
    assert options.train.total_iter == recipe.train.total_iter
    assert options.val.metrics == recipe.val.metrics
    assert (options.val.val_freq, options.val.totals) == (recipe.val.val_freq, recipe.val.totals)
    assert (options.manual_seed, options.scale, options.name) == (1234, 4, f"FMANet_stage{stage}")
    train, val = (options.datasets[key].dataset.args for key in ("train", "val"))
    assert train["dataroot_lq_sharp"] == "./dataset/REDS4/train_sharp_bicubic"
    assert val["dataroot_lq"] == "./dataset/REDS4/val_blur_bicubic"
    assert val["gt_frames"] == ("all" if stage == 1 else "centre")
    assert (train["val_partition"], val["val_partition"], train["gt_size"]) == ("REDS4", "REDS4", 256)
    assert options.datasets["train"].num_worker_per_gpu == 8
    best = "./results/FMA-Net/FMANet_stage1/models/net_g_best.pth"
    assert options.path.pretrain_network_g == (best if stage == 2 else None)
    for told in (
        "training.gpu: '0' is not used",
        "an epoch of REDS is 26068 windows, 3258 steps",
        "the rate is halved",
    ):
        assert told in caplog.text
    line = next(number for number, text in enumerate(PUBLISHED.splitlines(), 1) if text.startswith("save_dir"))
    assert (
        f"experiment.cfg:{line} training.save_dir: the run's folder is ./results/FMA-Net/FMANet_stage{stage}"
        in caplog.text
    )


def test_numbers_follow_the_file_and_no_weight_of_flow_is_no_flow(write: Write) -> None:
    changes = [("batch_size = 8", "batch_size = 16"), ("num_epochs = 400", "num_epochs = 20"), ("= 0.0001", "= 0")]
    options = load_options(write(*changes), ["train.optim_g.lr=1e-3"])
    assert options.train is not None
    assert options.train.total_iter == 20 * 1629  # 26068 / 16, without the smaller last batch
    assert options.train.scheduler is not None
    assert options.train.scheduler.args["milestones"] == [13 * 1629, 18 * 1629, 19 * 1629, 20 * 1629]
    assert options.train.losses["flow"].args["loss_weight"] == 0
    assert options.datasets["train"].dataset.args["dataroot_flow"] is None
    assert options.train.optim_g.args["lr"] == 1e-3


def test_it_is_written_anew_in_vsr_s_words(write: Write, tmp_path: Path) -> None:
    path = write()
    (tmp_path / "new.yml").write_text(convert(path).text, encoding="utf-8")
    assert load_options(tmp_path / "new.yml") == load_options(path)


def test_all_mistakes_are_told_with_their_places(write: Write, tmp_path: Path) -> None:
    changes = [("lr = 0.0002\n", ""), ("seed = 1234", "seed = x"), ("dim = 90", "dim = 91.5"), ("[test]", "[tests]")]
    changes += [("gpu = 0", "gpus = 0"), ("save_train_img = True", "save_train_img = 3")]
    with pytest.raises(OptionError) as caught:
        load_options(write(*changes))
    said = str(caught.value)
    assert "experiment.cfg training.lr: expected a value, got nothing" in said
    assert "experiment.cfg:2 experiment.seed: expected a whole number, got 'x'" in said
    assert "training.gpus: no key of FMA-Net's experiment.cfg" in said
    assert "tests: no section" in said
    assert "training.save_train_img: expected True or False, got 3" in said
    with pytest.raises(OptionError, match=r"experiment.cfg:\d+ network.dim: expected int, got 91.5"):
        load_options(write(("dim = 90", "dim = 91.5")))
    with pytest.raises(OptionError, match=r"network.dimension: not an argument of the network FMANet"):
        load_options(write(("dim = 90", "dimension = 90")))
    with pytest.raises(FileNotFoundError, match="found nothing there"):
        load_options(tmp_path / "none.cfg")
    (tmp_path / "no.cfg").write_text("name: x\n")
    with pytest.raises(OptionError, match="could not read it"):
        load_options(tmp_path / "no.cfg")
