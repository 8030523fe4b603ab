"""Exported networks compute what the networks compute; what cannot be exported is listed, and says why."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import ROOT
from test_contracts import NAMES, OF_MEMORY_EDVR, build, sides
from torch import Tensor, nn

from vsr.inference import export
from vsr.inference.export import export_onnx, export_program, onnx_translations, save_program
from vsr.ops.deform_conv import ModulatedDeformConv2d

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

PYRAMID = "SpyNet resizes images to multiples of 32, which torch.export cannot follow for a size that it does not know"
PAIRS = "how many pairs of frames SpyNet takes at once depends on their size and on the batch"
LOCAL = "pools over a window that is smaller than large images only: other computations for other sizes"
VIEWS = "splits its batch into views, whose number torch.export cannot tell from an unknown batch"
# What is known not to work, and why; docs/export.md has it, too. An entry that is no longer true fails its test.
NO_DYNAMIC_SIZE = {
    "BasicVSR": PYRAMID,
    "BasicVSRPlusPlus": PYRAMID,
    "IconVSR": PYRAMID,
    "NAFSSR": LOCAL,
    "SpyNet": PYRAMID,
}
NO_DYNAMIC_BATCH = {"BasicVSR": PAIRS, "BasicVSRPlusPlus": PAIRS, "IconVSR": PAIRS, "NAFNetSR": VIEWS, "NAFSSR": VIEWS}
EXPORTED = [name for name in NAMES if name not in OF_MEMORY_EDVR]
# What stands in the way of these, or lets them through, is what does so in another one; to find out takes minutes.
LIKE_ANOTHER = {
    "BaselineLocal": "NAFNetLocal",
    "BasicVSRPlusPlus": "BasicVSR",
    "EDVR_PixSentence": "MemoryEDVR",
    "IconVSR": "BasicVSR",
}


def randomised(name: str) -> Any:
    """The small form of a network, with offsets that are not zero."""
    network = build(name)
    generator = torch.Generator().manual_seed(1)
    for key, parameter in network.named_parameters():
        if "conv_offset" in key:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    return network


def a_form(network: Any) -> dict[str, Any]:
    return {"num_frame": 3} if network.temporal == "clip" else {}


def run_onnx(path: Path, *inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return torch.from_numpy(session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))[0])


# ---- every network ----


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_every_network_becomes_a_program_and_an_onnx_model_of_one_size(name: str, tmp_path: Path) -> None:
    network = randomised(name)
    size = sides(network, multiples=(5, 3))
    program, report = export_program(network, size, **a_form(network))
    assert report.difference < 1e-5
    assert not any(node.op == "call_module" for node in program.graph.nodes)
    report = export_onnx(network, tmp_path / "a.onnx", size, **a_form(network))
    assert report.difference < 1e-4
    assert report.checked_by.startswith("onnxruntime")
    onnx.checker.check_model(onnx.load(tmp_path / "a.onnx"), full_check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXPORTED if name not in {"VGGStyleDiscriminator", *LIKE_ANOTHER}])
def test_every_network_becomes_an_onnx_model_of_any_size_but_those_listed(name: str, tmp_path: Path) -> None:
    network = randomised(name)
    least = -(-max(32, network.min_size) // 32) * 32
    arguments = {"size": (least, 2 * least), "dynamic": ["size"], **a_form(network)}
    if name in NO_DYNAMIC_SIZE:
        with pytest.raises(
            ValueError, match=f"{name}: expected a network that torch.export can trace with a dynamic size"
        ):
            export_onnx(network, tmp_path / "a.onnx", **arguments)
        return
    report = export_onnx(network, tmp_path / "a.onnx", **arguments)
    assert "height" in report.inputs[0]
    other = torch.rand(1, *((arguments.get("num_frame") or network.num_frame,) if network.temporal != "image" else ()),
                       6 if network.kind == "stereo" else 3, least + 3 * report.step, least + report.step)  # fmt: skip
    inputs = (other, other.flip(-1)) if network.kind == "flow" else (other,)
    with torch.no_grad():
        torch.testing.assert_close(run_onnx(tmp_path / "a.onnx", *inputs), network(*inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXPORTED if name not in LIKE_ANOTHER])
def test_every_network_becomes_a_program_of_any_batch_but_those_listed(name: str) -> None:
    network = randomised(name)
    arguments = {"size": sides(network, multiples=(5, 3)), "dynamic": ["batch"], **a_form(network)}
    if name in NO_DYNAMIC_BATCH:
        with pytest.raises(
            ValueError, match=f"{name}: expected a network that torch.export can trace with a dynamic batch"
        ):
            export_program(network, **arguments)
        return
    assert export_program(network, **arguments)[1].inputs[0].startswith("(batch, ")


def test_the_lists_of_limits_name_networks_that_there_are() -> None:
    assert {*NO_DYNAMIC_SIZE, *NO_DYNAMIC_BATCH, *LIKE_ANOTHER} <= set(NAMES)
    for limits in (NO_DYNAMIC_SIZE, NO_DYNAMIC_BATCH):
        assert all(limits.get(name) == limits.get(other) for name, other in LIKE_ANOTHER.items())


# ---- the deformable convolution ----

CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "of one group": ({}, True),
    "of several groups": ({"groups": 2, "deform_groups": 4}, True),
    "of uneven settings": ({"stride": (2, 1), "padding": (0, 3), "dilation": (1, 2), "kernel_size": (3, 2)}, True),
    "without bias": ({"bias": False, "deform_groups": 2}, True),
    "without mask (DCNv1)": ({"deform_groups": 2}, False),
    "without both": ({"bias": False}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_a_deformable_convolution_becomes_deform_conv(case: str, tmp_path: Path) -> None:
    settings, masked = CASES[case]
    torch.manual_seed(0)
    layer = ModulatedDeformConv2d(8, 4, **{"kernel_size": 3, "padding": 1, **settings}).eval()
    x = torch.randn(2, 8, 7, 9)
    taps = layer.deform_groups * layer.kernel_size[0] * layer.kernel_size[1]
    size = nn.Conv2d(8, 4, layer.kernel_size, layer.stride, layer.padding, layer.dilation)(x).shape[2:]
    offset = 4 * torch.randn(2, 2 * taps, *size)  # many leave the image
    inputs = (x, offset, torch.rand(2, taps, *size) if masked else None)
    made = torch.onnx.export(
        layer, inputs, dynamo=True, opset_version=19, custom_translation_table=onnx_translations(), verbose=False
    )
    made.save(tmp_path / "a.onnx")
    assert [node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node] == ["DeformConv"]
    given = [tensor for tensor in inputs if tensor is not None]
    with torch.no_grad():
        torch.testing.assert_close(run_onnx(tmp_path / "a.onnx", *given), layer(*inputs), rtol=1e-5, atol=1e-5)


def test_the_reference_evaluator_checks_where_there_is_no_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = ModulatedDeformConv2d(3, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            offset = (x.mean(1, keepdim=True) - 0.5) * torch.arange(-4.0, 5.0).repeat(2).view(1, 18, 1, 1)
            return self.layer(x, offset, None)

    report = export_onnx(Shifted(), tmp_path / "a.onnx", (4, 5))
    assert report.checked_by.startswith("onnx.reference")
    assert report.difference < 1e-5


# ---- what is told, kept and refused ----


def test_any_size_and_batch_are_named_in_the_file_and_work(tmp_path: Path) -> None:
    network = build("MSRResNet")
    report = export_onnx(network, tmp_path / "a.onnx", (8, 8), dynamic=["batch", "size"])
    assert report.inputs == ("(batch, 3, height, width)",)
    graph = onnx.load(tmp_path / "a.onnx").graph
    assert [axis.dim_param or axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim] == [
        "batch", 3, "height", "width",
    ]  # fmt: skip
    x = torch.rand(1, 3, 11, 5)
    with torch.no_grad():
        torch.testing.assert_close(run_onnx(tmp_path / "a.onnx", x), network(x), rtol=1e-4, atol=1e-5)


def test_a_program_is_saved_and_computes_the_same_when_loaded(tmp_path: Path) -> None:
    network = build("SRVGGNetCompact").train()
    program, report = export_program(network, (6, 7))
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert (report.inputs, report.step, report.opset) == (("(1, 3, 6, 7)",), 0, 0)
    save_program(program, tmp_path / "new" / "a.pt2")
    x = torch.rand(1, 3, 6, 7)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(tmp_path / "new" / "a.pt2").module()(x), network.eval()(x))


def test_sides_are_multiples_of_what_a_network_pads_to(tmp_path: Path) -> None:
    class Padding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(3, 8, 4, 4), nn.ConvTranspose2d(8, 3, 4, 4)

        def forward(self, x: Tensor) -> Tensor:
            height, width = x.shape[-2:]
            padded = nn.functional.pad(x, (0, -width % 4, 0, -height % 4))
            return self.up(self.down(padded))[..., :height, :width]

    assert export_program(Padding(), (8, 16), dynamic=["size"])[1].inputs == ("(1, 3, 4*height, 4*width)",)
    with pytest.raises(ValueError, match=r"size: expected multiples of 4, which the network pads its input to, got"):
        export_program(Padding(), (8, 15), dynamic=["size"])
    assert export_program(Padding(), (8, 15))[1].inputs == ("(1, 3, 8, 15)",)


class DependsOnValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0 else -x


class HasNoOperator(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        ("EDVR", {"size": (8, 6)}, r"size: expected \(height, width\) of multiples of 4, 4 or more, got \(8, 6\)"),
        ("EDVR", {"num_frame": 5}, "num_frame: expected 3, the window of the network, got 5"),
        ("MSRResNet", {"num_frame": 5}, "num_frame: expected none for a network of images, got 5"),
        ("MSRResNet", {"dynamic": ["frames"]}, "dynamic: expected batch and size, got frames"),
        ("MSRResNet", {"channels": 4}, r"MSRResNet: expected to run on \(1, 4, 8, 8\) before its export, but: x: exp"),
        ("MSRResNet", {"opset": 9}, "opset: expected 18 or more, got 9"),
        (DependsOnValues(), {}, "DependsOnValues: expected a network that torch.export can trace at a fixed size, but"),
        (HasNoOperator(), {}, "HasNoOperator: expected a network of operators that ONNX has, but: .*bessel_j0"),
    ],
)
def test_what_cannot_be_exported_is_told(network: Any, arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    network = build(network) if isinstance(network, str) else network
    with pytest.raises(ValueError, match=message):
        export_onnx(network, tmp_path / "a.onnx", **{"size": (8, 8), **arguments})
    assert not list(tmp_path.iterdir())


def test_a_clip_network_wants_the_number_of_its_frames() -> None:
    with pytest.raises(ValueError, match="num_frame: expected the frames of a clip, got none"):
        export_program(build("BasicVSR"), (8, 8))


def test_a_deformable_convolution_needs_opset_19(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.vsr.modulated_deform_conv2d(
                x, x[:, :2], None, x.new_ones(1, 3, 1, 1), None, [1, 1], [0, 0], [1, 1], 1, 1
            )

    with pytest.raises(ValueError, match="opset: expected 19 or more, the first with DeformConv, got 18"):
        export_onnx(Fixed(), tmp_path / "a.onnx", (8, 8), opset=18)


@pytest.mark.fault
def test_a_model_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = export._onnx_runner

    def wrong(content: bytes) -> Any:
        run, name = right(content)
        return lambda *x: [y + 1e-3 for y in run(*x)], name

    monkeypatch.setattr(export, "_onnx_runner", wrong)
    with pytest.raises(
        RuntimeError, match=r"MSRResNet: expected the ONNX model in onnxruntime .* to differ .* by 0.0001"
    ):
        export_onnx(build("MSRResNet"), tmp_path / "a.onnx", (8, 8))
    assert not list(tmp_path.iterdir())


@pytest.mark.fault
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"packages onnx and onnxscript: pip install -e '\.\[onnx\]'"):
        export_onnx(build("MSRResNet"), tmp_path / "a.onnx", (8, 8))


@pytest.mark.slow
def test_the_script_exports_a_checkpoint(tmp_path: Path) -> None:
    torch.save({"params": build("SRVGGNetCompact").state_dict()}, tmp_path / "net.pth")
    options = tmp_path / "a.yml"
    options.write_text(
        "{name: a, model_type: ImageModel, scale: 4, network_g: {type: SRVGGNetCompact, num_feat: 8, num_conv: 2}, "
        f"path: {{pretrain_network_g: {tmp_path}/net.pth}}}}"
    )

    def script(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts" / "export.py"), *arguments, "--size", "8", "12"]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)

    done = script("-opt", str(options), "a.onnx")
    assert done.returncode == 0, done.stderr
    assert "a.onnx: ONNX opset 20, input (1, 3, 8, 12), differs from the network by " in done.stdout
    assert (tmp_path / "a.onnx").is_file()
    refused = script("-opt", str(options), "a.bin")
    assert refused.returncode == 1
    assert "a.bin: expected a name that ends in .onnx or .pt2" in refused.stderr
    assert "Traceback" not in refused.stderr
