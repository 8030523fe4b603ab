"""Every shipped option file: loads, builds at full size, and a reduced copy trains, validates, resumes and tests.

The reduced copies run in a folder that has ``datasets/``, ``experiments/`` and ``options/``, so that they read and
write what the files name: only sizes and numbers of steps are changed.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import history, validations
from parameter_counts import COUNTS, memory_edvr
from recipe_data import COUNTS as IMAGES
from recipe_data import make_tree
from torch import Tensor

from vsr.config import Options, StageOptions, dump_options, load_options
from vsr.data import build_dataset
from vsr.engine.test import test as run_test
from vsr.engine.train import train
from vsr.models.weights import build_network
from vsr.registry import MODELS

ROOT = Path(__file__).parent.parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "options").rglob("*.yml"))

# Each network, data layout, kind of stage and kind of test once; the other files run with the slow tests.
QUICK = {
    "options/train/EDVR/edvr_m_x4_reds.yml",
    "options/train/EDVR/edvr_m_x4_vimeo90k_wotsa.yml",
    "options/train/EDVR/edvr_l_deblur_reds.yml",
    "options/train/BasicVSR/basicvsr_reds.yml",
    "options/train/BasicVSR/iconvsr_reds.yml",
    "options/train/BasicVSR/basicvsrpp_reds.yml",
    "options/train/MemoryEDVR/train2/128_concat_norm.yml",
    "options/train/MemoryEDVR/train3/nopcd.yml",
    "options/train/NAFNet/nafnet_w64_gopro.yml",
    "options/train/NAFNet/nafnet_w64_reds.yml",
    "options/train/NAFNet/baseline_w64_sidd.yml",
    "options/train/NAFSSR/nafssr_t_x4.yml",
    "options/train/EDSR/edsr_m_x3_div2k.yml",
    "options/train/RCAN/rcan_x2_div2k.yml",
    "options/train/RRDBNet/esrgan_x4_div2k.yml",
    "options/train/SwinIR/swinir_light_x2_div2k.yml",
    "options/train/MemoryPrediction/unet_spatial_weight_pixsim_charades.yml",
    "options/train/FMANet/stage2_reds_x4.yml",
    "options/demo/edvr_bunny_x4.yml",
    "options/test/EDVR/edvr_l_x4_vimeo90k.yml",
    "options/test/BasicVSR/basicvsr_vimeo90k_t_bi.yml",
    "options/test/BasicVSR/iconvsr_vid4_udm10_bd.yml",
    "options/test/NAFNet/nafnet_w32_gopro.yml",
    "options/test/NAFSSR/nafssr_t_x2.yml",
    "options/test/MSRResNet/msrresnet_x2.yml",
}
# Files of predictions differ by a few arguments, and come in pairs that differ by the set alone. Of them these run; the
# networks of the others take a step on a sample of theirs.
PREDICTIONS = [file for file in FILES if "/MemoryPrediction/" in file]
WHOLE_PREDICTIONS = {
    "options/train/MemoryPrediction/unet_spatial_weight_pixsim_charades.yml",
    "options/train/MemoryPrediction/unet_opticalflow_humaneva.yml",
    "options/train/MemoryPrediction/unet_wsupervised_humaneva.yml",
    "options/train/MemoryPrediction/resnet_pixsim_1by1_flat2d_stride2_humaneva.yml",
    "options/test/MemoryPrediction/unet_spatial_weight_pixwise_charades.yml",
    "options/test/MemoryPrediction/unet_opticalflow_humaneva.yml",
}
STEPS = [
    file for file in PREDICTIONS
    if file.startswith("options/train/") and file.endswith("_humaneva.yml") and file not in WHOLE_PREDICTIONS
]  # fmt: skip
RUNS = [
    file if file in QUICK else pytest.param(file, marks=pytest.mark.slow, id=file)
    for file in FILES
    if file not in PREDICTIONS or file in WHOLE_PREDICTIONS
]

# Local pooling finds its windows by a forward pass, which takes seconds where blocks are many.
BUILDS = [
    pytest.param(file, marks=pytest.mark.slow, id=file) if re.search(r"/nafssr_[sbl]_", file) else file
    for file in FILES
]

# Arguments of networks, as small as they may be.
SMALL: dict[str, object] = {
    "num_feat": 8, "deformable_groups": 2, "num_extract_block": 1, "num_reconstruct_block": 1, "num_block": 1,
    "width": 8, "num_blks": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1], "middle_blk_num": 1,
    "mid_channels": 8, "num_blocks": 1, "num_group": 1, "squeeze_factor": 4, "num_grow_ch": 4,
    "depths": [2], "num_heads": [2], "embed_dim": 8, "window_size": 4,
}  # fmt: skip
SMALL_FMANET: dict[str, object] = {
    "dim": 12, "ds_kernel_size": 6, "us_kernel_size": 3, "num_RDB": 1, "growth_rate": 4, "num_dense_layer": 1,
    "num_flow": 2, "num_FRMA": 1, "num_transformer_block": 1, "num_heads": 2,
}  # fmt: skip


def test_every_option_file_is_tested_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(FILES) >= QUICK | WHOLE_PREDICTIONS
    kinds = {kind: sum(file.startswith(f"options/{kind}/") for file in FILES) for kind in ("train", "test", "demo")}
    assert sum(kinds.values()) == len(FILES)
    assert kinds["train"] >= 60
    assert kinds["test"] >= 55
    assert kinds["demo"] >= 1
    with capsys.disabled():
        print(f"\n{len(FILES)} option files: {', '.join(f'{n} in options/{kind}' for kind, n in kinds.items())}")  # noqa: T201


def test_the_counts_by_hand_are_those_of_the_official_classes() -> None:
    manifests = [json.loads(path.read_text()) for path in (ROOT / "tests" / "golden" / "models").glob("*.json")]
    official = [manifest for manifest in manifests if manifest["arch"] in COUNTS]
    unpublished = {"FMANet", "MemoryPrediction", *(name for name in COUNTS if COUNTS[name] is memory_edvr)}
    assert {manifest["arch"] for manifest in official} == set(COUNTS) - unpublished
    published = load_options(ROOT / "options/train/FMANet/stage2_reds_x4.yml").network_g.as_option()
    assert COUNTS["FMANet"](published) == 9_766_503
    assert COUNTS["FMANet"]({**published, "stage": 1}) == 3_225_837
    for manifest in official:
        assert COUNTS[manifest["arch"]](manifest["kwargs"]) == manifest["num_params"], manifest["model_id"]


@functools.cache
def loaded(file: str) -> Options:
    return load_options(ROOT / file)


@functools.cache
def built(option: str) -> tuple[int, int]:
    """Return the number of parameters and the scale of a network, as written in JSON."""
    with torch.device("meta"):
        network = build_network(json.loads(option))
    return sum(parameter.numel() for parameter in network.parameters()), network.scale


@pytest.mark.parametrize("file", BUILDS)
def test_it_loads_and_its_network_has_at_full_size_as_many_parameters_as_it_should(file: str) -> None:
    options = loaded(file)
    network = options.network_g.as_option()
    counted = COUNTS[network["type"]](network)
    shape = {name: value for name, value in network.items() if name != "drop_path_rate"}
    assert built(json.dumps(shape)) == (counted, options.scale)


def test_published_sizes_are_those_of_the_files() -> None:
    """In millions: EDVR's (mmagic), NAFSSR's (NAFNet's page), SwinIR's (its paper, without tables of positions)."""
    published = {
        "train/EDVR/edvr_l_x4_reds.yml": 20.6,
        "train/NAFSSR/nafssr_t_x4.yml": 0.46,
        "train/NAFSSR/nafssr_s_x2.yml": 1.54,
        "train/NAFSSR/nafssr_s_x4.yml": 1.56,
        "train/NAFSSR/nafssr_b_x4.yml": 6.80,
        "train/NAFSSR/nafssr_l_x2.yml": 23.79,
        "train/NAFSSR/nafssr_l_x4.yml": 23.83,
        "train/SwinIR/swinir_light_x2_div2k.yml": 0.878,
        "train/SwinIR/swinir_light_x3_div2k.yml": 0.886,
        "train/SwinIR/swinir_light_x4_div2k.yml": 0.897,
    }
    for file, millions in published.items():
        network = load_options(ROOT / "options" / file).network_g
        tables = 24 * 6 * (2 * 8 - 1) ** 2 if network.type == "SwinIR" else 0  # blocks, heads, offsets in a window
        assert (COUNTS[network.type](network.args) - tables) / 1e6 == pytest.approx(millions, rel=2e-3), file


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of made-up data that all runs read."""
    root = tmp_path_factory.mktemp("datasets")
    make_tree(root)
    return root


@pytest.fixture
def place(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder for a run, with data in datasets/ and the option files in options/."""
    (tmp_path / "datasets").symlink_to(tree)
    (tmp_path / "options").symlink_to(ROOT / "options")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reduced(options: Options) -> list[str]:
    """Overrides that make a run a matter of a second."""
    small = SMALL_FMANET if options.network_g.type == "FMANet" else SMALL
    overrides = [f"network_g.{name}={value}" for name, value in small.items() if name in options.network_g.args]
    if options.network_g.type.endswith("Local"):
        overrides.append("network_g.train_size=[1, 3, 32, 32]")
    overrides += [f"datasets.{key}.num_worker_per_gpu=0" for key in options.datasets]
    if options.model_type == "PredictionModel":
        channels = [3, *[4] * (len(options.network_g.args["channels"]) - 2), 8]
        overrides += [f"network_g.channels={channels}", "network_g.embed_size=8"]
        overrides += [f"network_g.{side}=16" for side in "HW" if options.network_g.args[side]]
        sizes = {"W": 16, "H": 16, "frame_interval": 2}
        overrides += [f"datasets.{key}.{name}={value}" for key in options.datasets for name, value in sizes.items()]
        overrides.append("prediction.pictures=1")
    if options.train is None:
        return overrides
    section = options.datasets["train"].dataset
    side = 32 if options.scale == 1 else 8 * options.scale
    stereo = section.type == "PairedStereoImageDataset"
    sides = {"gt_size_h": side, "gt_size_w": 2 * side} if stereo else {"gt_size": side}
    sides = {} if options.model_type == "PredictionModel" else sides
    overrides += [f"datasets.train.{name}={value}" for name, value in sides.items()]
    overrides += ["datasets.train.batch_size_per_gpu=1", "datasets.train.dataset_enlarge_ratio=1"]
    if "Recurrent" in section.type and section.args["num_frame"] > 0:
        overrides.append("datasets.train.num_frame=3")
    if options.network_d is not None:
        overrides.append("network_d={type: UNetDiscriminatorSN, num_in_ch: 3, num_feat: 4}")  # of images of any size
    if "perceptual" in options.train.losses:
        overrides.append("train.losses.perceptual=null")  # wants weights of half a gigabyte
    return [
        *overrides, "train.total_iter=2", "val.val_freq=2", "logger.print_freq=1", "logger.save_checkpoint_freq=1",
        "logger.use_tb_logger=false", "val.val_at=[]",
    ]  # fmt: skip


def untrained(network: dict[str, Any], *, seed: int) -> dict[str, Tensor]:
    """Return the weights that a network of these options has if it reads no file."""
    torch.manual_seed(seed)
    return build_network({k: v for k, v in network.items() if k not in ("spynet_path", "edvr_path")}).state_dict()


def leave_weights(network: dict[str, Any], path: str) -> dict[str, Tensor]:
    """Save what a training of the network might have left; return it."""
    weights = untrained(network, seed=99)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"params": weights}, path)
    return weights


def what_it_starts_from(options: Options) -> dict[str, Tensor]:
    """Write the files that the option file names for a start; return the tensors that a run takes from them."""
    taken: dict[str, Tensor] = {}
    arguments = options.network_g.args
    if arguments.get("spynet_path"):
        weights = leave_weights({"type": "SpyNet"}, arguments["spynet_path"])
        taken |= {f"spynet.{name}": value for name, value in weights.items()}
    if arguments.get("edvr_path"):
        edvr = {"type": "EDVR", "num_feat": 8, "num_frame": 2 * arguments["temporal_padding"] + 1}
        weights = leave_weights({**edvr, "deformable_groups": 8, "num_extract_block": 5}, arguments["edvr_path"])
        taken |= {f"edvr.{name}": value for name, value in weights.items()}
    named = options.path.pretrain_network_g
    if isinstance(named, StageOptions):
        before = load_options(named.stage)
        assert before.train is not None
        network = load_options(named.stage, reduced(before)).network_g.as_option()
        number = "best" if named.weights == "best" else before.train.total_iter
        taken |= leave_weights(network, f"experiments/{before.name}/models/net_g_{number}.pth")
    return taken


@pytest.mark.parametrize("file", RUNS)
def test_a_reduced_copy_trains_validates_resumes_and_tests(file: str, place: Path) -> None:
    complete = load_options(file)
    (place / "copy.yml").write_text(dump_options(complete), encoding="utf-8")
    assert load_options("copy.yml") == complete
    overrides = reduced(complete)
    options = load_options(file, overrides)
    if options.train is None:
        file = options.path.pretrain_network_g or f"experiments/{options.name}/models/net_g_best.pth"
        leave_weights(options.network_g.as_option(), str(file))
    else:
        taken = what_it_starts_from(options)
        train(load_options(file, [*overrides, "train.total_iter=1"]))
        train(options)
        run = place / "experiments" / options.name
        assert sorted(history(run)) == [1, 2]
        assert {step for step, _ in validations(run)} == {1, 2}
        assert_taken(options, taken, run)
    tested = run_test(options)
    sets = {key: section for key, section in options.datasets.items() if key != "train"}
    assert {sets[key].name: len(records) for key, records in tested.items()} == {
        section.name: IMAGES[section.name] for section in sets.values()
    }
    assert all(3 < record.metrics["psnr"] < 60 for records in tested.values() for record in records)
    assert (place / "results" / options.name / "report.html").is_file()


def assert_taken(options: Options, taken: dict[str, Tensor], run: Path) -> None:
    """After two steps of Adam, each of which moves a weight by its rate at most, the weights are near those taken."""
    named = options.path.pretrain_network_g
    assert options.train is not None
    assert bool(taken) == (named is not None or bool(options.network_g.args.get("spynet_path")))
    weights = torch.load(run / "models" / "net_g_2.pth", weights_only=True)["params"]
    common = {name for name, value in taken.items() if name in weights and weights[name].shape == value.shape}
    if isinstance(named, StageOptions):
        assert common if options.path.strict_load_g else len(common) > len(weights) / 3
        assert not options.path.strict_load_g or common == set(weights)
    near = 2.1 * options.train.optim_g.args["lr"]
    assert [name for name in common if (weights[name] - taken[name]).abs().max() > near] == []
    own = untrained(options.network_g.as_option(), seed=options.manual_seed)
    far = [name for name in common if (own[name] - taken[name]).abs().max() > 2 * near]
    assert len(far) >= len(common) / 3  # a run that began by itself would have been found out


@pytest.mark.parametrize("file", STEPS)
def test_a_network_of_predictions_learns_from_a_sample_of_its_file(file: str, place: Path) -> None:
    options = load_options(file, reduced(load_options(file)))
    model = MODELS.build({"type": options.model_type}, options=options, device=torch.device("cpu"))
    for key, item in (("train", (0, 0)), ("val", 0)):
        dataset = build_dataset(options.datasets[key], scale=options.scale, seed=0, key=key)
        model.check_sample(dataset[item], f"datasets.{key}", train=key == "train")
        if key == "train":
            batch = torch.utils.data.default_collate([dataset[item]])
    before = {name: value.detach().clone() for name, value in model.network_g.named_parameters()}
    assert model.train_step([batch], 1)["total"].isfinite()
    still = [name for name, value in model.network_g.named_parameters() if torch.equal(value, before[name])]
    assert [name for name in still if name.endswith("weight")] == []


def test_files_of_predictions_come_in_pairs_that_differ_by_the_set_alone() -> None:
    def said(pair: str, name: str) -> str:
        text = dump_options(loaded(f"{pair}_{name.lower()}.yml")).replace(name, "SET")
        return re.sub(r"(samples_per_clip|val_freq): \d+", r"\1: some", text)  # Charades has many more clips

    pairs = {re.sub("_(humaneva|charades).yml", "", file) for file in PREDICTIONS}
    assert len(PREDICTIONS) == 2 * len(pairs)
    assert [pair for pair in sorted(pairs) if said(pair, "HumanEva") != said(pair, "Charades")] == []


def test_each_file_that_trains_predictions_has_one_that_tests_them() -> None:
    trained = {file for file in PREDICTIONS if file.startswith("options/train/")}
    assert {file.replace("/train/", "/test/") for file in trained} == set(PREDICTIONS) - trained
    for file in trained:
        before, after = loaded(file), loaded(file.replace("/train/", "/test/"))
        assert after.name == before.name  # whose best weights it takes
        assert after.network_g == before.network_g
        assert after.val.metrics == before.val.metrics
        assert after.prediction is not None
        assert before.prediction is not None
        assert after.prediction.test_type == before.prediction.test_type
        val, test = before.datasets["val"].dataset, after.datasets["test"].dataset
        other = {"partition": "test", "samples_per_clip": test.args["samples_per_clip"]}
        assert (test.type, test.args) == (val.type, {**val.args, **other})


def test_what_edvr_s_second_stage_takes_stays_as_it_is_while_tsa_alone_trains(place: Path) -> None:
    file = "options/train/EDVR/edvr_m_x4_reds.yml"
    options = load_options(file, reduced(load_options(file)))
    taken = what_it_starts_from(options)
    train(options)
    weights = torch.load(place / "experiments" / options.name / "models" / "net_g_2.pth", weights_only=True)["params"]
    changed = {name for name in weights if name not in taken or not torch.equal(weights[name], taken[name])}
    assert changed == {name for name in weights if name.startswith("fusion.")}


@pytest.mark.parametrize("size", ["m", "l"])
@pytest.mark.parametrize("data", ["reds", "vimeo90k"])
def test_the_two_stages_of_edvr_are_one_recipe(size: str, data: str) -> None:
    first, second = (
        load_options(ROOT / f"options/train/EDVR/edvr_{size}_x4_{data}{end}.yml") for end in ("_wotsa", "")
    )
    assert second.path.pretrain_network_g == StageOptions(stage=f"options/train/EDVR/edvr_{size}_x4_{data}_wotsa.yml")
    assert first.network_g.args == {**second.network_g.args, "with_tsa": False}
    assert first.datasets == second.datasets
    assert first.train is not None
    assert second.train is not None
    assert first.train.freeze is None
    assert second.train.freeze is not None
    assert second.train.freeze.until == 50000
