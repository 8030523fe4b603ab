"""The perceptual loss against a VGG that is written out, with random weights, and where its weights come from."""

import http.server
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vsr import losses
from vsr.losses import perceptual
from vsr.losses.perceptual import VGGFeatures
from vsr.utils.files import sha256

# Index of each convolution in torchvision's vgg19.features and vgg16.features, with its channels.
VGG19 = {
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256),
    16: (256, 256), 19: (256, 512), 21: (512, 512), 23: (512, 512), 25: (512, 512), 28: (512, 512), 30: (512, 512),
    32: (512, 512), 34: (512, 512),
}  # fmt: skip
VGG16 = {
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256),
    17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512),
}  # fmt: skip


def random_weights(convolutions: dict[int, tuple[int, int]], last: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    weights = {}
    for index, (inputs, outputs) in convolutions.items():
        if index <= last:
            weights[f"features.{index}.weight"] = torch.randn(outputs, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5
            weights[f"features.{index}.bias"] = 0.1 * torch.randn(outputs)
    return weights | {"classifier.0.bias": torch.zeros(4096)}  # a whole VGG has more than is needed


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Any]:
    """An option of the loss on the first two blocks."""
    torch.save(random_weights(VGG19, 7), tmp_path / "vgg.pth")
    layers = {"conv1_2": 0.1, "relu2_1": 1.0, "conv2_2": 0.5}
    return {"type": "PerceptualLoss", "layer_weights": layers, "weights": str(tmp_path / "vgg.pth")}


def small_features(weights: dict[str, Tensor], image: Tensor) -> dict[str, Tensor]:
    """The outputs of ``small``'s layers, step by step."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (image - mean.view(3, 1, 1)) / std.view(3, 1, 1)

    def conv(x: Tensor, index: int) -> Tensor:
        return F.conv2d(x, weights[f"features.{index}.weight"], weights[f"features.{index}.bias"], padding=1)

    conv1_2 = conv(conv(x, 0).relu(), 2)
    relu2_1 = conv(F.max_pool2d(conv1_2.relu(), 2), 5).relu()
    return {"conv1_2": conv1_2, "relu2_1": relu2_1, "conv2_2": conv(relu2_1, 7)}


def distance(a: Tensor, b: Tensor, criterion: str) -> Tensor:
    return {"l1": F.l1_loss, "l2": F.mse_loss, "fro": lambda a, b: (a - b).square().sum().sqrt()}[criterion](a, b)


def gram(x: Tensor) -> Tensor:
    return torch.einsum("bchw,bdhw->bcd", x, x) / x[0].numel()


@pytest.mark.parametrize("criterion", ["l1", "l2", "fro"])
def test_values_and_gradients_are_those_of_the_formula(small: dict[str, Any], criterion: str) -> None:
    weights = torch.load(small["weights"], weights_only=True)
    pred, target = torch.rand(2, 2, 3, 12, 10)
    mine, theirs = pred.clone().requires_grad_(), pred.clone().requires_grad_()
    loss = losses.build({**small, "perceptual_weight": 0.5, "style_weight": 20.0, "criterion": criterion})
    parts = loss.parts(mine, target)
    value = loss(mine, target)
    value.backward()

    a, b = small_features(weights, theirs), small_features(weights, target)
    features = sum(w * distance(a[k], b[k], criterion) for k, w in small["layer_weights"].items())
    style = sum(w * distance(gram(a[k]), gram(b[k]), criterion) for k, w in small["layer_weights"].items())
    (0.5 * features + 20 * style).backward()
    assert list(parts) == ["perceptual", "style"]
    torch.testing.assert_close(parts["perceptual"], 0.5 * features, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(parts["style"], 20 * style, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(value, parts["perceptual"] + parts["style"])
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5 * theirs.grad.abs().max().item())


def test_terms_without_weight_are_left_out(small: dict[str, Any]) -> None:
    images = torch.rand(2, 1, 3, 8, 8)
    assert list(losses.build(small).parts(*images)) == ["perceptual"]
    assert list(losses.build({**small, "perceptual_weight": 0, "style_weight": 1.0}).parts(*images)) == ["style"]


def test_images_in_another_range_are_brought_to_the_usual_one(small: dict[str, Any]) -> None:
    pred, target = torch.rand(2, 1, 3, 8, 8)
    value = losses.build({**small, "range_norm": True})(2 * pred - 1, 2 * target - 1)
    torch.testing.assert_close(value, losses.build(small)(pred, target), rtol=1e-4, atol=1e-6)


def test_without_the_norm_of_the_input_the_images_go_in_as_they_are(small: dict[str, Any]) -> None:
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    pred, target = torch.rand(2, 1, 3, 8, 8)
    value = losses.build({**small, "use_input_norm": False})((pred - mean) / std, (target - mean) / std)
    torch.testing.assert_close(value, losses.build(small)(pred, target), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("vgg_type", "convolutions"), [("vgg19", VGG19), ("vgg16", VGG16)])
def test_the_keys_and_shapes_are_torchvisions(vgg_type: Any, convolutions: dict[int, tuple[int, int]]) -> None:
    with torch.device("meta"):
        network = VGGFeatures(vgg_type, ["pool5"])
    expected = {}
    for index, (inputs, outputs) in convolutions.items():
        expected[f"features.{index}.weight"] = (outputs, inputs, 3, 3)
        expected[f"features.{index}.bias"] = (outputs,)
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == expected
    last = f"conv5_{4 if vgg_type == 'vgg19' else 3}"
    assert network.names[max(convolutions)] == last
    assert network.least_side == 32


@pytest.mark.parametrize("layer", ["conv5_4", "relu5_4"])
def test_a_convolutions_output_is_taken_before_its_relu(layer: str) -> None:
    torch.manual_seed(0)
    network = VGGFeatures("vgg19", [layer])
    output = network(torch.rand(1, 3, 16, 16))[layer]
    assert output.shape == (1, 512, 1, 1)
    assert bool((output < 0).any()) == (layer == "conv5_4")


def test_the_vgg_does_not_learn(small: dict[str, Any]) -> None:
    loss = losses.build(small)
    assert [name for name, p in loss.named_parameters() if p.requires_grad] == []
    target = torch.rand(1, 3, 8, 8, requires_grad=True)
    loss(torch.rand(1, 3, 8, 8, requires_grad=True), target).backward()
    assert target.grad is None


def test_weights_that_are_nowhere_are_named_with_all_that_helps(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "cache" / "weights" / "vgg19-dcbb9e9d.pth"
    with pytest.raises(FileNotFoundError) as caught:
        losses.build({**small, "weights": None})
    message = str(caught.value)
    for part in (str(own), "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth", "SHA-256 begins with dcbb9e9d"):
        assert part in message
    assert str(tmp_path / "torch" / "hub" / "checkpoints" / own.name) in message


@pytest.mark.parametrize("place", ["cache/weights", "torch/hub/checkpoints", "experiments/pretrained_models"])
def test_weights_are_found_where_they_are_kept_and_checked(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("VSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    digest = sha256(Path(small["weights"]))
    monkeypatch.setitem(perceptual._FILES, "vgg19", f"vgg19-{digest[:8]}.pth")
    (tmp_path / place).mkdir(parents=True)
    kept = Path(small["weights"]).rename(tmp_path / place / f"vgg19-{digest[:8]}.pth")
    images = torch.rand(2, 1, 3, 8, 8)
    found = losses.build({**small, "weights": None})
    assert found(*images) == losses.build({**small, "weights": str(kept)})(*images)
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"expected a file whose SHA-256 begins with {digest[:8]}, got .*Delete it"):
        losses.build({**small, "weights": None})


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x80\x02cos\nsystem\n."])
def test_a_file_that_is_no_checkpoint_is_refused(small: dict[str, Any], content: bytes) -> None:
    Path(small["weights"]).write_bytes(content)
    with pytest.raises(ValueError, match=r"vgg\.pth: expected the state_dict of a VGG, could not read it"):
        losses.build(small)


@pytest.mark.parametrize("content", [{}, {"features.0.weight": torch.zeros(64, 1, 3, 3)}, [1], {"params": {}}])
def test_a_file_of_another_network_is_refused(small: dict[str, Any], content: Any) -> None:
    torch.save(content, small["weights"])
    with pytest.raises(ValueError, match=r"expected 'features\.0\.weight' of shape \(64, 3, 3, 3\), got"):
        losses.build(small)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"layer_weights": {"conv54": 1.0}}, "layer_weights: vgg19 has no layer 'conv54'. Did you mean 'conv5_4'"),
        ({"layer_weights": {"conv3_4": 1.0}, "vgg_type": "vgg16"}, "vgg16 has no layer 'conv3_4'"),
        ({"layer_weights": {}}, "layer_weights: expected at least one layer, got none"),
        ({"layer_weights": {"conv1_2": float("inf")}}, r"layer_weights.conv1_2: expected a finite number"),
        ({"vgg_type": "vgg11"}, "vgg_type: expected 'vgg19' or 'vgg16', got 'vgg11'"),
        ({"criterion": "huber"}, "criterion: expected 'l1', 'l2' or 'fro', got 'huber'"),
        ({"style_weight": -1.0}, "style_weight: expected 0 or more, got -1.0"),
        ({"perceptual_weight": 0.0}, "expected one above 0"),
    ],
)
def test_a_wrong_option_is_named(small: dict[str, Any], option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        losses.build({**small, **option})


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 8, 8), (1, 3, 1, 8)])
def test_images_that_the_vgg_cannot_take_are_refused(small: dict[str, Any], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected images \(b, 3, h, w\) of at least 2 x 2 pixels, which conv2_2"):
        losses.build(small)(torch.rand(shape), torch.rand(shape))


def test_a_missing_file_is_named(small: dict[str, Any]) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth: expected the weights of a VGG \(option weights\)"):
        losses.build({**small, "weights": "nowhere.pth"})


@pytest.mark.parametrize("digits", [8, 64])
def test_a_file_with_another_digest_than_the_one_given_is_refused(small: dict[str, Any], digits: int) -> None:
    digest = sha256(Path(small["weights"]))
    losses.build({**small, "sha256": digest[:digits]})
    other = "0" * digits
    with pytest.raises(
        ValueError, match=rf"vgg\.pth: expected a file whose SHA-256 begins with {other} .*got {digest}"
    ):
        losses.build({**small, "sha256": other})
    with pytest.raises(ValueError, match="sha256: expected 8 to 64 hexadecimal digits, got 'none'"):
        losses.build({**small, "sha256": "none"})


def test_weights_come_from_an_address_once_and_only_as_their_digest_says(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSR_CACHE", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    digest = sha256(Path(small["weights"]))
    images = torch.rand(2, 1, 3, 8, 8)
    content, asked = Path(small["weights"]).read_bytes(), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Keep the screen free."""

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}/net.pth"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for option in ({"sha256": digest}, {"sha256": digest[:8]}):
            fetched = losses.build({**small, "weights": url, **option})
            assert fetched(*images) == losses.build(small)(*images)
        named = url.replace("net.pth", f"vgg-{digest[:8]}.pth")
        losses.build({**small, "weights": named})  # its name tells the digest
        assert len(asked) == 2
        with pytest.raises(ValueError, match=r"net\.pth: expected a file whose SHA-256 begins with 00000000, got"):
            losses.build({**small, "weights": url, "sha256": "0" * 8})
        assert (tmp_path / "cache" / "weights" / "net.pth").is_file()
        with pytest.raises(
            ValueError, match=r"expected a file whose SHA-256 begins with 00000000, got .*It was deleted"
        ):
            losses.build({**small, "weights": url.replace("net", "other"), "sha256": "0" * 8})
        with pytest.raises(
            ValueError, match=r"sha256: expected that of http://.*net\.pth, which has come over a network"
        ):
            losses.build({**small, "weights": url})
        server.shutdown()
    gone = url.replace("net", "gone")  # nobody listens any more
    with pytest.raises(OSError, match=r"could not fetch it, 0 bytes came.*and put it here as .*weights/gone\.pth"):
        losses.build({**small, "weights": gone, "sha256": digest})
    assert {p.name for p in (tmp_path / "cache" / "weights").glob("*.pth")} == {"net.pth", f"vgg-{digest[:8]}.pth"}
