"""Deterministic weights and inputs of the golden files: the same key and shape give the same numbers anywhere.

Only numpy is needed.  `fill(key, shape, dtype)` depends on nothing but its
arguments, so every implementation whose state_dict uses the official keys and
shapes ends up with bit-identical weights.

Recipe version 1.  Never change a rule in place: add a version instead, or all
stored goldens become stale.
"""

import math
import re
import zlib

import numpy as np

VERSION = 1

#: returned for buffers that a constructor computes (index tables, masks):
#: the module keeps its own value.
KEEP = None

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def rng_for(key: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(key.encode()))


def fan_in(shape) -> int:
    return int(np.prod(shape[1:])) if len(shape) > 1 else int(shape[0])


# --- (regex on the key, gain) for floating tensors with ndim >= 2; first match wins
WEIGHT_GAIN = (
    (r"temporal_attn[12]\.weight$", 0.5),  # keeps the TSA sigmoid off its rails
    (r"(^|\.)[lr]_proj1\.weight$", 1.4),  # sharper stereo attention (SCAM)
    (r"(^|\.)sca\.1\.weight$", 2.0),  # pooled statistics must matter
    (r"(^|\.)se\.[13]\.weight$", 2.0),
    (r"(^|\.)attention\.[13]\.weight$", 0.3),  # RCAN channel attention (features are O(100))
    (r"basic_module\.\d+\.basic_module\.8\.weight$", 0.3),  # SpyNet: flows of a few pixels
    (r"(attn|mlp)\.\w+(\.\w+)?\.weight$", 0.8),  # transformer blocks
    (r"relative_position_bias_table$", 0.8),
    (r"(^|\.)linear[12]\.weight$", 3.0),  # discriminator head
    (r"(^|\.)[lr]_proj2\.weight$", 0.7),
    # convolutions inside residual blocks
    (r"(^|\.)(reconstruction|feature_extraction|main\.2|body)\.\d+\.conv[12]\.weight$", 0.55),
    (r"(\.\d+|rdb\d|blk|resblock_\w+)\.conv[1-5]\.weight$", 0.7),
    (r"rcab\.[02]\.weight$", 0.7),
    (r"^body\.\d+\.conv\.weight$", 0.5),
    (r"^(ups|downs|intro|ending|up)\b", 0.7),
)
#: everything else sits in plain conv + (leaky) ReLU chains
DEFAULT_GAIN = 1.3


def _is_offset_conv(key: str) -> str | None:
    """'direct' for EDVR style `conv_offset.weight`, 'tanh' for BasicVSR++."""
    if re.search(r"(^|\.)conv_offset\.(weight|bias)$", key):
        return "direct"
    if re.search(r"(^|\.)conv_offset\.6\.(weight|bias)$", key):
        return "tanh"
    return None


def fill(key: str, shape, dtype: str = "float32"):
    """Return the numpy value of one state_dict entry, or KEEP.

    dtype: numpy/torch style name, e.g. 'float32' or 'torch.float32', 'int64'.
    """
    shape = tuple(int(s) for s in shape)
    name = str(dtype).replace("torch.", "")
    leaf = key.rsplit(".", 1)[-1]

    if leaf in ("relative_position_index", "attn_mask", "relative_coords_table"):
        return KEEP
    if not name.startswith(("float", "bfloat", "double", "half")):
        return np.zeros(shape, dtype=name)

    r = rng_for(key)
    n = r.standard_normal(shape)  # float64; the draw happens first for every key

    if leaf in ("mean", "std") and shape == (1, 3, 1, 1):
        v = np.array(IMAGENET_MEAN if leaf == "mean" else IMAGENET_STD).reshape(shape)
    elif leaf == "running_mean":
        v = 0.05 * n
    elif leaf == "running_var":
        v = np.exp(0.2 * n)
    elif leaf == "weight_orig":
        # spectral norm: a known rank-1 part u0 v0^T (v0 with alternating signs) keeps
        # sigma = u^T W v close to 1 although u and v come from their own keys
        f = fan_in(shape)
        v0 = np.where(np.arange(f) % 2 == 0, 1.0, -1.0) / math.sqrt(f)
        v = DEFAULT_GAIN * n / math.sqrt(f) + (np.ones((shape[0], 1)) / math.sqrt(shape[0]) * v0).reshape(shape)
    elif leaf in ("weight_u", "weight_v"):
        v = np.abs(1.0 + 0.3 * n)
        if leaf == "weight_v":
            v = v * np.where(np.arange(v.size) % 2 == 0, 1.0, -1.0)
        v = v / math.sqrt(float((v * v).sum()))
    elif leaf in ("beta", "gamma") and len(shape) == 4:
        v = 0.3 * n
    elif _is_offset_conv(key):
        # out channels: first 2/3 are offsets, last 1/3 are mask logits
        kind, rows = _is_offset_conv(key), shape[0] * 2 // 3
        g = {"direct": (4.0, 3.0), "tanh": (0.8, 2.0)}[kind]
        b = {"direct": (1.5, 0.5), "tanh": (0.15, 0.5)}[kind]
        if leaf == "weight":
            s = np.where(np.arange(shape[0]) < rows, g[0], g[1]) / math.sqrt(fan_in(shape))
            v = n * s.reshape((-1,) + (1,) * (len(shape) - 1))
        else:
            v = n * np.where(np.arange(shape[0]) < rows, b[0], b[1])
    elif len(shape) >= 2:
        gain = next((g for pat, g in WEIGHT_GAIN if re.search(pat, key)), DEFAULT_GAIN)
        v = n * gain / math.sqrt(fan_in(shape))
    elif leaf == "weight":
        # 1-D weights: a norm layer's scale, else a PReLU slope
        v = 1.0 + 0.1 * n if re.search(r"norm|bn", key) else 0.25 + 0.1 * n
    elif re.search(r"(^|\.)sca\.1\.bias$", key):
        v = 0.5 + 0.2 * n
    elif re.search(r"basic_module\.8\.bias$", key):
        v = 0.05 * n
    else:  # biases and anything else that is 0-D / 1-D
        v = 0.05 * n
    return np.ascontiguousarray(v, dtype=np.float32)


def make_input(spec: dict) -> np.ndarray:
    """spec: {'seed': int, 'shape': [...], 'dist': 'uniform'|'normal'|'uint8'|'smooth8'}."""
    shape = tuple(spec["shape"])
    r = np.random.default_rng(spec["seed"])
    dist = spec.get("dist", "uniform")
    if dist == "uniform":
        return r.random(shape, dtype=np.float32)
    if dist == "normal":
        return r.standard_normal(shape, dtype=np.float32)
    if dist == "uint8":
        return r.integers(0, 256, shape, dtype=np.uint8)
    if dist == "smooth8":  # (h, w, c) uint8 image with structure and mild noise
        h, w, c = shape
        y, x = np.mgrid[0:h, 0:w]
        f = r.uniform(0.02, 0.35, (c, 4, 2))
        p = r.uniform(0, 2 * np.pi, (c, 4))
        a = r.uniform(10, 45, (c, 4))
        img = np.stack(
            [
                128 + sum(a[k, j] * np.sin(f[k, j, 0] * y + f[k, j, 1] * x + p[k, j]) for j in range(4))
                for k in range(c)
            ],
            -1,
        )
        img = img + r.standard_normal(shape) * spec.get("noise", 4.0)
        return np.clip(np.rint(img), 0, 255).astype(np.uint8)
    raise ValueError(dist)


def view_output(out: np.ndarray, view: dict | None) -> np.ndarray:
    """The stored part of an output: every `step`-th pixel (co-prime with the
    pixel-shuffle factor), starting at `start`, on the two last axes."""
    if not view:
        return out
    s, t = view["start"], view["step"]
    return np.ascontiguousarray(out[..., s::t, s::t])


def fingerprint(out: np.ndarray, k: int = 4) -> np.ndarray:
    """k random projections (float64) of the FULL output, each scaled to O(1)."""
    flat = np.asarray(out, dtype=np.float64).ravel()
    return np.array(
        [
            float(np.dot(flat, np.random.default_rng(1000 + i).standard_normal(flat.size))) / math.sqrt(flat.size)
            for i in range(k)
        ]
    )


def load_into(module, strict: bool = True):
    """Fill a torch module in place through load_state_dict (optional torch helper)."""
    import torch

    sd = module.state_dict()
    new = {}
    for k, v in sd.items():
        a = fill(k, v.shape, str(v.dtype))
        new[k] = v if a is None else torch.from_numpy(np.array(a)).to(v.dtype).reshape(v.shape)
    module.load_state_dict(new, strict=strict)
    return module
