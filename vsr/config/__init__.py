"""Option files: the schema, reading, checking, writing."""

from vsr.config.dump import dump_options, hash_options
from vsr.config.fmanet import FMANET_LOSSES
from vsr.config.load import load_options
from vsr.config.reader import OptionError
from vsr.config.schema import (
    ClipGradOptions,
    Component,
    DatasetOptions,
    DatasetPart,
    DistOptions,
    FreezeOptions,
    LoggerOptions,
    MetricOptions,
    OffsetWatchOptions,
    Options,
    PathOptions,
    PredictionOptions,
    StageOptions,
    TrainOptions,
    ValOptions,
    VisdomOptions,
)

__all__ = [
    "FMANET_LOSSES",
    "ClipGradOptions",
    "Component",
    "DatasetOptions",
    "DatasetPart",
    "DistOptions",
    "FreezeOptions",
    "LoggerOptions",
    "MetricOptions",
    "OffsetWatchOptions",
    "OptionError",
    "Options",
    "PathOptions",
    "PredictionOptions",
    "StageOptions",
    "TrainOptions",
    "ValOptions",
    "VisdomOptions",
    "dump_options",
    "hash_options",
    "load_options",
]
