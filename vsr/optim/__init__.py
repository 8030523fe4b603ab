"""Optimisers, and learning rates as functions of the step."""

from vsr.optim.optimizers import build_optimizer, check_parts, load_by_name, state_by_name
from vsr.optim.schedules import Schedule, build_schedule

__all__ = ["Schedule", "build_optimizer", "build_schedule", "check_parts", "load_by_name", "state_by_name"]
