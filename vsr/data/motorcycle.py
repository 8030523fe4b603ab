"""The motorcycle of Middlebury 2014 as a small set of stereo pairs with true disparity: bands of its rows.

Source: Scharstein et al., High-resolution stereo datasets with subpixel-accurate ground truth (GCPR 2014), reduced to
500 x 741 by scikit-image, which brings it along.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from vsr.utils.files import atomic_write
from vsr.utils.images import Frame, write_image

# What belongs together in two views lies on one row, so the picture is cut between rows: first and behind the last one.
# 20 rows between training and validation are used by neither.
TRAIN = {"top": (0, 160), "bottom": (340, 500)}
VAL = {"middle": (180, 320)}
WIDTH = 740  # of 741 columns: a multiple of the scales


def prepare_motorcycle(output: str | Path) -> list[str]:
    """Write OUTPUT/train/{top,bottom} and OUTPUT/val/middle, {hr0,hr1}.png each, and OUTPUT/disparity/middle.npy.

    Files that are there are written anew, with the same content.

    Returns:
        Lines that say what there is.

    Raises:
        ValueError: scikit-image or its picture is not there.
        OSError: the disk is full or cannot be written to.
    """
    left, right, disparity = _picture()
    folder, lines = Path(output), []
    for part, bands in (("train", TRAIN), ("val", VAL)):
        for name, (first, last) in bands.items():
            pair = folder / part / name
            pair.mkdir(parents=True, exist_ok=True)
            for number, view in enumerate((left, right)):
                write_image(pair / f"hr{number}.png", np.ascontiguousarray(view[first:last, :WIDTH]))
            lines.append(f"{pair}: rows {first} to {last - 1} of 500, {last - first}x{WIDTH}")
    (folder / "disparity").mkdir(exist_ok=True)
    for name, (first, last) in VAL.items():
        file = folder / "disparity" / f"{name}.npy"
        with atomic_write(file) as out:
            np.save(out, disparity[first:last, :WIDTH].astype(np.float32))
        lines.append(f"{file}: its true disparity, x_left - x_right")
    return lines


def _picture() -> tuple[Frame, Frame, npt.NDArray[np.floating]]:
    """Return the left view, the right one, and the left one's disparity, infinite where it is unknown."""
    try:
        from skimage.data import stereo_motorcycle  # heavy, and only needed here

        left, right, disparity = stereo_motorcycle()
    except (ImportError, OSError, ValueError) as error:  # a version that fetches it, and cannot
        raise ValueError(
            f"motorcycle: expected scikit-image to bring its picture along, got: {error}. "
            "pip install scikit-image==0.26.0"
        ) from error
    return left, right, disparity
