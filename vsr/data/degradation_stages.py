"""Stages that resize, add noise or compress; their constructors are what the option file gives."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vsr.data.blur_stages import USM, FrameAverage
from vsr.data.filters import CV2_MODES, jpeg, poisson_noise, resized
from vsr.data.stage import ClipStage, Image, Rng, Size, Stage, check_prob, check_range, check_shares
from vsr.registry import DEGRADATIONS


@DEGRADATIONS.register
class Resize(Stage):
    """Bring the image to the size of LQ.

    Args:
        mode: 'antialiased': MATLAB's bicubic; or area, bilinear, bicubic: OpenCV's, without antialiasing the
            latter two. 'random': one of these three.
        vary: Draw anew for every frame, not for a clip.
    """

    prob, resizes = 1.0, "lq"

    def __init__(self, *, mode: str = "antialiased", vary: bool = False) -> None:
        if mode not in (*CV2_MODES, "antialiased", "random"):
            raise ValueError(f"mode: expected one of antialiased, area, bilinear, bicubic, random, got '{mode}'.")
        self.mode, self.vary = mode, vary

    def reach(self, scale: int) -> int:
        return 3 * scale

    def draw(self, rng: Rng) -> str:
        return str(rng.choice(list(CV2_MODES))) if self.mode == "random" else self.mode

    def apply(self, image: Image, drawn: Any, rng: Rng, size: Size) -> Image:
        return resized(image, size, drawn)


@DEGRADATIONS.register
class RandomResize(Stage):
    """Enlarge or reduce by a random factor, as Real-ESRGAN does between its blurs.

    Args:
        resize_prob: Shares of enlarging, reducing and keeping the size.
        resize_range: [least, most] factor; below 1 for reducing, above 1 for enlarging.
        relative_to: 'input': the factor is on the image's size; 'lq': on the size of LQ (Real-ESRGAN's second).
        modes: Ways of resizing, of area, bilinear and bicubic; one is drawn.
        prob: How probable the stage is.
        vary: Draw anew for every frame, not for a clip.
    """

    local, resizes = False, "free"

    def __init__(
        self,
        *,
        resize_prob: Sequence[float] = (0.2, 0.7, 0.1),
        resize_range: Sequence[float] = (0.15, 1.5),
        relative_to: str = "input",
        modes: Sequence[str] = ("area", "bilinear", "bicubic"),
        prob: float = 1.0,
        vary: bool = False,
    ) -> None:
        check_shares("resize_prob", resize_prob, 3, "enlarging, reducing and keeping")
        self.range = check_range("resize_range", resize_range, above=0)
        if not self.range[0] <= 1 <= self.range[1]:
            raise ValueError(
                f"resize_range: expected a range around 1, got {list(resize_range)}. Use resize_prob, too."
            )
        if relative_to not in ("input", "lq"):
            raise ValueError(f"relative_to: expected 'input' or 'lq', got '{relative_to}'.")
        if not modes or not set(modes) <= set(CV2_MODES):
            raise ValueError(f"modes: expected some of {', '.join(CV2_MODES)}, got {list(modes)}.")
        self.shares = np.asarray(resize_prob, np.float64) / sum(resize_prob)
        self.relative_to, self.modes, self.prob, self.vary = relative_to, tuple(modes), check_prob(prob), vary

    def draw(self, rng: Rng) -> tuple[float, str]:
        way, share, mode = (
            int(rng.choice(3, p=self.shares)),
            rng.random(),
            self.modes[int(rng.integers(len(self.modes)))],
        )
        low, high = ((1.0, self.range[1]), (self.range[0], 1.0), (1.0, 1.0))[way]
        return low + share * (high - low), mode

    def apply(self, image: Image, drawn: Any, rng: Rng, size: Size) -> Image:
        factor, mode = drawn
        base = size if self.relative_to == "lq" else image.shape[:2]
        target = max(1, round(factor * base[0])), max(1, round(factor * base[1]))
        return resized(image, target, mode)


@DEGRADATIONS.register
class Noise(Stage):
    """Gaussian or Poisson noise, coloured or grey; new in each frame, its kind and strength those of the clip.

    Args:
        gaussian_noise_prob: Probability of Gaussian noise; else it is Poisson noise.
        noise_range: [least, most] standard deviation of Gaussian noise, of 255.
        poisson_scale_range: [least, most] factor on Poisson noise.
        gray_noise_prob: Probability that the three channels have the same noise.
        prob: How probable the stage is.
        vary: Draw kind and strength anew for every frame, not for a clip.
    """

    def __init__(
        self,
        *,
        gaussian_noise_prob: float = 0.5,
        noise_range: Sequence[float] = (1.0, 30.0),
        poisson_scale_range: Sequence[float] = (0.05, 3.0),
        gray_noise_prob: float = 0.4,
        prob: float = 1.0,
        vary: bool = False,
    ) -> None:
        self.gaussian = check_prob(gaussian_noise_prob, "gaussian_noise_prob")
        self.sigma = check_range("noise_range", noise_range, least=0)
        self.factor = check_range("poisson_scale_range", poisson_scale_range, least=0)
        self.gray, self.prob, self.vary = check_prob(gray_noise_prob, "gray_noise_prob"), check_prob(prob), vary

    def draw(self, rng: Rng) -> tuple[bool, float, bool]:
        gaussian, gray, share = rng.random() < self.gaussian, rng.random() < self.gray, rng.random()
        low, high = self.sigma if gaussian else self.factor
        return gaussian, low + share * (high - low), gray

    def apply(self, image: Image, drawn: Any, rng: Rng, size: Size) -> Image:
        gaussian, strength, gray = drawn
        if gaussian:
            noise = rng.standard_normal((*image.shape[:2], 1 if gray else 3), np.float32)
        else:
            noise = poisson_noise(image, rng, gray=gray)
        return np.clip(image + np.float32(strength) * noise, 0, 255)


@DEGRADATIONS.register
class JPEG(Stage):
    """JPEG compression (4:2:0) of each frame by itself.

    Args:
        jpeg_range: [least, most] quality, 1 to 100.
        prob: How probable the stage is.
        vary: Draw anew for every frame, not for a clip.
    """

    def __init__(self, *, jpeg_range: Sequence[float] = (30, 95), prob: float = 1.0, vary: bool = False) -> None:
        self.range = check_range("jpeg_range", jpeg_range, least=1, most=100)
        self.prob, self.vary = check_prob(prob), vary

    def reach(self, scale: int) -> int:
        return 2  # where the decoder smooths the halved colour

    def align(self) -> int:
        return 16

    def draw(self, rng: Rng) -> int:
        return round(rng.uniform(*self.range))

    def apply(self, image: Image, drawn: Any, rng: Rng, size: Size) -> Image:
        return jpeg(image, drawn)


@DEGRADATIONS.register
class Shuffle(Stage):
    """Apply groups of stages in random order; Real-ESRGAN ends so, with its last resizing and JPEG.

    Args:
        groups: Lists of stages; each keeps its own order.
        prob: How probable it is that the order is drawn; else the groups come as they are listed.
        vary: Draw anew for every frame, not for a clip.
    """

    local, resizes = False, "free"

    def __init__(self, *, groups: Sequence[Sequence[Mapping[str, Any]]], prob: float = 1.0, vary: bool = False) -> None:
        if len(groups) < 2 or not all(groups):
            raise ValueError(f"groups: expected two lists of stages or more, got {len(groups)}.")
        self.groups: list[list[Stage]] = [[DEGRADATIONS.build(stage) for stage in group] for group in groups]
        for stage in (stage for group in self.groups for stage in group):
            if isinstance(stage, ClipStage | FrameAverage | USM | Shuffle):
                raise ValueError(f"groups: expected stages of single frames, got {type(stage).__name__}.")
        self.shuffle, self.vary, self.prob = check_prob(prob), vary, 1.0

    def draw(self, rng: Rng) -> list[tuple[Stage, Any]]:
        shuffled, order = rng.random() < self.shuffle, rng.permutation(len(self.groups))
        drawn = [[(stage, rng.random() < stage.prob, stage.draw(rng)) for stage in group] for group in self.groups]
        groups = [drawn[i] for i in order] if shuffled else drawn
        return [(stage, value) for group in groups for stage, acts, value in group if acts]

    def apply(self, image: Image, drawn: Any, rng: Rng, size: Size) -> Image:
        for stage, value in drawn:
            image = stage.apply(image, value, rng, size)
        return image
