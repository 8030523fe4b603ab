"""Inference over any callable: padding, tiles, self-ensemble, and windows over streams of frames."""

from vsr.inference.fallback import Tiling as Tiling
from vsr.inference.restore import infer as infer
from vsr.inference.restore import restore as restore
