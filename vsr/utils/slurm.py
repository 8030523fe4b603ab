"""Processes that SLURM's srun starts: their numbers and where they meet, from the environment alone.

No program is called, and no shell: what stands in SLURM_NODELIST is text from outside.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping

log = logging.getLogger(__name__)

MOST_NODES = 100_000  # that a node list may name: 'n[0-999999999]' is a mistake, or worse
MOST_RANGES = 8  # in one name
_RANGES = r"\[[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*\]"
_HOST = rf"[A-Za-z0-9](?:[A-Za-z0-9_.-]|{_RANGES})*|{_RANGES}(?:[A-Za-z0-9_.-]|{_RANGES})*"
_LIST = re.compile(rf"(?:{_HOST})(?:,(?:{_HOST}))*")
_EACH = re.compile(rf"(?:[^,\[]|{_RANGES})+")
_LONGEST = 1 << 20  # characters of a node list


def adopt() -> bool:
    """Let srun's environment say what torchrun's would: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR ...

    Nothing is changed where torchrun's variables are there already, and in the batch script itself, which SLURM gives
    the variables of a first task, too.

    Returns:
        Whether this process is one of several that srun has started.

    Raises:
        ValueError: a variable of SLURM is not what it should be.
    """
    found = variables(os.environ)
    os.environ.update(found)
    return bool(found)


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that ``adopt`` sets; MASTER_ADDR and MASTER_PORT stay as they are where they are given."""
    if "SLURM_PROCID" not in environment or "RANK" in environment or "WORLD_SIZE" in environment:
        return {}
    # Of the step where it is told: in the shell that salloc opens SLURM_NTASKS is the job's.
    tasks = _number(environment, "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_NTASKS", 1))
    rank = _number(environment, "SLURM_PROCID")
    list_name = next(
        (n for n in ("SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST") if environment.get(n)), ""
    )
    hosts = expand(environment[list_name], list_name) if list_name else []
    if tasks == 1:
        return {}
    if "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment:
        log.warning(
            "SLURM_NTASKS is %d, but srun has not started this process: it works alone. Put srun in front", tasks
        )
        return {}
    if rank >= tasks:
        raise ValueError(f"SLURM_PROCID: expected less than SLURM_NTASKS, {tasks}, got {rank}.")
    if not hosts and "MASTER_ADDR" not in environment:
        raise ValueError(
            "SLURM_NODELIST: expected the names of the nodes, found none. Set MASTER_ADDR to the first one."
        )
    node = _number(environment, "SLURM_NODEID", 0)
    per_node = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE") or "1"
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": str(_number(environment, "SLURM_LOCALID", 0)),
        "LOCAL_WORLD_SIZE": str(_tasks_of(node, per_node)),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or hosts[0],
        "MASTER_PORT": environment.get("MASTER_PORT") or str(_port(environment)),
    }


def expand(nodes: str, name: str = "SLURM_NODELIST") -> list[str]:
    """Return the hosts that a list of SLURM names: 'node[01-03,7],gpu-a[1-2]b' are six.

    Args:
        nodes: Names with commas between them; '[01-03,7]' stands for each of its numbers.
        name: The variable that it comes from; starts the messages.

    Raises:
        ValueError: it is anything else, or too long.
    """
    if len(nodes) > _LONGEST or not _LIST.fullmatch(nodes):
        raise ValueError(
            f"{name}: expected names of hosts, as in node[01-03,7],gpu-a[1-2]b, got {nodes[:100]!r}. "
            "It comes from SLURM; unset it, or set it right."
        )
    hosts: list[str] = []
    for entry in _EACH.findall(nodes):
        if entry.count("[") > MOST_RANGES:
            raise ValueError(f"{name}: expected at most {MOST_RANGES} ranges in a name, got {entry[:100]!r}.")
        for host in _hosts(re.split(rf"({_RANGES})", entry), name):
            hosts.append(host)
            if len(hosts) > MOST_NODES:
                raise ValueError(f"{name}: expected at most {MOST_NODES} hosts, got more: {nodes[:100]!r}.")
    return hosts


def _hosts(parts: list[str], name: str) -> Iterator[str]:
    """Yield what a name stands for that was split at its ranges: text, range, text ..."""
    if len(parts) == 1:
        yield parts[0]
        return
    for number in _numbers(parts[1][1:-1], name):
        for rest in _hosts(parts[2:], name):
            yield f"{parts[0]}{number}{rest}"


def _numbers(ranges: str, name: str) -> Iterator[str]:
    for part in ranges.split(","):
        low, _, high = part.partition("-")
        if len(part) > 40 or int(high or low) < int(low):
            raise ValueError(f"{name}: expected a range from less to more, got [{part[:50]}].")
        for number in range(int(low), int(high or low) + 1):
            yield f"{number:0{len(low)}d}"


def _tasks_of(node: int, tasks: str) -> int:
    """Return how many tasks run on a node, of SLURM's '4(x2),3': 4, 4 and 3."""
    before = 0
    for part in tasks.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?", part)
        if match is None:
            raise ValueError(f"SLURM_TASKS_PER_NODE: expected numbers such as 4(x2),3, got {tasks[:100]!r}.")
        before += int(match[2] or 1)
        if node < before:
            return int(match[1])
    raise ValueError(f"SLURM_NODEID: expected a node of SLURM_TASKS_PER_NODE {tasks[:100]!r}, got {node}.")


def _port(environment: Mapping[str, str]) -> int:
    """Return a port that all tasks of a step agree on, below those that the system deals out itself."""
    job, step = (_number(environment, name, 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return 15000 + (31 * job + step) % 15000


def _number(environment: Mapping[str, str], name: str, absent: int | None = None) -> int:
    given = environment.get(name, "" if absent is None else str(absent))
    if not re.fullmatch("[0-9]{1,10}", given):
        raise ValueError(f"{name}: expected a number of 0 or more, got {given[:100]!r}.")
    return int(given)
