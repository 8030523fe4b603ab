"""SwinIR: official numbers and keys, any size, its masks and its training, and what it refuses."""

import copy
import zlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden.verify import build, check_outputs, manifest, model_ids, state_of

from vsr.archs.swinir import DropPath, SwinIR, SwinTransformerBlock, shifted_window_mask, to_windows


@pytest.mark.parametrize("model_id", model_ids("swinir"))
def test_keys_and_outputs_are_the_official_ones(model_id: str) -> None:
    network = build(model_id)
    assert [list(entry) for entry in state_of(network)] == manifest(model_id)["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == manifest(model_id)["num_params"]
    check_outputs(network, model_id)


SMALL: dict[str, Any] = {
    "img_size": 8,
    "embed_dim": 8,
    "depths": [2],
    "num_heads": [2],
    "window_size": 4,
    "upscale": 2,
    "upsampler": "pixelshuffle",
}


@pytest.mark.parametrize("model_id", model_ids("swinir"))
def test_the_buffers_that_the_constructor_makes_are_the_official_ones(model_id: str) -> None:
    state = build(model_id).state_dict()
    for key, crc in manifest(model_id)["kept_buffers_crc32"].items():
        assert zlib.crc32(state[key].numpy().tobytes()) == crc, key


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (20, 4)])
def test_attention_of_shifted_windows_is_that_of_the_whole_mask(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block = build("swinir_denoise").layers[0].residual_group.blocks[1]
    assert isinstance(block, SwinTransformerBlock)
    x = torch.randn(2, *size, 16)
    # the plain way: a mask for each window, made for this very size, and a softmax written out
    rolled = to_windows(block.norm1(x).roll((-2, -2), (1, 2)), 4)  # (2 * number, 16, 16)
    mask = shifted_window_mask(size[0] // 4, size[1] // 4, 4, 2).repeat(2, 1, 1)
    attention = block.attn
    q, k, v = attention.qkv(rolled).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    bias = attention.relative_position_bias_table[attention.relative_position_index].permute(2, 0, 1)
    weights = (q @ k.transpose(2, 3) / 8**0.5 + bias + mask[:, None]).softmax(3)
    expected = attention.proj((weights @ v).transpose(1, 2).flatten(2))
    got = to_windows(block._shifted(block.norm1(x)).roll((-2, -2), (1, 2)), 4)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("upsampler", ["", None, "pixelshuffle", "pixelshuffledirect", "nearest+conv"])
def test_an_odd_size_is_padded_by_its_mirror_image_and_cropped(upsampler: Any) -> None:
    torch.manual_seed(0)
    network = SwinIR(**SMALL | {"upsampler": upsampler}).eval()
    x = torch.rand(1, 3, 7, 10)
    padded = F.pad(x, (0, 2, 0, 1), mode="reflect")
    scale = 2 if upsampler else 1
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(padded)[..., : 7 * scale, : 10 * scale])
    assert network.scale == scale


@pytest.mark.parametrize(
    "arguments",
    [
        {"resi_connection": "3conv"},
        {"ape": True},
        {"patch_norm": False, "qkv_bias": False, "qk_scale": 0.3},
        {"in_chans": 1, "img_range": 255.0},
        {"img_size": 3},  # one window, never shifted
        {"img_size": [8, 12], "upsampler": "pixelshuffledirect", "upscale": 3},
        {"upsampler": "nearest+conv", "upscale": 4},
    ],
)
def test_other_forms_train(arguments: dict[str, Any]) -> None:
    network = SwinIR(**SMALL | arguments | {"drop_rate": 0.1, "attn_drop_rate": 0.1})
    x = torch.rand(2, network.in_chans, 9, 11)
    out = network(x)
    assert out.shape == (2, network.in_chans, 9 * network.scale, 11 * network.scale)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_img_size_counts_patches() -> None:
    patched, plain = SwinIR(**SMALL | {"img_size": 17, "patch_size": 2}), SwinIR(**SMALL)
    assert SMALL["img_size"] == 8
    assert list(patched.state_dict()) == list(plain.state_dict())
    patched.load_state_dict(plain.state_dict(), strict=True)
    x = torch.rand(1, 3, 8, 12)
    torch.testing.assert_close(patched.eval()(x), plain.eval()(x), rtol=0, atol=0)


def test_absolute_positions_are_used_as_they_are_at_the_training_size() -> None:
    torch.manual_seed(0)
    network = SwinIR(**SMALL, ape=True).eval()
    plain = SwinIR(**SMALL).eval()
    plain.load_state_dict(network.state_dict(), strict=False)
    x = torch.rand(1, 3, 8, 8)
    assert network.absolute_pos_embed.shape == (1, 64, 8)
    assert not torch.allclose(network(x), plain(x))
    torch.nn.init.zeros_(network.absolute_pos_embed)
    assert torch.equal(network(x), plain(x))


def test_dropped_paths_are_made_good_on_average() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    out = drop(torch.ones(4000, 1, 1, 2))
    torch.testing.assert_close(out.flatten(1).unique(dim=0), torch.tensor([[0.0, 0.0], [4 / 3, 4 / 3]]))  # as a whole
    assert out.mean().item() == pytest.approx(1, abs=0.04)
    assert torch.equal(drop.eval()(out), out)


def test_the_rate_of_dropped_paths_rises_from_block_to_block() -> None:
    network = SwinIR(**SMALL | {"depths": [2, 3], "num_heads": [2, 2]}, drop_path_rate=0.2)
    rates = [m.drop_path.probability for m in network.modules() if isinstance(m, SwinTransformerBlock)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_use_checkpoint_keeps_less_and_gives_the_same() -> None:
    kept = []
    for use_checkpoint in (False, True):
        torch.manual_seed(0)
        network = SwinIR(**SMALL | {"upsampler": ""}, use_checkpoint=use_checkpoint)
        saved: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            out = network(torch.rand(1, 3, 8, 8))
        kept.append((out, sum(t.nbytes for t in saved)))
    assert torch.equal(kept[0][0], kept[1][0])
    assert kept[1][1] < 0.7 * kept[0][1]


def test_a_copy_of_a_network_that_recomputes_is_a_network_of_its_own() -> None:
    network = SwinIR(**SMALL, use_checkpoint=True)
    copied = copy.deepcopy(network)  # as the moving average of the weights is made
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    copied(torch.rand(1, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None for p in copied.parameters())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": [2, 2]}, "num_heads: expected one number for each of the 1 groups of depths, got 2"),
        ({"num_heads": [3]}, r"num_heads: expected divisors of embed_dim \(8\), got \[3\]"),
        ({"depths": [], "num_heads": []}, "expected one number for each of the 0 groups"),
        ({"upsampler": "pixelshufle"}, "upsampler: expected '', 'pixelshuffle', .* got 'pixelshufle'"),
        ({"upsampler": "nearest+conv", "upscale": 3}, r"upscale: expected 2 or 4 with upsampler nearest\+conv, got 3"),
        ({"upscale": 5}, "upscale: expected 3 or a power of 2, got 5"),
        ({"resi_connection": "2conv"}, "resi_connection: expected '1conv' or '3conv', got '2conv'"),
        ({"img_size": [8, 8, 8]}, r"img_size: expected a number, or height and width, got \[8, 8, 8\]"),
        ({"patch_size": 0}, "patch_size: expected a number from 1 up, got 0"),
        ({"img_size": [8, 0]}, "img_size: expected a number from 1 up, got 0"),
        ({"mlp_ratio": 0.1}, r"mlp_ratio: expected 1 / embed_dim \(1 / 8\) or more, got 0\.1"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate: expected a number from 0 to less than 1, got 1\.0"),
        ({"attn_drop_rate": -0.1}, r"attn_drop_rate: expected a number from 0 to less than 1, got -0\.1"),
        ({"window_size": 0}, "window_size: expected a number from 1 up, got 0"),
        ({"img_range": 0.0}, "img_range: expected a number greater than 0, got 0"),
    ],
)
def test_arguments_that_make_no_network_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SwinIR(**SMALL | arguments)
