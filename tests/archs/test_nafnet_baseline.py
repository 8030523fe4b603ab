"""Baseline: official numbers and keys, and what it refuses."""

from typing import Any

import pytest
import torch
from golden.verify import build, check_outputs, manifest, model_ids, state_of

from vsr.archs.nafnet_baseline import Baseline

SMALL: dict[str, Any] = {"width": 8, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}


@pytest.mark.parametrize(
    "model_id",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "baseline_gopro_w32")) for name in model_ids("baseline")],
)
def test_keys_and_outputs_are_the_official_ones(model_id: str) -> None:
    network, facts = build(model_id), manifest(model_id)
    assert [list(entry) for entry in state_of(network)] == facts["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == facts["num_params"]
    check_outputs(network, model_id)
    for window, names in facts.get("tlc_kernel_sizes", {}).items():
        assert all(str(list(network.get_submodule(name).window)) == window for name in names)


def test_the_gopro_network_has_the_official_number_of_parameters() -> None:
    with torch.device("meta"):
        network = Baseline(width=32, enc_blk_nums=[1, 1, 1, 28], middle_blk_num=1, dec_blk_nums=[1, 1, 1, 1])
    assert sum(p.numel() for p in network.parameters()) == 17_023_875


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (8, 3)])
def test_any_size_number_of_channels_and_width_inside_passes(size: tuple[int, int]) -> None:
    network = Baseline(**SMALL, img_channel=1, dw_expand=2, ffn_expand=3).eval()
    assert network(torch.rand(2, 1, *size)).shape == (2, 1, *size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dec_blk_nums": []}, r"dec_blk_nums: expected as many levels as enc_blk_nums has \(2\), got 0"),
        ({"dw_expand": 0}, "dw_expand: expected a number from 1 up, got 0"),
        ({"width": 1}, "width: expected 2 or more"),
        ({"local": {"train_size": 256}}, "local: expected train_size"),
    ],
)
def test_arguments_that_make_no_network_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Baseline(**(SMALL | arguments))
