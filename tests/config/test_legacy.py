import logging
from typing import TYPE_CHECKING

import pytest

from vsr.config.legacy import translate
from vsr.config.reader import parse, plain, read_override

if TYPE_CHECKING:
    from conftest import Case

# The form of a BasicSR 1.4 file, with this folder's small components.
BASICSR = """\
name: old
model_type: EDVRModel
scale: 4
num_gpu: auto
manual_seed: 0
find_unused_parameters: true
datasets:
  train:
    name: REDS
    type: Clips
    dataroot_gt: datasets/REDS/train_sharp
    io_backend: {type: disk}
    gt_size: 256
    num_worker_per_gpu: 3
    batch_size_per_gpu: 4
    dataset_enlarge_ratio: 200
    prefetch_mode: ~
    use_shuffle: true
  val:
    name: REDS4
    type: Clips
    dataroot_gt: datasets/REDS/train_sharp
    pin_memory: true
    prefetch_mode: ~
network_g: {type: Net, num_feat: 64, num_frame: 5}
path: {pretrain_network_g: ~, strict_load_g: true, resume_state: ~}
train:
  optim_g: {type: Optim, lr: !!float 4e-4, betas: [0.9, 0.99]}
  scheduler: {type: Restart, periods: [150000, 150000], restart_weights: [1, 0.5]}
  total_iter: 600000
  warmup_iter: -1
  dcn_lr_mul: 1
  pixel_opt: {type: Loss, loss_weight: 1.0, reduction: sum}
  perceptual_opt: ~
val:
  val_freq: !!float 5e3
  save_img: false
  pbar: false
  metrics: {psnr: {type: Metric, crop_border: 0, test_y_channel: false, better: higher}}
logger:
  print_freq: 100
  save_checkpoint_freq: !!float 5e3
  use_tb_logger: true
  wandb: {project: ~, resume_id: ~}
dist_params: {backend: nccl, port: 29500}
"""


def test_a_basicsr_file_becomes_the_schema(case: "Case") -> None:
    options = case.load(BASICSR)
    assert options.model_type == "VideoModel"
    assert options.train is not None
    assert options.train.lr_mul == {"dcn": 1.0}
    assert {name: loss.args["reduction"] for name, loss in options.train.losses.items()} == {"pixel": "sum"}
    assert (options.val.val_freq, options.logger.save_checkpoint_freq) == (5000, 5000)
    assert options.train.optim_g.args["lr"] == 0.0004


def test_each_key_that_is_not_used_is_told_once_with_what_happens_instead(
    case: "Case", caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="vsr"):
        case.load(BASICSR)
    told = [record.getMessage().replace(str(case.path), "x.yml") for record in caplog.records]
    assert told[0] == "x.yml:2 model_type: EDVRModel is vsr's VideoModel"
    keys = [line.split(" ")[1].rstrip(":") for line in told[1:] if "is not used" in line]
    assert keys == [
        "num_gpu",
        "dist_params",
        "find_unused_parameters",
        "datasets.train.prefetch_mode",  # of two sets, one line
        "datasets.train.use_shuffle",
        "datasets.val.pin_memory",
        "val.pbar",
        "logger.wandb",
    ]
    assert "'auto' is not used: the number of processes is torchrun's --nproc_per_node" in told[1]
    moved = {line.split(" ")[1].rstrip(":"): line.partition(": ")[2] for line in told[1:] if "is not used" not in line}
    assert moved == {"train.dcn_lr_mul": "it is lr_mul.dcn here", "train.pixel_opt": "it is losses.pixel here"}


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("SRModel", "ImageModel"),
        ("SwinIRModel", "ImageModel"),
        ("ImageRestorationModel", "ImageModel"),
        ("VideoBaseModel", "VideoModel"),
        ("VideoRecurrentModel", "VideoModel"),
        ("ImageModel", "ImageModel"),
    ],
)
def test_model_types_have_one_name_here(case: "Case", name: str, ours: str) -> None:
    assert case.load(case.good, f"model_type={name}").model_type == ours


def test_mistakes_in_a_slot_are_told_under_the_key_that_the_user_wrote(case: "Case") -> None:
    line = case.problem("losses: {pixel: {type: Loss}}", "pixel_opt: {type: Loss, loss_wieght: 1}")
    assert line.startswith(
        "x.yml:14 train.pixel_opt.loss_wieght: not an argument of the loss Loss. Did you mean 'loss_weight'?"
    )
    line = case.problem("total_iter: 100", "total_iter: 100\n  dcn_lr_mul: x")
    assert line.startswith("x.yml:14 train.dcn_lr_mul: expected float, got 'x'.")


def test_a_loss_given_in_both_spellings_is_refused_with_both_places(case: "Case") -> None:
    line = case.problem("total_iter: 100", "total_iter: 100\n  pixel_opt: {type: Loss}")
    assert line == (
        f"x.yml:14 train.pixel_opt: expected one losses.pixel, got a second. See {case.path}:15 train.losses.pixel."
    ).replace(str(case.path), "x.yml")


def test_overrides_reach_a_loss_in_either_spelling(case: "Case") -> None:
    for text in (
        case.good,
        case.good.replace("losses: {pixel: {type: Loss}}", "pixel_opt: {type: Loss, reduction: sum}"),
    ):
        for key in ("train.losses.pixel.loss_weight", "train.pixel_opt.loss_weight", "train:pixel_opt:loss_weight"):
            train = case.load(text, f"{key}=3").train
            assert train is not None
            assert train.losses["pixel"].args["loss_weight"] == 3.0
            assert train.losses["pixel"].args["reduction"] == ("mean" if text == case.good else "sum")


def test_overrides_may_be_of_keys_that_are_not_used(case: "Case") -> None:
    assert case.load(case.good, "num_gpu=0", "val:pbar=false", "dist_params.port=1") == case.load()


def test_an_override_takes_a_slot_out(case: "Case") -> None:
    text = case.good.replace("losses: {pixel: {type: Loss}}", "losses: {edge: {type: Loss}}\n  pixel_opt: {type: Loss}")
    train = case.load(text, "train.pixel_opt=~").train
    assert train is not None
    assert list(train.losses) == ["edge"]


def test_unused_keys_elsewhere_are_still_mistakes(case: "Case") -> None:
    assert "unknown key" in case.problem("scale: 4", "scale: 4\nprefetch_mode: ~")


def test_what_files_for_testing_have_at_the_top_belongs_to_val(case: "Case") -> None:
    options = case.load(case.good.replace("scale: 4", "scale: 4\nsuffix: x4\ncrop_border: ~\nsave_img: true"))
    assert (options.val.suffix, options.val.save_img) == ("x4", True)
    line = case.problem("scale: 4", "scale: 4\nsave_img: perhaps")
    assert line.startswith("x.yml:4 save_img: expected true or false or null, got 'perhaps'")


NAFNET = """\
name: old
model_type: ImageRestorationModel
scale: 1
num_gpu: 8
manual_seed: 10
datasets:
  train:
    type: Clips
    dataroot_gt: ./datasets/GoPro/train/sharp_crops.lmdb
    io_backend: {type: lmdb}
    gt_size: 256
    use_flip: false
    use_rot: true
    use_shuffle: true
    prefetch_mode: ~
network_g: {type: Net, upscale: 1}
train:
  optim_g: {type: Optim, lr: !!float 1e-3, betas: [0.9, 0.9]}
  scheduler: {type: Restart, periods: [200000]}
  total_iter: 200000
  pixel_opt: {type: Loss, loss_weight: 1, reduction: mean}
val:
  val_freq: !!float 2e4
  grids: false
  use_image: false
  trans_num: 1
  max_minibatch: 8
  metrics:
    psnr: {type: Metric, crop_border: 0, test_y_channel: false}
    ssim: {type: calculate_ssim, crop_border: 0, test_y_channel: false}
dist_params: {backend: nccl, port: 29500}
"""


def test_a_nafnet_file_becomes_the_schema(case: "Case") -> None:
    options = case.load(NAFNET)
    assert options.model_type == "ImageModel"
    train = options.datasets["train"].dataset.args
    assert (train["use_hflip"], train["use_rot"]) == (False, True)
    assert options.val.metrics["ssim"].metric.args["ssim3d"] is True  # the default of its own function


def test_the_same_metric_in_other_files_keeps_its_default(case: "Case") -> None:
    ssim = "ssim: {type: calculate_ssim, "
    for text in (NAFNET.replace("ImageRestorationModel", "SRModel"), NAFNET.replace(ssim, ssim + "ssim3d: false, ")):
        assert case.load(text).val.metrics["ssim"].metric.args.get("ssim3d", False) is False


def test_a_flip_given_in_both_spellings_is_refused(case: "Case") -> None:
    (line,) = case.problems(NAFNET.replace("    gt_size: 256", "    gt_size: 256\n    use_hflip: true"))
    where, _, text = line.partition(": ")
    assert where == "x.yml:13 datasets.train.use_flip"
    assert text.startswith("expected one datasets.train.use_hflip, got a second. See x.yml:12")


def test_tiles_of_nafnet_have_another_option_here(case: "Case") -> None:
    (line,) = case.problems(NAFNET.replace("grids: false", "grids: true"))
    assert line.startswith("x.yml:24 val.grids: expected false, got true. Use val.tile")


@pytest.mark.parametrize(
    ("height", "width", "scale", "tile"),
    [(256, 512, 1, {"tile": 256}), (256, 256, 4, {"tile": 64}), (96, 128, 4, {"tile": 24, "tile_overlap": 12})],
)
def test_crops_of_nafnets_grids_are_tiles_of_lq(height: int, width: int, scale: int, tile: dict[str, int]) -> None:
    val = f"{{grids: true, crop_size_h: {height}, crop_size_w: {width}}}"
    root, problems = parse(f"scale: {scale}\nval: {val}", "x.yml"), list[str]()
    translate(root, problems)
    assert (problems, plain(root["val"])) == ([], tile)


def test_sizes_of_grids_that_are_off_say_nothing() -> None:
    root, problems = parse("val: {grids: false, crop_size_h: 256, crop_size_w_ratio: 0.5}", "x.yml"), list[str]()
    translate(root, problems)
    assert (problems, plain(root["val"])) == ([], {})


def test_steps_with_restarts_are_one_class_there_and_another_here() -> None:
    schedule = "{type: MultiStepLR, milestones: [5], restarts: [0, 9], restart_weights: [1, 0.5]}"
    root = parse(f"train: {{scheduler: {schedule}}}", "x.yml")
    translate(root, [])
    assert root["train"]["scheduler"]["type"] == "MultiStepRestartLR"


def test_what_the_perceptual_loss_of_2020_had_beside_it_is_dropped() -> None:
    root = parse("train: {perceptual_opt: {type: P, scale: false, norm_img: false}}", "x.yml")
    translate(root, [])
    assert plain(root["train"]) == {"losses": {"perceptual": {"type": "P", "range_norm": False}}}


def test_a_seed_of_null_is_the_default(case: "Case") -> None:
    assert case.load(case.good.replace("scale: 4", "scale: 4\nmanual_seed: ~")).manual_seed == 0


@pytest.mark.parametrize(("kind", "size"), [("VGGStyleDiscriminator128", 128), ("VGGStyleDiscriminator256", 256)])
def test_discriminators_of_two_sizes_are_one_class(kind: str, size: int) -> None:
    root = parse(f"network_d: {{type: {kind}, num_feat: 64, syncbn: true}}", "x.yml")
    translate(root, [])
    assert plain(root["network_d"]) == {"type": "VGGStyleDiscriminator", "num_feat": 64, "input_size": size}


def test_a_rate_of_the_flow_network_is_a_factor_beside_fix_flow() -> None:
    root, problems = parse("train: {fix_flow: 5, lr_flow: 1e-5, optim_g: {lr: 1e-4}}", "x.yml"), list[str]()
    translate(root, problems)
    assert plain(root["train"]["lr_mul"]) == {"spynet": pytest.approx(0.1)}
    root = parse("train: {fix_flow: 5, lr_flow: 1e-5}", "x.yml")
    translate(root, problems)
    assert problems == [
        "x.yml:1 train.lr_flow: expected a rate beside optim_g.lr, got 1e-05. Use flow_lr_mul, a factor."
    ]


@pytest.mark.parametrize(
    "line", ["model_type: [1]", "network_g: 3", "network_d: {type: [1]}", "val: {metrics: [1]}", "datasets: [3]",
             "train: {lr_scheme: MultiStepLR, restarts: 3}", "train: {scheduler: [3]}"],
)  # fmt: skip
def test_nonsense_is_left_for_the_check_or_told(line: str) -> None:
    translate(parse(line, "x.yml"), [])


def test_what_basicsr_adds_to_an_lmdb_backend_is_passed_over(case: "Case") -> None:
    backend = (
        "io_backend: {type: lmdb, db_paths: [a.lmdb], client_keys: [lq], readonly: true, lock: false, readahead: ~}"
    )
    options = case.load(NAFNET.replace("io_backend: {type: lmdb}", backend))
    assert options.datasets["train"].dataset.args["io_backend"] == {"type": "lmdb"}


MIXING = "mixing_augs: {mixup: true, mixup_beta: 1.2, use_identity: true}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (MIXING, [{"type": "Mixup", "alpha": 1.2, "prob": 0.5}]),
        ("mixing_augs: {mixup: true, mixup_beta: 0.4}", [{"type": "Mixup", "alpha": 0.4, "prob": 1.0}]),
        ("mixing_augs: {mixup: false, mixup_beta: 1.2, use_identity: true}", []),
        ("mixing_augs: ~", []),
        ("mixup: false", []),
        ("mixup: true", [{"type": "Mixup", "alpha": 1.2, "prob": 1.0}]),
    ],
)
def test_mixing_of_restormer_and_nafnet_is_batch_augment(line: str, expected: list[object], case: "Case") -> None:
    options = case.load(NAFNET.replace("  total_iter: 200000", f"  total_iter: 200000\n  {line}"))
    assert options.train is not None
    assert [stage.as_option() for stage in options.train.batch_augment] == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mixing_augs: {mix: true}", "train.mixing_augs: expected {mixup: true, mixup_beta: 1.2, use_identity: true}"),
        ("mixing_augs: 3", "train.mixing_augs: expected {mixup: true, mixup_beta: 1.2, use_identity: true}, got 3"),
        ("mixup: 1", "train.mixup: expected mixup: true or false, got 1"),
        (f"batch_augment: [{{type: Mixup}}]\n  {MIXING}", "train.mixing_augs: expected either this or batch_augment"),
    ],
)
def test_mixing_that_cannot_be_translated_is_told(line: str, message: str, case: "Case") -> None:
    (problem,) = case.problems(NAFNET.replace("  total_iter: 200000", f"  total_iter: 200000\n  {line}"))
    assert message in problem


@pytest.mark.parametrize(
    ("lines", "network", "freeze"),
    [
        ("tsa_iter: 50000", "EDVR", {"except": ["fusion"], "until": 50000}),
        ("fix_flow: 5000", "BasicVSR", {"parts": ["spynet"], "until": 5000}),
        ("fix_flow: 5000", "IconVSR", {"parts": ["spynet", "edvr"], "until": 5000}),
        ("fix_flow: ~", "BasicVSR", None),
    ],
)
def test_phases_of_basicsr_are_a_freeze(lines: str, network: str, freeze: dict[str, object] | None) -> None:
    root = parse(f"network_g: {{type: {network}}}\ntrain:\n  {lines}\n  flow_lr_mul: 0.125\n", "x.yml")
    problems: list[str] = []
    translate(root, problems)
    assert problems == []
    expected = {"lr_mul": {"spynet": 0.125}} | ({"freeze": freeze} if freeze else {})
    assert plain(root["train"]) == expected


def test_a_phase_in_both_spellings_is_refused() -> None:
    root, problems = parse("train: {tsa_iter: 5, freeze: {parts: [a]}}", "x.yml"), list[str]()
    translate(root, problems)
    assert problems == ["x.yml:1 train.tsa_iter: expected either this or freeze, got both. Keep freeze."]


@pytest.mark.parametrize(
    ("line", "clip"), [("", {"norm": 0.01}), ("use_grad_clip: true", {"norm": 0.01}), ("use_grad_clip: false", None)]
)
def test_nafnets_code_clips_gradients_unless_told_not_to(line: str, clip: dict[str, float] | None) -> None:
    root, problems = (
        parse(f"model_type: ImageRestorationModel\ntrain:\n  total_iter: 5\n  {line}\n", "x.yml"),
        list[str](),
    )
    translate(root, problems)
    assert problems == []
    assert plain(root["train"]) == {"total_iter": 5} | ({"clip_grad": clip} if clip else {})


def test_clipping_of_nafnet_is_true_or_false() -> None:
    root, problems = parse("model_type: ImageRestorationModel\ntrain: {use_grad_clip: 0.1}", "x.yml"), list[str]()
    translate(root, problems)
    assert problems == [
        "x.yml:2 train.use_grad_clip: expected true or false, got 0.1. Or write clip_grad: {norm: 0.01}."
    ]


@pytest.mark.parametrize(
    ("override", "freeze"),
    [
        ("train.fix_flow=3", {"parts": ["spynet", "edvr"], "until": 3}),  # its network is known from the file
        ("train.fix_flow=0", None),
        ("train.fix_flow=null", None),
        ("train.tsa_iter=0", None),
    ],
)
def test_an_override_of_a_phase_counts_as_it_would_in_the_file(override: str, freeze: dict[str, object] | None) -> None:
    file = parse("network_g: {type: IconVSR}\ntrain: {fix_flow: 5000}", "x.yml")
    problems: list[str] = []
    translate(file, problems)
    change = read_override(override)
    translate(change, problems, over=file)
    assert problems == []
    assert plain(change["train"]) == {"freeze": freeze}


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("pixel_criterion=l2", "train.losses.pixel, with type"),
        ("gan_type=ragan", "train.losses.gan.gan_type and train.relativistic"),
        ("restart_weights=[0.5]", "train.scheduler.restart_weights"),
        ("beta1=0.5", "train.optim_g.betas"),
        ("beta2_G=0.5", "train.optim_g.betas"),
        ("beta1_D=0.5", "train.optim_d.betas"),
    ],
)
def test_an_override_that_needs_other_keys_of_2019_beside_it_is_refused(key: str, instead: str) -> None:
    problems: list[str] = []
    change = read_override(f"train.{key}")
    translate(change, problems, over=parse("train: {}", "x.yml"))
    name = key.partition("=")[0]
    (problem,) = problems
    assert problem.startswith(f"--set train.{key}: expected vsr's own key in an override, got {name} of 2019. Use ")
    assert instead in problem
    assert plain(change) == {"train": {}}


def test_an_override_of_the_flows_rate_is_a_factor_of_the_files_rate() -> None:
    file, problems = parse("train: {freeze: {parts: [spynet], until: 5}, optim_g: {lr: 2e-4}}", "x.yml"), list[str]()
    change = read_override("train.lr_flow=1e-5")
    translate(change, problems, over=file)
    assert problems == []
    assert plain(change["train"]) == {"lr_mul": {"spynet": pytest.approx(0.05)}}


def test_nafnets_clipping_as_an_override_keeps_the_bound_that_is_there() -> None:
    problems: list[str] = []
    for file, expected in (("{clip_grad: {norm: 0.5}}", {}), ("{clip_grad: ~}", {"clip_grad": {"norm": 0.01}})):
        change = read_override("train.use_grad_clip=true")
        translate(change, problems, over=parse(f"train: {file}", "x.yml"))
        assert plain(change["train"]) == expected
    assert problems == []


@pytest.mark.parametrize(("model", "scale", "upscale"), [("SRModel", 2, 2), ("SRModel", 3, 4), ("ImageModel", 2, 4)])
def test_only_the_contradiction_of_basicsrs_rcan_is_mended(model: str, scale: int, upscale: int) -> None:
    text = f"model_type: {model}\nscale: {scale}\nnetwork_g: {{type: RCAN, upscale: 4}}"
    root, problems = parse(text, "x.yml"), list[str]()
    translate(root, problems)
    assert problems == []
    assert root["network_g"]["upscale"] == upscale


def test_nafnets_clipping_can_be_taken_away_and_given_by_an_override() -> None:
    problems: list[str] = []
    for word, clip in (("false", None), ("true", {"norm": 0.01})):
        change = read_override(f"train.use_grad_clip={word}")
        translate(change, problems, over=parse("train: {}", "x.yml"))
        assert plain(change["train"]) == {"clip_grad": clip}
    assert problems == []
