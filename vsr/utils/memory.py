"""Telling that memory ran out, on any device, and how much there is."""

import gc

import torch

_TEXTS = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc", "cannot allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: a GPU's, or that of the machine as torch or Python tell it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _TEXTS)


def usage(device: torch.device) -> str:
    """Return how much of a GPU's memory is in use, in words; empty for a CPU."""
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    return (
        f"; {allocated / 1e6:.0f} MB allocated and {reserved / 1e6:.0f} MB reserved by this process, "
        f"{free / 1e6:.0f} MB of {total / 1e6:.0f} MB free"
    )


def give_back() -> None:
    """Return what Python no longer refers to to the device, so that smaller parts may fit."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
