"""The official PSNR and SSIM values, with their images prepared as the cases say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
Case = dict[str, Any]


def cases(source: str, metric: str) -> list[Case]:
    """The cases of 'basicsr' or 'nafnet' whose function measures 'psnr' or 'ssim'."""
    return [c for c in json.loads((HERE / f"metrics_{source}.json").read_text())["cases"] if metric in c["fn"]]


def images(source: str, case: Case) -> list[Any]:
    data, prepared = np.load(HERE / f"metrics_{source}.npz"), []
    for text in (case.get("img") or case["img1"], case["img2"]):
        image = data[text.split(".")[0].split("[")[0].split(" ")[0]]
        image = image.transpose(2, 0, 1) if "transpose" in text else image
        image = image[..., 0] if "[...,0]" in text else image
        image = image.astype(np.float32) / 255 if case.get("scaled_to_0_1") else image
        if case["fn"].endswith("_pt"):
            image = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
        prepared.append(image)
    return prepared


def option(case: Case, **defaults: Any) -> Case:
    """The option that builds our metric of the case."""
    kept = ("crop_border", "test_y_channel", "input_order", "ssim3d")
    return {"type": case["fn"].removesuffix("_pt"), **defaults, **{k: case[k] for k in kept if k in case}}


def expected(case: Case) -> float:
    return float(case["value"][0] if isinstance(case["value"], list) else case["value"])
