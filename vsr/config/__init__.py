"""Option files: the schema, reading, checking, writing."""

from vsr.config.dump import dump_options, hash_options
from vsr.config.load import load_options
from vsr.config.reader import OptionError
from vsr.config.schema import (
    Component,
    DatasetOptions,
    DistOptions,
    LoggerOptions,
    MetricOptions,
    OffsetWatchOptions,
    Options,
    PathOptions,
    TrainOptions,
    ValOptions,
)

__all__ = [
    "Component",
    "DatasetOptions",
    "DistOptions",
    "LoggerOptions",
    "MetricOptions",
    "OffsetWatchOptions",
    "OptionError",
    "Options",
    "PathOptions",
    "TrainOptions",
    "ValOptions",
    "dump_options",
    "hash_options",
    "load_options",
]
