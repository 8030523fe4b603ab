"""The processes of a run: one, or the several that torchrun or srun started.

Every function works alike with and without a process group, so that callers never ask.
"""

import contextlib
import ctypes
import datetime
import gc
import importlib
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as torch_dist
from torch.distributed.rendezvous import rendezvous

from vsr.utils.meeting import meet

_hosts: torch_dist.ProcessGroup | None = None  # gloo beside NCCL, for what hosts tell each other; None: the only group
_waiting: torch_dist.ProcessGroup | None = None  # gloo, for waits that may be long
_timeout = math.inf  # seconds, of the process group

told_to_end = False  # by SIGTERM, which was noted and not obeyed at once: torchrun ends its processes so

GRACE = 5.0  # seconds in which torchrun ends the processes that are left when one has failed
PATIENCE = 24 * 3600.0  # seconds of ``wait_for_all``


def init(timeout: float) -> torch.device:
    """Join the other processes, if torchrun or srun started any, and return this process's device.

    NCCL connects GPUs, gloo CPUs.

    Args:
        timeout: Seconds that a process waits for the others before it raises.

    Raises:
        ValueError: more processes than GPUs on this machine.
        TimeoutError: the others did not come.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        # srun --gpus-per-task=1 shows each process its own GPU and no other; torchrun's processes see all.
        if torch.cuda.device_count() == 1 and "SLURM_LOCALID" in os.environ and not _by_torchrun():
            local_rank = 0
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"--nproc_per_node: expected at most {torch.cuda.device_count()} processes, one for each visible GPU, "
                f"got local rank {local_rank}. Start fewer, or set CUDA_VISIBLE_DEVICES."
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if _by_torchrun():  # a killed torchrun's processes would train on, and keep the next run out
        die_with_parent()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch_dist.is_initialized():
        # Its defaults (group=group.WORLD) would keep hold of the group were it imported later, as torch._dynamo does:
        # the group's threads would outlive shutdown(), and abort the process when they meet the ending interpreter.
        importlib.import_module("torch.distributed.nn.functional")
        limit = datetime.timedelta(seconds=timeout)
        store, rank, world_size = next(rendezvous("env://", timeout=limit))
        store = meet(store, rank, world_size, timeout)
        torch_dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=world_size, timeout=limit
        )
        global _hosts, _waiting, _timeout
        if device.type == "cuda":
            _hosts = torch_dist.new_group(backend="gloo", timeout=limit)
        _waiting = torch_dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=PATIENCE))
        _timeout = timeout
    return device


def _by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def die_with_parent() -> None:
    """Ask the system to kill this process when the one that started it ends, which may have no chance to do it."""
    if sys.platform != "linux":
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of sys/prctl.h
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def lost_another(error: BaseException) -> bool:
    """Whether an error says no more than that another process has ended, or does not answer in time."""
    if "gloo/transport" in str(error):
        return isinstance(error, RuntimeError)
    return isinstance(error, torch_dist.DistError) and torch_dist.is_initialized()  # else they have never met


def let_the_first_cause_be_told() -> None:
    """Wait a moment for torchrun to end this process, which fails because another one did.

    Without it torchrun would often see both ends at once, and name the wrong one as the root cause.
    """
    if _by_torchrun() and not told_to_end:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(GRACE)


def tell_launcher(text: str) -> None:
    """Leave the reason of this process's failure where torchrun looks for it, which tells the first one at its end."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        return
    reason = {"message": {"message": text, "extraInfo": {"timestamp": str(int(time.time()))}}}
    with contextlib.suppress(OSError):  # a full disk must not hide what went wrong
        Path(path).write_text(json.dumps(reason), encoding="utf-8")


def shutdown() -> None:
    """Leave the process group, if there is one."""
    global _hosts, _waiting, _timeout
    _hosts = _waiting = None
    _timeout = math.inf
    if torch_dist.is_initialized():
        torch_dist.destroy_process_group()
        gc.collect()  # what DDP keeps of the group in cycles; the group's threads end with its last owner


def rank() -> int:
    """This process's number among all of the run; known from the environment before ``init``, too."""
    return torch_dist.get_rank() if torch_dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return torch_dist.get_world_size() if torch_dist.is_initialized() else 1


def local_world_size() -> int:
    """Number of the run's processes on this machine, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    """Wait until every process has come here."""
    if torch_dist.is_initialized():
        # NCCL would have to guess the GPU, and guesses wrong where ranks and GPUs are numbered differently.
        nccl = torch_dist.get_backend() == "nccl"
        torch_dist.barrier(device_ids=[torch.cuda.current_device()] if nccl else None)


def wait_for_all() -> None:
    """Wait until every process has come here, for as long as it takes.

    For work that may keep one process much longer than another. One that hangs there must end by itself (HangWatch).
    """
    if _waiting is not None:
        torch_dist.barrier(group=_waiting)


def patience() -> float:
    """Seconds that the others wait for this process before they give up; infinite where there are no others."""
    return _timeout


def any_process(value: bool) -> bool:
    """Whether ``value`` is true on any process; it goes from host to host, and waits for no GPU."""
    if not torch_dist.is_initialized():
        return value
    flag = torch.tensor([int(value)], dtype=torch.int32)
    torch_dist.all_reduce(flag, torch_dist.ReduceOp.MAX, group=_hosts)
    return bool(flag)


def mean(values: Tensor) -> Tensor:
    """Return the mean of ``values`` (any shape, one device for each process) over the processes."""
    if not torch_dist.is_initialized():
        return values
    total = values.clone()
    torch_dist.all_reduce(total)
    return total / world_size()


def gather_json(value: Any) -> list[Any]:
    """Return every process's ``value``, in the order of ranks, on every process.

    The values travel as JSON text in tensors: unlike pickled objects they cannot run code. Floats
    come back exactly, infinities and NaN included.
    """
    if not torch_dist.is_initialized():
        return [value]
    device = "cuda" if torch_dist.get_backend() == "nccl" else "cpu"
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world_size())]
    torch_dist.all_gather(sizes, torch.tensor([text.numel()], device=device))
    padded = torch.zeros(int(max(sizes)), dtype=torch.uint8, device=device)
    padded[: text.numel()] = text
    parts = [torch.empty_like(padded) for _ in sizes]
    torch_dist.all_gather(parts, padded)
    return [json.loads(part[: int(size)].cpu().numpy().tobytes()) for part, size in zip(parts, sizes, strict=True)]


def broadcast_json(value: Any) -> Any:
    """Return rank 0's ``value`` on every process."""
    return gather_json(value if is_main() else None)[0]
