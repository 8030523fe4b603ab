"""NAFNet: official numbers and keys, the variants, and what it refuses."""

from typing import Any

import pytest
import torch
from golden.verify import build, check_outputs, manifest, model_ids, state_of

from vsr.archs.nafnet import NAFNet

SMALL: dict[str, Any] = {"width": 8, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}


@pytest.mark.parametrize("model_id", model_ids("nafnet_"))
def test_keys_and_outputs_are_the_official_ones(model_id: str) -> None:
    network = build(model_id)
    assert [list(entry) for entry in state_of(network)] == manifest(model_id)["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == manifest(model_id)["num_params"]
    check_outputs(network, model_id)


def test_the_gopro_network_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = NAFNet(width=32, enc_blk_nums=[1, 1, 1, 28], middle_blk_num=1, dec_blk_nums=[1, 1, 1, 1])
    assert sum(p.numel() for p in network.parameters()) == 17_111_907
