"""Blocks that NAFSSR may be made of, and the exchange of iPASSR as one of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vsr.archs.stereo_fusion
from vsr.archs.nafssr import NAFSSR, SCAM
from vsr.archs.stereo_fusion import BiPAM
from vsr.config import OptionError, dump_options, load_options
from vsr.models.weights import build_network
from vsr.registry import FUSIONS

SMALL: dict[str, Any] = {"width": 8, "num_blks": 2, "up_scale": 2}


def trained(relax: int = 2) -> BiPAM:
    """An exchange with weights that are not those of the beginning, where it does nothing."""
    torch.manual_seed(0)
    block = BiPAM(4, relax=relax).double()
    nn.init.ones_(block.beta)
    return block


def by_pixels(block: BiPAM, left: Tensor, right: Tensor) -> Tensor:
    """What the left view (c, w) of one row becomes, pixel by pixel as the paper has it."""
    c, w = left.shape
    marks = [block.match(block.norm(view[None, :, None]))[0, :, 0] for view in (left, right)]
    marks = [m - m.mean(1, keepdim=True) for m in marks]
    scores = marks[0].T @ marks[1] / c**0.5
    there, back = torch.softmax(scores, 1), torch.softmax(scores.T, 1)
    mixed = torch.empty_like(left)
    for i in range(w):
        near = range(max(0, i - block.relax), min(w, i + block.relax + 1))
        home = sum(there[n, j] * back[j, i] for n in near for j in range(w))
        seen = torch.tanh(5 * torch.as_tensor(home))
        mixed[:, i] = seen * (right @ there[i]) + (1 - seen) * left[:, i]
    return left + block.fuse(torch.cat((mixed, left))[None, :, None])[0, :, 0]


@pytest.mark.parametrize("relax", [0, 2])
def test_a_pixel_takes_what_both_views_see(relax: int) -> None:
    block = trained(relax)
    left, right = torch.randn(2, 2, 4, 3, 7, dtype=torch.float64)
    out, _ = block(left, right)
    expected = by_pixels(block, left[1, :, 2], right[1, :, 2])
    torch.testing.assert_close(out[1, :, 2], expected, atol=1e-12, rtol=0)


def test_mirrored_and_exchanged_views_give_mirrored_and_exchanged_results() -> None:
    block = trained()
    left, right = torch.randn(2, 1, 4, 3, 7, dtype=torch.float64)
    out_left, out_right = block(left, right)
    mirrored_right, mirrored_left = block(right.flip(-1), left.flip(-1))
    torch.testing.assert_close(mirrored_left.flip(-1), out_left, atol=1e-12, rtol=0)
    torch.testing.assert_close(mirrored_right.flip(-1), out_right, atol=1e-12, rtol=0)


def test_rows_are_taken_a_few_at_a_time_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    block = trained()
    views = torch.randn(2, 2, 4, 5, 7, dtype=torch.float64)
    whole = block(*views)
    monkeypatch.setattr(vsr.archs.stereo_fusion, "_WEIGHTS", 6 * 2 * 2 * 7 * 7)  # two rows of two pairs, six times
    taken: list[int] = []
    exchange = block._exchange
    monkeypatch.setattr(block, "_exchange", lambda *parts: taken.append(parts[0].shape[2]) or exchange(*parts))
    with torch.no_grad():
        torch.testing.assert_close(block(*views), tuple(whole), atol=1e-12, rtol=0)
    assert taken == [2, 2, 1]


def test_a_new_exchange_changes_nothing_and_learns() -> None:
    block = BiPAM(4)
    left, right = torch.randn(2, 1, 4, 3, 7)
    outputs = block(left, right)
    torch.testing.assert_close(outputs, (left, right), atol=0, rtol=0)
    sum(output.square().sum() for output in outputs).backward()
    assert block.beta.grad is not None
    assert block.beta.grad.abs().min() > 0


def test_blocks_are_chosen_by_name_and_the_usual_ones_keep_their_keys() -> None:
    usual = NAFSSR(**SMALL)
    same = build_network({"type": "NAFSSR", **SMALL, "extraction_block": "NAFBlock", "fusion_block": {"type": "SCAM"}})
    assert list(same.state_dict()) == list(usual.state_dict())
    assert isinstance(usual.get_submodule("body.0.module.fusion"), SCAM)
    other = NAFSSR(
        **SMALL, extraction_block={"type": "NAFBlock", "attention": "eca"}, fusion_block={"type": "BiPAM", "relax": 1}
    )
    fusion = other.get_submodule("body.1.module.fusion")
    assert isinstance(fusion, BiPAM)
    assert fusion.relax == 1
    assert other(torch.rand(1, 6, 9, 11)).shape == (1, 6, 18, 22)


def test_a_block_of_ones_own_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FUSIONS, "_entries", dict(FUSIONS._entries))

    class Swap(nn.Module):
        def __init__(self, *, channels: int) -> None:
            super().__init__()
            self.channels = channels

        def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
            return right, left

    FUSIONS.register(Swap)
    plain = {"type": "NAFBlock", "attention": "none"}  # nothing to pool locally, then
    swapping = NAFSSR(**SMALL, fusion_block="Swap", extraction_block=plain)
    still = NAFSSR(**SMALL, fusion_to=-2, extraction_block=plain)
    still.load_state_dict(swapping.state_dict())
    pair = torch.rand(1, 6, 8, 8)
    torch.testing.assert_close(swapping(pair), still(pair))  # after two blocks each view is where it was


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("SCAMM", r"fusion_block=SCAMM: expected the name of a fusion, .*got 'SCAMM'\. Did you mean 'SCAM'\?"),
        ("NAFBlock", "fusion_block=NAFBlock: expected the name of a fusion"),
        ("3", "fusion_block=3: expected the name of a fusion, or a mapping with a 'type', got 3"),
        ("{relax: 2}", "fusion_block.type: expected the name of a fusion, got nothing"),
        (
            "{type: BiPAM, relaxx: 2}",
            r"fusion_block.relaxx: not an argument of the fusion BiPAM\. Did you mean 'relax'",
        ),
        ("{type: BiPAM, relax: yes}", "fusion_block.relax: expected int, got 'yes'"),
        ("{type: BiPAM, channels: 8}", "fusion_block.channels: not an argument of the fusion BiPAM"),
    ],
)
def test_an_option_file_is_told_of_it_with_all_other_mistakes(block: str, message: str) -> None:
    file = Path(__file__).parents[2] / "options/train/NAFSSR/nafssr_t_x4.yml"
    with pytest.raises(OptionError, match=message):
        load_options(file, [f"network_g.fusion_block={block}"])


def test_an_option_file_may_choose(tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "options/train/NAFSSR/nafssr_t_x4.yml"
    options = load_options(
        file, ["network_g.fusion_block={type: BiPAM}", "network_g.extraction_block=NAFBlock", "network_g.num_blks=1"]
    )
    assert options.network_g.args["fusion_block"] == {"type": "BiPAM", "relax": 2}
    copy = tmp_path / "copy.yml"
    copy.write_text(dump_options(options))
    assert load_options(copy) == options
    with torch.device("meta"):
        assert isinstance(build_network(options.network_g.as_option()).get_submodule("body.0.module.fusion"), BiPAM)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fusion_block": "SCAN"}, r"unknown fusion 'SCAN'\. Did you mean 'SCAM'\?"),
        ({"fusion_block": {"type": "BiPAM", "relaxed": 1}}, "BiPAM: 'relaxed' is not an argument of this fusion"),
        ({"fusion_block": {"type": "BiPAM", "relax": -1}}, "relax"),
        ({"extraction_block": {"attention": "eca"}}, "block: expected a 'type', got None"),
    ],
)
def test_a_block_that_is_not_there_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NAFSSR(**SMALL, **arguments)
