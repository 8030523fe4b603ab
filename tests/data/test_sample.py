import itertools

import numpy as np
import pytest

from vsr.data.augment import Flips
from vsr.data.sample import QUICK_SIDE, stacked


@pytest.mark.parametrize("flips", [Flips(*choice) for choice in itertools.product((False, True), repeat=3)])
@pytest.mark.parametrize("layout", ["planes", "pixels", "part of planes", "part of pixels"])
@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("side", [5, QUICK_SIDE])
def test_views_of_any_kind_are_copied_as_they_are(flips: Flips, layout: str, channels: int, side: int) -> None:
    shape = (channels, side, side + 7) if "planes" in layout else (side, side + 7, channels)
    whole = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    whole.flags.writeable = False
    images = whole if "planes" in layout else whole.transpose(2, 0, 1)
    if "part" in layout:
        images = images[:, 1:, 3:-2]
    view = flips.apply(images)
    result = stacked([view, view])
    assert tuple(result.shape) == (2, *view.shape)
    for i, channel, row in itertools.product(range(2), range(channels), (0, 2, side // 2)):
        assert result[i, channel, row].tolist() == view[channel, row].tolist()
    np.testing.assert_array_equal(result[1].numpy(), view)
