"""Optimisers, and learning rates as functions of the step."""

from vsr.optim.optimizers import build_optimizer
from vsr.optim.schedules import Schedule, build_schedule

__all__ = ["Schedule", "build_optimizer", "build_schedule"]
