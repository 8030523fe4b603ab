"""FMA-Net written down as its paper has it, without a thought of time or memory: what vsr's is compared with.

A function of the tensors of a state_dict, in clips (b, channels, t, h, w) throughout. Nothing here comes from vsr.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(z: Tensor, flow: Tensor, logit_or_mask: Tensor, *, is_mask: bool = False) -> tuple[Tensor, Tensor]:
    """Return the mask times the warped ones, and times the warped z (n, c, h, w); flow (n, 2, h, w) in pixels."""
    h, w = z.shape[2:]
    y, x = torch.meshgrid(torch.arange(h, device=z.device), torch.arange(w, device=z.device), indexing="ij")
    grid = torch.stack((x + flow[:, 0], y + flow[:, 1]), -1)
    grid = 2 * grid / torch.tensor([max(w - 1, 1), max(h - 1, 1)]).to(grid) - 1
    mask = logit_or_mask if is_mask else logit_or_mask.sigmoid()
    seen, moved = (F.grid_sample(image, grid, align_corners=True) for image in (torch.ones_like(z), z))
    return mask * seen, mask * moved


def multi_flow_warp(features: Tensor, flows: Tensor) -> Tensor:
    b, c, t, h, w = features.shape
    n = flows.shape[1] // 3
    grouped = features.reshape(b, n, c // n, t, h, w).transpose(2, 3).reshape(b * n * t, c // n, h, w)
    pairs = flows.reshape(b, n, 3, t, h, w).transpose(2, 3).reshape(b * n * t, 3, h, w)
    warped = warp(grouped, pairs[:, :2], pairs[:, 2:])[1]
    return warped.reshape(b, n, t, c // n, h, w).transpose(2, 3).reshape(b, c, t, h, w)


def image_warp(images: Tensor, flow: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    seen, moved = [], []
    for frame in range(images.shape[2]):
        moves, mask = flow[:, :2, frame], flow[:, 2:, frame].sigmoid()
        if scale > 1:
            moves, mask = (
                F.interpolate(z, scale_factor=scale, mode="bilinear", align_corners=False)
                for z in (moves * scale, mask)
            )
        for kept, found in zip((seen, moved), warp(images[:, :, frame], moves, mask, is_mask=True), strict=True):
            kept.append(found)
    return torch.stack(seen, 2), torch.stack(moved, 2)


def windows(clip: Tensor, k: int, stride: int, pad: int) -> Tensor:
    """(b, c, t, H, W) -> (b, c, t, k*k, h, w): all that the filters see."""
    b, c, t, height, width = clip.shape
    padded = F.pad(clip.reshape(b, c * t, height, width), (pad,) * 4, mode="replicate")
    h, w = ((side + 2 * pad - k) // stride + 1 for side in (height, width))
    return F.unfold(padded, k, stride=stride).reshape(b, c, t, k * k, h, w)


def down_filter(frames: Tensor, logits: Tensor, occlusion: Tensor, k: int, stride: int) -> Tensor:
    t = frames.shape[2]
    kernel = logits.transpose(1, 2).flatten(1, 2).softmax(1).unflatten(1, (t, k * k))[:, None]
    pad = (k - stride) // 2
    total = (kernel * windows(occlusion, k, stride, pad)).sum((2, 3))
    return (kernel * windows(frames, k, stride, pad)).sum((2, 3)) / (total + 1e-8)


def up_filter(frames: Tensor, kernels: Tensor, k: int, scale: int) -> Tensor:
    b, c, t, h, w = frames.shape
    kernel = kernels.reshape(b, scale, scale, k * k, t, h, w)
    kernel = kernel - kernel.mean((3, 4), keepdim=True) + 1 / (t * k * k)
    seen = windows(frames, k, 1, k // 2).transpose(2, 3)[:, :, None, None]  # (b, c, 1, 1, k*k, t, h, w)
    out = (kernel[:, None] * seen).sum((4, 5))  # (b, c, row in the cell, column in it, h, w)
    return out.permute(0, 1, 4, 2, 5, 3).reshape(b, c, scale * h, scale * w)


class Naive:
    """The network of a configuration and its weights.

    Args:
        config: Arguments of vsr's FMANet, all of them.
        weights: Name -> tensor.
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        self.config, self.weights = config, weights
        self.t = config["num_seq"]

    def conv(self, name: str, x: Tensor, groups: int = 1) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        function = F.conv3d if weight.dim() == 5 else F.conv2d
        return function(x, weight, bias, padding=[side // 2 for side in weight.shape[2:]], groups=groups)

    def two(self, name: str, x: Tensor) -> Tensor:
        return self.conv(f"{name}.2", F.leaky_relu(self.conv(f"{name}.0", x), 0.2))

    def rdb(self, name: str, x: Tensor) -> Tensor:
        out = x
        for i in range(self.config["num_dense_layer"]):
            out = torch.cat((out, F.leaky_relu(self.conv(f"{name}.layer.{i}.conv", out), 0.2)), 1)
        return self.conv(f"{name}.conv", out) + x

    def rrdb(self, name: str, x: Tensor) -> Tensor:
        outs = [x]
        for i in range(self.config["num_RDB"]):
            outs.append(self.rdb(f"{name}.RDBs.{i}", outs[-1]))
        return self.conv(f"{name}.conv.1", self.conv(f"{name}.conv.0", torch.cat(outs[1:], 1))) + x

    def extract(self, net: str, x: Tensor) -> Tensor:
        first = F.leaky_relu(self.conv(f"{net}.feature_extractor.0", x), 0.2)
        return self.rrdb(f"{net}.feature_extractor.2", first)

    def norm(self, name: str, x: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        scaled = self.weights[f"{name}.body.weight"].view(shape) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        if self.config["LayerNorm_type"] == "BiasFree":
            return x * scaled
        return (x - x.mean(1, keepdim=True)) * scaled + self.weights[f"{name}.body.bias"].view(shape)

    def attention(self, name: str, x: Tensor, guide: Tensor) -> Tensor:
        b, c, h, w = x.shape
        heads = self.config["num_heads"]
        query = self.conv(f"{name}.q_dwconv", self.conv(f"{name}.q", guide), groups=c)
        key, value = self.conv(f"{name}.kv_dwconv", self.conv(f"{name}.kv_conv", x), groups=2 * c).chunk(2, 1)
        query, key, value = (part.reshape(b, heads, c // heads, h * w) for part in (query, key, value))
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        scores = (query @ key.transpose(-2, -1) * self.weights[f"{name}.temperature"]).softmax(-1)
        return self.conv(f"{name}.project_out", (scores @ value).reshape(b, c, h, w))

    def feed(self, name: str, x: Tensor) -> Tensor:
        hidden = self.conv(f"{name}.project_in", x)
        gate, value = self.conv(f"{name}.dwconv", hidden, groups=hidden.shape[1]).chunk(2, 1)
        return self.conv(f"{name}.project_out", F.gelu(gate) * value)

    def attend(self, name: str, fused: Tensor, center: Tensor, degradation: Tensor | None) -> Tensor:
        fused = fused + self.attention(f"{name}.co_attn", self.norm(f"{name}.norm1", fused), center)
        fused = fused + self.feed(f"{name}.ffn1", self.norm(f"{name}.norm2", fused))
        if degradation is not None:
            fused = fused + self.attention(f"{name}.da_attn", self.norm(f"{name}.norm3", fused), degradation)
            fused = fused + self.feed(f"{name}.ffn2", self.norm(f"{name}.norm4", fused))
        return fused

    def refine(
        self, name: str, features: Tensor, center: Tensor, fused: Tensor | None, f: Tensor | None, k: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        features = self.rdb(f"{name}.rdb", features)
        centers = center.repeat(1, 1, self.t, 1, 1)
        if f is None:
            f = self.two(f"{name}.conv_f", torch.cat((centers, features), 1))
        else:
            f = f + self.two(f"{name}.conv_f", torch.cat((centers, f, multi_flow_warp(features, f)), 1))
        warped = multi_flow_warp(features, f).flatten(1, 2)
        fused = self.conv(f"{name}.conv_Fw", warped if fused is None else torch.cat((fused, warped), 1))
        degradation = None if k is None else self.conv(f"{name}.conv_KD", self.rdb(f"{name}.rdb_KD", k).flatten(1, 2))
        for i in range(self.config["num_transformer_block"]):
            fused = self.attend(f"{name}.multi_attn_block.{i}", fused, center.squeeze(2), degradation)
        return features, fused, f

    def degradation(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        net = "degradation_learning_network"
        features = self.extract(net, x)
        center, fused, f = features[:, :, self.t // 2, None], None, None
        for i in range(self.config["num_FRMA"]):
            features, fused, f = self.refine(f"{net}.FRMA_blocks.{i}", features, center, fused, f, None)
        kernels = self.two(f"{net}.d_conv", fused.unflatten(1, (-1, self.t)))
        return features, kernels, self.two(f"{net}.f_conv", f), f, self.two(f"{net}.a_conv", features)

    def upsample(self, name: str, x: Tensor, scale: int) -> Tensor:
        steps = {2: [2], 3: [3], 4: [2, 2]}[scale]
        for i, step in enumerate(steps, 1):
            x = F.pixel_shuffle(F.leaky_relu(self.conv(f"{name}.conv{i}", x), 0.2), step)
        return F.leaky_relu(self.conv(f"{name}.conv{len(steps) + 1}", x), 0.2)

    def restoration(self, x: Tensor, features: Tensor, f: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        net, scale = "restoration_network", self.config["scale"]
        features = self.extract(net, torch.cat((x, features), 1))
        center, fused, f, k = (
            features[:, :, self.t // 2, None],
            None,
            self.two(f"{net}.f_conv1", f),
            self.two(f"{net}.d_conv", k),
        )
        for i in range(self.config["num_FRMA"]):
            features, fused, f = self.refine(f"{net}.FRMA_blocks.{i}", features, center, fused, f, k)
        detail = self.upsample(f"{net}.upsample", F.leaky_relu(self.conv(f"{net}.res_conv1", fused), 0.2), scale)
        detail = self.conv(f"{net}.res_conv2", detail)
        kernels = self.two(f"{net}.r_conv", fused.unflatten(1, (-1, self.t)))
        warped = image_warp(x, self.two(f"{net}.f_conv2", f), 1)[1]
        middle = x[:, :, self.t // 2, None].repeat(1, 1, self.t, 1, 1)
        warped = image_warp(x, self.two(f"{net}.f_conv3", torch.cat((f, warped, middle), 1)), 1)[1]
        out = up_filter(warped, kernels, self.config["us_kernel_size"], scale) + detail
        return out, warped, self.two(f"{net}.a_conv", features)

    def __call__(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        features, kernels, image_flow, f, sharp = self.degradation(x)
        outputs = {}
        if y is not None:
            seen, moved = image_warp(y, image_flow, self.config["scale"])
            recon = down_filter(moved, kernels, seen, math.isqrt(kernels.shape[1]), self.config["scale"])
            outputs |= {"recon": recon, "hr_warp": moved, "image_flow": image_flow[:, :2], "F_sharp_D": sharp}
        if self.config["stage"] == 2:
            outputs |= dict(
                zip(("output", "lr_warp", "F_sharp_R"), self.restoration(x, features, f, kernels), strict=True)
            )
        return outputs
