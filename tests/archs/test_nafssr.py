"""NAFSSR and NAFNetSR: official numbers and keys, the exchange between the views, and what they refuse."""

from typing import Any

import pytest
import torch
import torch.nn.attention
import torch.nn.functional as F
from golden.verify import build, check_outputs, manifest, model_ids, state_of
from torch import nn

import vsr.archs.stereo_fusion
from vsr.archs.nafssr import NAFSSR, SCAM, DropPath, NAFNetSR
from vsr.inference.complexity import peak_memory

SMALL: dict[str, Any] = {"width": 8, "num_blks": 2, "up_scale": 2}
LARGE = ["nafssr_S_x2", "nafssr_B_x2"]


def randomised(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


@pytest.mark.parametrize(
    "model_id",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE))
        for name in [*model_ids("nafssr"), *model_ids("nafnetsr")]
    ],
)
def test_keys_and_outputs_are_the_official_ones(model_id: str) -> None:
    network, facts = build(model_id), manifest(model_id)
    assert [list(entry) for entry in state_of(network)] == facts["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == facts["num_params"]
    check_outputs(network, model_id)
    for window, names in facts.get("tlc_kernel_sizes", {}).items():
        for name in (n for n in names if not n.startswith("...")):
            assert str(list(network.get_submodule(name).window)) == window


def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Cross attention along one row, (w, c) each, with all its weights at once."""
    return torch.softmax(query @ key.T * query.shape[1] ** -0.5, -1) @ value


def test_each_pixel_attends_to_its_row_in_the_other_view() -> None:
    scam = randomised(SCAM(4)).double()
    left, right = torch.randn(2, 2, 4, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        got = scam(left, right)
        queries = (scam.l_proj1(scam.norm_l(left)), scam.r_proj1(scam.norm_r(right)))
        values = (scam.l_proj2(left), scam.r_proj2(right))
        for own, other, view, factor in ((0, 1, left, scam.beta), (1, 0, right, scam.gamma)):
            for sample in range(2):
                for row in range(3):
                    q, k, v = (t[sample, :, row].T for t in (queries[own], queries[other], values[other]))
                    expected = view[sample, :, row] + attended(q, k, v).T * factor.view(4, 1)
                    torch.testing.assert_close(got[own][sample, :, row], expected)


def gradients(scam: SCAM, left: torch.Tensor, right: torch.Tensor) -> list[torch.Tensor]:
    """The gradients of all weights and of both views for a loss that weighs every output differently."""
    views = [view.clone().requires_grad_() for view in (left, right)]
    weights = torch.linspace(0, 1, left.numel(), dtype=left.dtype).view_as(left).cos()
    loss = sum((out * weights * (i + 1)).sum() for i, out in enumerate(scam(*views)))
    return list(torch.autograd.grad(loss, [*scam.parameters(), *views]))


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("rows", [1, 2, 5, 8])
def test_a_few_rows_at_a_time_give_the_same_results_and_gradients(rows: int, last: bool) -> None:
    whole, few = randomised(SCAM(4)).double(), SCAM(4, rows=rows).double()
    few.load_state_dict(whole.state_dict())
    layout = torch.channels_last if last else torch.contiguous_format
    left, right = (view.contiguous(memory_format=layout) for view in torch.randn(2, 2, 4, 5, 7, dtype=torch.float64))
    torch.testing.assert_close(few(left, right), whole(left, right), atol=1e-12, rtol=0)
    torch.testing.assert_close(gradients(few, left, right), gradients(whole, left, right), atol=1e-12, rtol=0)


def test_rows_are_taken_by_their_weights_where_no_gradient_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    scam, sizes = randomised(SCAM(4)), []
    attend = F.scaled_dot_product_attention

    def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        sizes.append(query.shape[1])
        return attend(query, key, value)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attended)
    monkeypatch.setattr(vsr.archs.stereo_fusion, "_WEIGHTS", 2 * 2 * 9 * 9)  # two rows of two pairs
    views = torch.randn(2, 2, 4, 5, 9)
    whole = scam(*views)
    assert sizes == [5, 5]
    sizes.clear()
    with torch.no_grad():
        torch.testing.assert_close(scam(*views), tuple(whole))
    assert sizes == [2, 2, 2, 2, 1, 1]
    sizes.clear()
    with torch.inference_mode():
        scam(*torch.randn(2, 2, 4, 3, 100))  # a row alone is more: it cannot be less
    assert sizes == [1] * 6


def test_memory_does_not_grow_with_all_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyTorch makes all weights, which it is forced to here, those of a few rows are all that there are."""
    views = [(1, 4, 48, 192)] * 2
    weights = 4 * 48 * 192 * 192  # bytes
    monkeypatch.setattr(vsr.archs.stereo_fusion, "_WEIGHTS", 4 * 192 * 192)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        whole, few = (peak_memory(SCAM(4, rows=rows), views) for rows in (48, None))
    assert whole > weights
    assert few < weights / 3
    # in blocks none are kept, whatever the layout of the views
    assert peak_memory(SCAM(4, rows=48), views) < weights / 3


def test_exchanging_views_and_their_weights_exchanges_the_results() -> None:
    scam, other = randomised(SCAM(4)), SCAM(4)
    swap = {"beta": "gamma", "gamma": "beta"}
    pairs = {"norm_l": "norm_r", "norm_r": "norm_l", "l_proj1": "r_proj1", "r_proj1": "l_proj1", "l_proj2": "r_proj2"}
    pairs["r_proj2"] = "l_proj2"
    renamed = {
        ".".join([(swap | pairs)[key.split(".")[0]], *key.split(".")[1:]]): v for key, v in scam.state_dict().items()
    }
    other.load_state_dict(renamed)
    left, right = torch.randn(2, 1, 4, 3, 5)
    for one, two in zip(scam(left, right), reversed(other(right, left)), strict=True):
        torch.testing.assert_close(one, two)


def test_without_detail_the_output_is_the_bilinear_picture_of_both_views() -> None:
    network = NAFSSR(**SMALL)
    nn.init.zeros_(network.up[0].weight)
    nn.init.zeros_(network.up[0].bias)
    x = torch.rand(2, 6, 5, 7)
    torch.testing.assert_close(network(x), F.interpolate(x, scale_factor=2, mode="bilinear"))


@pytest.mark.parametrize("fusion_to", [-1, 0, 1000])
def test_the_views_exchange_after_the_blocks_that_are_named(fusion_to: int) -> None:
    network, x = randomised(NAFSSR(**SMALL, fusion_to=fusion_to)), torch.rand(1, 6, 5, 7)
    fused = [block.module.fusion is not None for block in network.body]
    assert fused == [i <= fusion_to for i in range(2)]
    other = torch.cat((x[:, :3], torch.rand(1, 3, 5, 7)), 1)
    same = torch.equal(network(x)[:, :3], network(other)[:, :3])
    assert same == (fusion_to == -1)


def test_a_stereo_network_without_exchange_is_a_single_one_on_each_view() -> None:
    single = randomised(NAFNetSR(**SMALL))
    stereo = NAFNetSR(**SMALL, dual=True).eval()
    stereo.load_state_dict(single.state_dict())
    assert (single.kind, stereo.kind) == ("restoration", "stereo")
    x = torch.rand(2, 6, 5, 7)
    torch.testing.assert_close(stereo(x), torch.cat([single(view) for view in x.chunk(2, 1)], 1))


@pytest.mark.parametrize("dual", [False, True])
def test_pooling_is_local_where_it_is_asked_for(dual: bool) -> None:
    options = {**SMALL, "dual": dual, "fusion_from": 0, "fusion_to": 1 if dual else -1}
    plain = randomised(NAFNetSR(**options))
    for name, parameter in plain.named_parameters():
        if ".sca." in name:
            nn.init.normal_(parameter, std=3)
    local = NAFNetSR(**options, local={"train_size": [8, 12]}).eval()
    local.load_state_dict(plain.state_dict(), strict=True)
    x = torch.rand(1, 6 if dual else 3, 20, 30)
    assert not torch.allclose(local(x), plain(x), atol=1e-3)
    torch.testing.assert_close(local(x[..., :12, :18]), plain(x[..., :12, :18]))  # within one window
    if dual:
        official = NAFSSR(**SMALL, train_size=[1, 6, 8, 12]).eval()
        official.load_state_dict(plain.state_dict(), strict=True)
        assert torch.equal(local(x), official(x))


def test_channels_are_honoured() -> None:
    network = NAFSSR(**SMALL, img_channel=1)
    assert network(torch.rand(1, 2, 5, 7)).shape == (1, 2, 10, 14)


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_a_block_is_dropped_for_whole_samples_and_strengthened_otherwise() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(Doubled(), drop_rate=0.25, views=2), torch.ones(2000, 1, 2, 2)
    out = drop(x)  # x, or x + x / 0.75
    values = out[:, 0, 0, 0]
    assert torch.equal(out, values.view(-1, 1, 1, 1).expand_as(out))
    assert torch.equal(values[:1000], values[1000:])  # both views of a sample alike
    kept = values > 1
    torch.testing.assert_close(values[kept], torch.full_like(values[kept], 1 + 1 / 0.75))
    assert torch.equal(values[~kept], torch.ones_like(values[~kept]))
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.05)  # 1000 draws: 3.6 deviations
    assert torch.equal(drop.eval()(x), 2 * x)


def test_every_parameter_learns_even_when_its_block_is_dropped() -> None:
    torch.manual_seed(0)
    network = randomised(NAFSSR(**SMALL, drop_path_rate=0.9, drop_out_rate=0.5)).train()
    network(torch.rand(1, 6, 5, 7)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_dropout_is_for_training_only() -> None:
    network, x = randomised(NAFNetSR(**SMALL, drop_out_rate=0.5)), torch.rand(1, 3, 5, 7)
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drop_path_rate": 1.0}, "drop_path_rate: expected a probability from 0 to below 1, got 1.0"),
        ({"drop_out_rate": -0.1}, "drop_out_rate: expected a probability"),
        ({"num_blks": -1}, "num_blks: expected a number from 0 up, got -1"),
        ({"up_scale": 0}, "up_scale: expected a number from 1 up, got 0"),
        (
            {"fusion_block": {"type": "SCAM", "rows": 0}, "dual": True, "fusion_to": 9},
            "rows: expected a number from 1 up, got 0",
        ),
        ({"fusion_to": 3, "fusion_from": 0}, "fusion_from, fusion_to: expected -1 without dual: true"),
    ],
)
def test_arguments_that_make_no_network_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NAFNetSR(**(SMALL | arguments))


@pytest.mark.parametrize("shape", [(6, 8, 8), (1, 3, 8, 8), (1, 2, 3, 8, 8)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x: expected \(b, 6, h, w\), got"):
        NAFSSR(**SMALL)(torch.rand(shape))
