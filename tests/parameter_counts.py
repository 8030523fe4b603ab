"""How many parameters a network of given arguments has, counted by hand from the papers' and the official structures.

Nothing here looks at vsr's networks: the formulas are what these are compared with.
"""

from collections.abc import Callable, Mapping
from typing import Any

Arguments = Mapping[str, Any]


def conv(into: int, out: int, kernel: int = 3) -> int:
    return into * out * kernel**2 + out


def residual(c: int, blocks: int) -> int:
    return blocks * 2 * conv(c, c)


def trunk(into: int, c: int, blocks: int) -> int:
    return conv(into, c) + residual(c, blocks)


def shuffles(c: int, scale: int) -> int:
    """Convolutions before the pixel shuffles: steps of 2, or one of 3."""
    return conv(c, 9 * c) if scale == 3 else (scale // 2) * conv(c, 4 * c)


def msrresnet(a: Arguments) -> int:
    c = a["num_feat"]
    body = trunk(a["num_in_ch"], c, a["num_block"])
    return body + shuffles(c, a["upscale"]) + conv(c, c) + conv(c, a["num_out_ch"])


edsr = msrresnet  # its convolution behind the body stands where MSRResNet has the one behind the upsampling


def rcan(a: Arguments) -> int:
    c, squeezed = a["num_feat"], a["num_feat"] // a["squeeze_factor"]
    block = residual(c, 1) + conv(c, squeezed, 1) + conv(squeezed, c, 1)
    group = a["num_block"] * block + conv(c, c)
    ends = conv(a["num_in_ch"], c) + conv(c, c) + conv(c, a["num_out_ch"])
    return a["num_group"] * group + ends + shuffles(c, a["upscale"])


def rrdbnet(a: Arguments) -> int:
    c, g = a["num_feat"], a["num_grow_ch"]
    dense = sum(conv(c + i * g, g) for i in range(4)) + conv(c + 4 * g, c)
    ends = conv(a["num_in_ch"], c) + conv(c, a["num_out_ch"])
    return 3 * a["num_block"] * dense + ends + 4 * conv(c, c)


def swinir(a: Arguments) -> int:
    c, window, hidden = a["embed_dim"], a["window_size"], int(a["embed_dim"] * a["mlp_ratio"])
    attention = conv(c, 3 * c, 1) + conv(c, c, 1)
    total = conv(a["in_chans"], c) + conv(c, c)
    total += 2 * 2 * c  # the norms before the first group and behind the last
    for depth, heads in zip(a["depths"], a["num_heads"], strict=True):
        block = attention + (2 * window - 1) ** 2 * heads + conv(c, hidden, 1) + conv(hidden, c, 1) + 2 * 2 * c
        total += depth * block + conv(c, c)
    if a["upsampler"] == "pixelshuffledirect":
        return total + conv(c, a["upscale"] ** 2 * a["in_chans"])
    if a["upsampler"] == "pixelshuffle":
        return total + conv(c, 64) + shuffles(64, a["upscale"]) + conv(64, a["in_chans"])
    return total + conv(c, a["in_chans"])


def naf_block(c: int) -> int:
    depthwise = 2 * c * 9 + 2 * c
    attention = conv(c, c, 1)
    first = conv(c, 2 * c, 1) + depthwise + attention + conv(c, c, 1)
    return first + conv(c, 2 * c, 1) + conv(c, c, 1) + 2 * 2 * c + 2 * c  # two norms, two scales of residuals


def baseline_block(c: int, dw_expand: int, ffn_expand: int) -> int:
    d = dw_expand * c
    attention = conv(d, d // 2, 1) + conv(d // 2, d, 1)
    first = conv(c, d, 1) + d * 9 + d + attention + conv(d, c, 1)
    return first + conv(c, ffn_expand * c, 1) + conv(ffn_expand * c, c, 1) + 2 * 2 * c + 2 * c


def u_net(a: Arguments, block: Callable[[int], int]) -> int:
    c = a["width"]
    total = conv(3, c) + conv(c, 3)
    for blocks in a["enc_blk_nums"]:
        total += blocks * block(c) + conv(c, 2 * c, 2)
        c *= 2
    total += a["middle_blk_num"] * block(c)
    for blocks in a["dec_blk_nums"]:
        total += 2 * c * c  # 1x1, without bias
        c //= 2
        total += blocks * block(c)
    return total


def nafnet(a: Arguments) -> int:
    return u_net(a, naf_block)


def baseline(a: Arguments) -> int:
    return u_net(a, lambda c: baseline_block(c, a.get("dw_expand", 1), a.get("ffn_expand", 2)))


def nafnetsr(a: Arguments) -> int:
    """Without an exchange between views."""
    c = a["width"]
    return conv(3, c) + a["num_blks"] * naf_block(c) + conv(c, 3 * a["up_scale"] ** 2)


def nafssr(a: Arguments) -> int:
    c = a["width"]
    cross = 2 * 2 * c + 4 * conv(c, c, 1) + 2 * c
    return nafnetsr(a) + a["num_blks"] * cross


def deformable(c: int, groups: int) -> int:
    return conv(c, c) + conv(c, groups * 27)


def alignment(c: int, groups: int) -> int:
    """EDVR's PCD: three levels, of which the coarsest has neither features nor offsets from below; the cascade."""
    offsets = 3 * conv(2 * c, c) + conv(c, c) + 2 * conv(2 * c, c) + 2 * conv(c, c)
    cascade = conv(2 * c, c) + conv(c, c) + deformable(c, groups)
    return offsets + 3 * deformable(c, groups) + 2 * conv(2 * c, c) + cascade


def attention(c: int, frames: int) -> int:
    """EDVR's TSA."""
    temporal = 2 * conv(c, c) + conv(frames * c, c, 1)
    spatial = conv(frames * c, c, 1) + conv(2 * c, c, 1) + 2 * conv(c, c) + conv(c, c, 1)
    lower = conv(c, c, 1) + conv(2 * c, c) + conv(c, c)
    return temporal + spatial + lower + 2 * conv(c, c, 1)


def pyramid(c: int, blocks: int) -> int:
    return residual(c, blocks) + 4 * conv(c, c)


def upsampling(c: int) -> int:
    return conv(c, 4 * c) + conv(c, 4 * 64) + conv(64, 64) + conv(64, 3)


def edvr(a: Arguments) -> int:
    c, frames = a["num_feat"], a["num_frame"]
    if a.get("with_predeblur"):
        start = conv(3, c) + (4 if a.get("hr_in") else 2) * conv(c, c) + residual(c, 8) + conv(c, c, 1)
    else:
        start = conv(3, c)
    fusion = attention(c, frames) if a.get("with_tsa", True) else conv(frames * c, c, 1)
    body = pyramid(c, a["num_extract_block"]) + alignment(c, a["deformable_groups"])
    return start + body + fusion + residual(c, a["num_reconstruct_block"]) + upsampling(c)


def memory_edvr(a: Arguments) -> int:
    """EDVR, without its alignment and the levels that only this looks at where there is none, and the memory."""
    c, memory = a["num_feat"], a["memory"]
    d = memory["mem_dim"] or c
    alone = edvr(a) if a["with_pcd"] else edvr(a) - alignment(c, a["deformable_groups"]) - 4 * conv(c, c)
    joined = d if memory["fusion"] == "add" else c + d
    slots = a["num_frame"] - memory["exclude_center"]
    encoding = 2 * slots * d if memory["temporal_encoding"] else 0
    return alone + 3 * conv(c, d, 1) + conv(joined, c, 1) + int(memory["norm"]) + encoding


def spynet() -> int:
    return 6 * (conv(8, 32, 7) + conv(32, 64, 7) + conv(64, 32, 7) + conv(32, 16, 7) + conv(16, 2, 7))


def basicvsr(a: Arguments) -> int:
    c = a["num_feat"]
    return spynet() + 2 * trunk(c + 3, c, a["num_block"]) + conv(2 * c, c, 1) + upsampling(c)


def iconvsr(a: Arguments) -> int:
    c, window = a["num_feat"], 2 * a["temporal_padding"] + 1
    keyframes = conv(3, c) + pyramid(c, 5) + alignment(c, 8) + attention(c, window)
    passes = trunk(c + 3, c, a["num_block"]) + trunk(2 * c + 3, c, a["num_block"])
    return spynet() + keyframes + 2 * conv(2 * c, c) + passes + upsampling(c)


def basicvsrpp(a: Arguments) -> int:
    c = a["mid_channels"]
    align = conv(2 * c, c) + conv(3 * c + 4, c) + 2 * conv(c, c) + conv(c, 16 * 27)
    passes = sum(align + trunk((2 + i) * c, c, a["num_blocks"]) for i in range(4))
    return spynet() + trunk(3, c, 5) + passes + trunk(5 * c, c, 5) + upsampling(c)


def fmanet(a: Arguments) -> int:
    """Of its blocks, by the paper's figures; all convolutions but those that end a dense block share one option."""
    c, t, n, g, s = a["dim"], a["num_seq"], 3 * a["num_flow"], a["growth_rate"], a["scale"]
    bias, layers = int(a["bias"]), a["num_dense_layer"]

    def free(into: int, out: int, taps: int) -> int:
        return into * out * taps + bias * out

    def two(into: int, hidden: int, out: int) -> int:
        return free(into, hidden, 9) + free(hidden, out, 9)

    dense = sum(free(c + i * g, g, 9) for i in range(layers)) + conv(c + layers * g, c, 1)
    norm = 2 * c if a["LayerNorm_type"] == "WithBias" else c
    attention = a["num_heads"] + 2 * free(c, c, 1) + free(c, 2 * c, 1) + free(1, c, 9) + free(1, 2 * c, 9)
    hidden = int(c * a["ffn_expansion_factor"])
    feed = free(c, 2 * hidden, 1) + free(1, 2 * hidden, 9) + free(hidden, c, 1)

    def network(into: int, aware: bool) -> int:
        total = free(into, c, 9) + a["num_RDB"] * dense + free(a["num_RDB"] * c, c, 1) + free(c, c, 9)
        for i in range(a["num_FRMA"]):
            total += dense + free((i > 0) * c + t * c, c, 1)
            total += two(2 * c + (n if i or aware else 0), n, n)
            total += aware * (dense + free(t * c, c, 1))
            total += a["num_transformer_block"] * (1 + aware) * (2 * norm + attention + feed)
        return total

    kernels, colours = a["ds_kernel_size"] ** 2, a["in_channels"]
    degradation = network(colours, False) + two(n, n, 3) + two(c // t, c, kernels) + two(c, c, colours)
    if a["stage"] == 1:
        return degradation
    steps = [2, 2] if s == 4 else [s]
    enlarging = sum(free(c, step**2 * c, 9) for step in steps) + free(c, c, 9)
    restoration = network(colours + c, True) + two(n, n, n) + free(kernels, c, 27) + free(c, c, 27)
    restoration += free(c, c, 9) + free(c, colours, 9) + enlarging
    restoration += two(c // t, c, (s * a["us_kernel_size"]) ** 2)
    restoration += two(n, n, 3) + two(n + 2 * colours, n, 3) + two(c, c, colours)
    return degradation + restoration


def memory_prediction(a: Arguments) -> int:
    channels, levels = a["channels"], len(a["channels"]) - 1
    encoder = decoder = 0
    for level in range(1, levels + 1):
        into, c, below = channels[level - 1], channels[level], channels[min(level + 1, levels)]
        into *= 2 if level == 1 and a["motion"] else 1  # differences beside frames
        extra = 0 if a["noskip"][level - 1] else (2 if a["multi"] else 1) * c
        if a["encoder"] == "resnet":
            encoder += conv(into if level > 1 else c, c) + residual(c, 2) + (conv(into, c) if level == 1 else 0)
            decoder += conv(below, c) + residual(c, 2)
        else:
            encoder += conv(into, c) + 2 * conv(c, c)
            decoder += conv(below, c) + conv(c + extra, c) + conv(c, c)
    memories = [(c, a["H"] * a["W"] // 4**level) for level, (c, skipped) in
                enumerate(zip(channels[1:], a["noskip"], strict=True)) if not skipped and a["multi"]]  # fmt: skip
    memory = 0
    for c, pixels in [*memories, (channels[-1], a["H"] * a["W"] // 4**levels)]:
        e = a["embed_size"] * c // channels[-1]
        if a["embedding"] == "FC":
            memory += 3 * conv(c * pixels, e, 1) + conv(2 * e, c * pixels, 1)
        else:
            memory += 3 * conv(c, e, 1 if a["embedding"] == "sep1by1" else 3) + conv(2 * e, c, 1)
        memory += conv(e, e) if a["flat2d"] else 0
    return encoder * (2 if a["QSsep"] else 1) + decoder + conv(channels[1], a["num_out_ch"]) + memory


COUNTS: dict[str, Callable[[Arguments], int]] = {
    "Baseline": baseline,
    "BaselineLocal": baseline,
    "BasicVSR": basicvsr,
    "BasicVSRPlusPlus": basicvsrpp,
    "EDSR": edsr,
    "EDVR": edvr,
    "FMANet": fmanet,
    "IconVSR": iconvsr,
    "MSRResNet": msrresnet,
    "MemoryPrediction": memory_prediction,
    **dict.fromkeys(
        (
            "MemoryEDVR",
            "EDVR_PixSim",
            "EDVR_PixWise",
            "EDVR_PixSentence",
            "EDVR_Concat256",
            "EDVR_Concat128Norm",
            "EDVR_Crop3",
            "EDVR_Crop5",
            "EDVR_NoPCD",
        ),
        memory_edvr,
    ),
    "NAFNet": nafnet,
    "NAFNetLocal": nafnet,
    "NAFNetSR": nafnetsr,
    "NAFSSR": nafssr,
    "RCAN": rcan,
    "RRDBNet": rrdbnet,
    "SwinIR": swinir,
}
