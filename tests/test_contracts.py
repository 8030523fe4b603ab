"""What every registered network and every registered loss must do, whatever else it does."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vsr.archs.blocks import checkpoint_activations
from vsr.registry import LOSSES, NETWORKS

# The smallest sensible form of each network: a new one needs its line here, and gets all tests below.
SMALL: dict[str, dict[str, Any]] = {
    "EDVR": {"num_feat": 8, "num_frame": 3, "deformable_groups": 2, "num_extract_block": 1, "num_reconstruct_block": 1},
    "MSRResNet": {"num_feat": 8, "num_block": 2},
}
IN_CHANNELS = 3
NAMES = sorted(NETWORKS.table)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS.build({"type": name, **SMALL[name]}).eval()


def sides(network: Any, *, multiples: tuple[int, int]) -> tuple[int, int]:
    """The sides that are these multiples of what the network wants, and not too small for it."""
    first, second = (max(m * network.size_multiple, network.min_size) for m in multiples)
    return first, second


def an_input(network: Any, *, batch: int = 2, multiples: tuple[int, int] = (5, 3)) -> Tensor:
    """A batch of images, or of windows or clips of them: (b, [t,] 3, h, w) of the smallest odd sizes."""
    frames = {"image": (), "window": (getattr(network, "num_frame", 0),), "clip": (3,)}[network.temporal]
    return torch.rand(batch, *frames, IN_CHANNELS, *sides(network, multiples=multiples))


def expected_shape(network: Any, x: Tensor) -> tuple[int, ...]:
    leading = x.shape[:-3] if network.temporal == "clip" else x.shape[:1]
    return (*leading, IN_CHANNELS, network.scale * x.shape[-2], network.scale * x.shape[-1])


def test_every_network_has_a_small_form_here() -> None:
    assert sorted(SMALL) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("multiples", [(1, 1), (5, 3), (2, 7)])
def test_the_output_has_the_size_that_the_network_states(name: str, multiples: tuple[int, int]) -> None:
    network = build(name)
    x = an_input(network, multiples=multiples)
    with torch.no_grad():
        out = network(x)
    assert out.shape == expected_shape(network, x)
    assert out.dtype == torch.float32
    assert out.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_size_between_the_multiples_is_refused(name: str) -> None:
    network: Any = build(name)
    if network.size_multiple == 1:
        assert network(an_input(network)[..., :-1]).isfinite().all()
        return
    with pytest.raises(ValueError, match=f"multiples of {network.size_multiple}"):
        network(an_input(network)[..., :-1])


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    network = build(name).train()
    network(an_input(network)).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", NAMES)
def test_recomputed_activations_give_the_same_gradients_and_keep_less(name: str) -> None:
    plain, recomputing = build(name).train(), build(name).train()
    checkpoint_activations(recomputing)
    x = an_input(plain)
    kept: dict[nn.Module, int] = {}
    for network in (plain, recomputing):
        saved: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            out = network(x)
        kept[network] = sum(t.nbytes for t in {id(t): t for t in saved}.values())
        out.square().sum().backward()
    for (parameter, value), other in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(other.grad, value.grad, rtol=1e-5, atol=1e-6, msg=parameter)
    assert list(recomputing.state_dict()) == list(plain.state_dict())
    assert kept[recomputing] < kept[plain]


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_samples_one_by_one(name: str) -> None:
    network = build(name)
    x = an_input(network, batch=3)
    with torch.no_grad():
        torch.testing.assert_close(network(x), torch.cat([network(one[None]) for one in x]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_makes_an_equal_network(name: str) -> None:
    network, other = build(name), build(name)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    other.load_state_dict(network.state_dict(), strict=True)
    x = an_input(network)
    with torch.no_grad():
        assert torch.equal(network(x), other(x))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_the_network_changes_neither_its_input_nor_its_state(name: str) -> None:
    network = build(name)
    x = an_input(network)
    x_before, before = x.clone(), {k: v.clone() for k, v in network.state_dict().items()}
    with torch.no_grad():
        network(x)
    assert torch.equal(x, x_before)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "converted"])
def test_bfloat16_is_near_float32(name: str, autocast: bool) -> None:
    network = build(name)
    x = an_input(network)
    with torch.no_grad():
        expected = network(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = network(x) if autocast else network.bfloat16()(x.bfloat16())
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_compiles_into_one_graph(name: str) -> None:
    network = build(name)
    x = an_input(network, batch=1)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_builds_without_memory_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        network = NETWORKS.build({"type": name, **SMALL[name]})
    assert {p.device.type for p in network.parameters()} == {"meta"}


# Where each loss is least: 0 at equality, but for the roots of eps and for PSNR in dB.
FLOORS = {"CharbonnierLoss": 1e-6, "PSNRLoss": -80.0}


def loss(name: str) -> nn.Module:
    return LOSSES.build({"type": name})


@pytest.mark.parametrize("name", sorted(LOSSES.table))
def test_a_loss_is_least_for_equal_images(name: str) -> None:
    torch.manual_seed(0)
    target = torch.rand(2, 3, 8, 8)
    floor = loss(name)(target.clone(), target).item()
    assert floor == pytest.approx(FLOORS.get(name, 0.0), rel=1e-3, abs=1e-7)
    for error in (0.01, 0.1):
        assert loss(name)(target + error * torch.randn_like(target), target).item() > floor


@pytest.mark.parametrize("name", sorted(LOSSES.table))
@pytest.mark.parametrize("error", [0.0, 0.1])
def test_a_loss_has_a_finite_gradient_even_at_equality(name: str, error: float) -> None:
    target = torch.rand(2, 3, 8, 8)
    restored = (target + error).requires_grad_()
    loss(name)(restored, target).backward()
    assert restored.grad is not None
    assert restored.grad.isfinite().all()
    assert bool(restored.grad.any()) == bool(error)


@pytest.mark.parametrize("name", sorted(LOSSES.table))
@pytest.mark.parametrize("shape", [(2, 3, 8, 1), (1, 3, 8, 8), (3, 8, 8)])
def test_a_loss_refuses_unlike_shapes(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"8, 8"):
        loss(name)(torch.rand(shape), torch.rand(2, 3, 8, 8))
