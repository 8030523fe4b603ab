"""What all full-reference image metrics share: input conventions, views of a stereo pair, crop, luma."""

from typing import Any, Literal, overload

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor

from vsr.utils.images import rgb_to_y

Array = npt.NDArray[Any]

LEFT_MARGIN = 64  # columns at the left of the left view that the right one does not see; the *_left metrics drop them

# BT.601 luma of RGB in [0, 255], without its offset of 16.
_LUMA = np.array([[65.481, 128.553, 24.966]]) / 255.0


class ImageMetric:
    """Compares a restored image with its target; a stereo pair is the mean of its views.

    Args:
        definition: What the number means, printed beside it.
        unit: Of the value; may be empty.
        crop_border: Pixels that are left out at each side.
        test_y_channel: Compare luma (BT.601, not rounded) instead of RGB.
        input_order: Of the arrays given to a call: 'HWC' or 'CHW'.
        left_only: Of a stereo pair measure the left view, without its first LEFT_MARGIN columns.
    """

    higher_is_better = True
    decimals = 4  # to print
    follows = False  # a metric that does compares a frame and the one before it, see vsr.metrics.tof
    of_pairs = False  # measures a stereo pair as a whole: see vsr.metrics.stereo_consistency

    def __init__(
        self,
        *,
        definition: str,
        unit: str,
        crop_border: int,
        test_y_channel: bool,
        input_order: Literal["HWC", "CHW"],
        left_only: bool,
    ) -> None:
        if crop_border < 0:
            raise ValueError(f"crop_border: expected a number of pixels >= 0, got {crop_border}")
        if input_order not in ("HWC", "CHW"):
            raise ValueError(f"input_order: expected 'HWC' or 'CHW', got {input_order!r}")
        self.definition, self.unit = definition, unit
        self.crop_border, self.luma, self.left_only = crop_border, test_y_channel, left_only
        self.input_order = input_order

    def __repr__(self) -> str:
        return f"<{self.definition}>"

    @overload
    def __call__(self, restored: Array, target: Array) -> float: ...
    @overload
    def __call__(self, restored: Tensor, target: Tensor) -> float: ...
    def __call__(self, restored: Array | Tensor, target: Array | Tensor) -> float:
        """Return the value for two images of one size.

        Args:
            restored, target: Either arrays as the official functions take them: (h, w), (h, w, 3) or
                (h, w, 6) for a stereo pair, channels B, G, R, range [0, 255]; a float array whose
                values stay within 1 counts as [0, 1]. Or tensors (3, h, w) or (1, 3, h, w), 6 channels
                for a pair, float RGB in [0, 1]; they are measured where they are.

        Raises:
            ValueError: the sizes differ, or are not those above, or nothing is left after the crop.
        """
        if isinstance(restored, Tensor) and isinstance(target, Tensor):
            _check_sizes(restored, target)
            if restored.dim() == 4 and restored.shape[0] == 1:
                restored, target = restored[0], target[0]
            if restored.dim() != 3 or not (restored.is_floating_point() and target.is_floating_point()):
                raise ValueError(
                    f"restored: expected a float tensor (3, h, w) or (1, 3, h, w) in [0, 1], "
                    f"got {restored.dtype} {tuple(restored.shape)}"
                )
            x, y = restored.detach().double(), target.detach().to(restored.device).double()
            return _mean([self._of_tensors(*pair) for pair in zip(self._views(x), self._views(y), strict=True)])
        return self._of_arrays(rgb_arrays(restored, target, self.input_order))

    def measure(self, restored: Array, target: Array) -> float:
        """Return the value for two RGB images uint8 (h, w, 3), or (h, w, 6) for a stereo pair.

        Raises:
            ValueError: as for a call.
        """
        _check_sizes(restored, target)
        if restored.dtype != np.uint8 or target.dtype != np.uint8:
            raise ValueError(f"restored and target: expected uint8, got {restored.dtype} and {target.dtype}")
        return self._of_arrays([_three_axes(image, "HWC") for image in (restored, target)])

    def compare(self, restored: Array, target: Array) -> float:
        """Return the value of one view: RGB (h, w, 3), or (h, w, 1) grey, uint8 or float64 in [0, 255]."""
        raise NotImplementedError

    def compare_tensors(self, restored: Tensor, target: Tensor) -> float:
        """Return the value of one view: (c, h, w) float64 in [0, 1], RGB, or luma alone if ``self.luma``."""
        raise NotImplementedError

    def _of_arrays(self, images: list[Array]) -> float:
        restored, target = ([v.transpose(1, 2, 0) for v in self._views(i.transpose(2, 0, 1))] for i in images)
        return _mean([self.compare(*map(np.ascontiguousarray, pair)) for pair in zip(restored, target, strict=True)])

    def _of_tensors(self, restored: Tensor, target: Tensor) -> float:
        if self.luma and restored.shape[0] == 3:
            restored, target = rgb_to_y(restored), rgb_to_y(target)
        return self.compare_tensors(restored, target)

    def _views(self, image: Any) -> list[Any]:
        """Split an array or tensor (c, h, w) into its views and crop them."""
        channels, height, width = image.shape
        if channels not in (1, 3, 6):
            raise ValueError(f"restored: expected 1, 3 or 6 channels, got {tuple(image.shape)} as (c, h, w)")
        views = [image[:3], image[3:]] if channels == 6 else [image]
        if self.left_only:
            views = [views[0][:, :, LEFT_MARGIN:]]
        crop = self.crop_border
        views = [view[:, crop : height - crop, crop : view.shape[2] - crop] for view in views]
        if 0 in views[0].shape:
            raise ValueError(
                f"crop_border: expected to leave something of {height} x {width}, got {crop}"
                + (f" besides the {LEFT_MARGIN} columns of the left view" if self.left_only else "")
            )
        return views


def rgb_arrays(restored: Any, target: Any, order: str) -> list[Array]:
    """Return two arrays, as a metric is called with them, as RGB (h, w, c) in [0, 255], uint8 or float64.

    Raises:
        ValueError: they are no arrays, or their types, shapes or sizes are not those of a call.
    """
    if not (isinstance(restored, np.ndarray) and isinstance(target, np.ndarray)):
        raise ValueError(
            f"restored and target: expected two arrays or two tensors, "
            f"got {type(restored).__name__} and {type(target).__name__}"
        )
    _check_sizes(restored, target)
    arrays = [_three_axes(image, order) for image in _in_255(restored, target)]
    return [image[..., _BGR_TO_RGB[image.shape[2]]] for image in arrays]


def luma(image: Array) -> Array:
    """Return the luma of RGB (h, w, 3) in [0, 255] without its offset, float64 (h, w, 1); of grey, the image."""
    if image.shape[2] == 1:
        return image.astype(np.float64)
    return cv2.transform(image.astype(np.float64), _LUMA).reshape(*image.shape[:2], 1)


def describe(name: str, *, test_y_channel: bool, crop_border: int, left_only: bool, window: str = "") -> str:
    """Return the definition that is printed beside a value."""
    parts = [name, "Y" if test_y_channel else "RGB", window, f"crop {crop_border}"]
    if left_only:
        parts.append(f"left view without its first {LEFT_MARGIN} columns")
    return ", ".join(part for part in parts if part)


_BGR_TO_RGB = {1: [0], 3: [2, 1, 0], 6: [2, 1, 0, 5, 4, 3]}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _check_sizes(restored: Array | Tensor, target: Array | Tensor) -> None:
    if restored.shape != target.shape:
        raise ValueError(
            f"restored and target: expected one size, got {tuple(restored.shape)} and {tuple(target.shape)}. "
            "Check the scale, and how the target was cropped"
        )


def _three_axes(image: Array, order: str) -> Array:
    image = image[..., None] if image.ndim == 2 else image.transpose(1, 2, 0) if order == "CHW" else image
    if image.ndim != 3 or image.shape[2] not in _BGR_TO_RGB:
        raise ValueError(f"restored: expected (h, w), or 1, 3 or 6 channels, got {image.shape} in the order {order}")
    return image


def _in_255(restored: Array, target: Array) -> list[Array]:
    """Bring both to uint8 or float64 in [0, 255]."""
    images = [restored, target]
    for image in images:
        if image.dtype.kind not in "uif" or image.size == 0:
            raise ValueError(f"restored and target: expected images of numbers, got {image.dtype} {image.shape}")
    if all(image.dtype.kind == "f" for image in images) and max(image.max() for image in images) <= 1:
        return [image.astype(np.float64) * 255.0 for image in images]
    if all(image.dtype == np.uint8 for image in images):
        return images
    return [image.astype(np.float64) for image in images]
