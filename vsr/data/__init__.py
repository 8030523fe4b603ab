"""Data sets, the order in which their samples are drawn, and their way into batches."""

from vsr.data.loader import build_dataset, build_train_loader, build_val_loader
from vsr.data.sampler import TrainSampler

__all__ = ["TrainSampler", "build_dataset", "build_train_loader", "build_val_loader"]
