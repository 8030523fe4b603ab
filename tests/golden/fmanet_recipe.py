"""Weights, inputs and pictures of the golden files in fmanet/: functions of names, shapes and seeds alone."""

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "fmanet"


def case(name: str) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
    """Return the manifest of a case and its expected values."""
    return json.loads((FOLDER / f"{name}.json").read_text()), np.load(FOLDER / f"{name}.npz")


def fill_one(key: str, shape: Iterable[int], gain: float) -> np.ndarray:
    """Return the weight of this name: of convolutions scaled by their fan-in, others near 1, biases near 0."""
    shape = tuple(shape)
    values = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("temperature"):
        values = 1 + 0.1 * values
    elif len(shape) >= 2:
        values = values * gain / np.sqrt(np.prod(shape[1:]))
    else:
        values = 0.05 * values if key.endswith("bias") else 1 + 0.1 * values
    return values.astype(np.float32)


def fill(entries: Iterable[tuple[str, Iterable[int]]], gain: float) -> dict[str, np.ndarray]:
    """Return the weights of a list of (name, shape)."""
    return {key: fill_one(key, shape, gain) for key, shape in entries}


def make_input(spec: Mapping[str, Any]) -> np.ndarray:
    """Return uniform random numbers, float32, between spec's low and high."""
    values = np.random.default_rng(spec["seed"]).random(tuple(spec["shape"]), dtype=np.float32)
    low, high = spec.get("low", 0.0), spec.get("high", 1.0)
    return values if (low, high) == (0.0, 1.0) else values * np.float32(high - low) + np.float32(low)


def smooth_image(seed: int, height: int, width: int) -> np.ndarray:
    """Return a picture of slow waves, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    picture = np.zeros((height, width, 3))
    for channel in range(3):
        for _ in range(6):
            fx, fy, phase, strength = rng.random() * 0.35, rng.random() * 0.35, rng.random() * 6.283, rng.random()
            picture[..., channel] += strength * np.sin(fx * x + fy * y + phase)
        plane = picture[..., channel]
        picture[..., channel] = (plane - plane.min()) / (plane.max() - plane.min()) * 235 + 10
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def noisy(picture: np.ndarray, seed: int, sigma: float) -> np.ndarray:
    """Return a picture with Gaussian noise of this standard deviation."""
    noise = np.random.default_rng(seed).standard_normal(picture.shape)
    return np.clip(np.round(picture.astype(np.float64) + sigma * noise), 0, 255).astype(np.uint8)
