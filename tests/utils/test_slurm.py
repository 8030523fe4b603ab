"""srun's environment: who a process is and where all meet, and node lists that are none."""

import subprocess
import sys
from pathlib import Path

import pytest
from faultkit import stub_program
from kit import ROOT

from vsr.utils import slurm
from vsr.utils.slurm import expand, variables

TASK = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "2",
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_NODELIST": "node[07-08]",
}


@pytest.mark.parametrize(
    ("nodes", "hosts"),
    [
        ("localhost", ["localhost"]),
        ("a,b.example.org,c_1", ["a", "b.example.org", "c_1"]),
        ("node[01-03,7],gpu-a[1-2]b", ["node01", "node02", "node03", "node7", "gpu-a1b", "gpu-a2b"]),
        ("n[8-11]", ["n8", "n9", "n10", "n11"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("[3-4]", ["3", "4"]),
        ("10.0.0.[1-2]", ["10.0.0.1", "10.0.0.2"]),
    ],
)
def test_a_node_list_is_expanded(nodes: str, hosts: list[str]) -> None:
    assert expand(nodes) == hosts


HOSTILE = [
    "x; touch pwned", "$(touch pwned)", "`touch pwned`", "x|touch pwned", "x\ntouch pwned", "x\n", "a b", "", ",",
    "a,,b", "n[1-", "n[1-2", "n1-2]", "n[]", "n[a-b]", "n[1-2-3]", "n[[1]]", "n[2-1]", "n[-1]", "-oProxyCommand=x",
    "../x", "n[\N{ARABIC-INDIC DIGIT THREE}]", "\N{FULLWIDTH LATIN SMALL LETTER N}1",
    "n[0-999999999]", "n[0-9]" * 9, f"n[{'9' * 60}]", "n[1-9][0-9999][0-9999]", "a" * (2 << 20),
]  # fmt: skip


@pytest.mark.parametrize("nodes", HOSTILE, ids=lambda text: ascii(text[:20]))
def test_what_is_no_node_list_is_refused(nodes: str) -> None:
    with pytest.raises(ValueError, match=r"^SLURM_NODELIST: expected "):
        expand(nodes)


def test_a_task_of_srun_knows_what_torchrun_would_tell_it() -> None:
    assert variables(TASK) == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "node07",
        "MASTER_PORT": str(15000 + (31 * 1234 + 2) % 15000),
    }


def test_a_step_on_some_of_the_nodes_meets_on_its_own() -> None:
    found = variables({**TASK, "SLURM_STEP_NODELIST": "node08", "SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_NODEID": "0"})
    assert (found["MASTER_ADDR"], found["LOCAL_WORLD_SIZE"]) == ("node08", "8")


def test_the_shell_of_salloc_is_one_task() -> None:
    shell = {"SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    assert variables(TASK | shell) == {}


def test_what_the_user_gives_goes_first() -> None:
    given = {**TASK, "MASTER_ADDR": "10.1.1.1", "MASTER_PORT": "4000"}
    assert {"MASTER_ADDR": "10.1.1.1", "MASTER_PORT": "4000"}.items() <= variables(given).items()
    del given["SLURM_NODELIST"]
    assert variables(given)["MASTER_ADDR"] == "10.1.1.1"
    assert variables({**TASK, "RANK": "0", "WORLD_SIZE": "2"}) == {}  # torchrun below srun
    assert variables({}) == {}


def test_one_task_and_the_batch_script_work_alone(caplog: pytest.LogCaptureFixture) -> None:
    assert variables({**TASK, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}) == {}
    assert not caplog.records
    batch_script = {key: value for key, value in TASK.items() if key != "SLURM_STEP_ID"} | {"SLURM_PROCID": "0"}
    assert variables(batch_script) == {}
    assert "Put srun in front" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("SLURM_PROCID", "x", "SLURM_PROCID: expected a number"),
        ("SLURM_PROCID", "8", "SLURM_PROCID: expected less than SLURM_NTASKS"),
        ("SLURM_NTASKS", "8; x", "SLURM_NTASKS: expected a number"),
        ("SLURM_NTASKS", "", "SLURM_NTASKS: expected a number"),
        ("SLURM_LOCALID", "-1", "SLURM_LOCALID: expected a number"),
        ("SLURM_NODELIST", "", "SLURM_NODELIST: expected the names of the nodes, found none"),
        ("SLURM_TASKS_PER_NODE", "4(x", "SLURM_TASKS_PER_NODE: expected numbers"),
        ("SLURM_NODEID", "2", "SLURM_NODEID: expected a node of"),
    ],
)
def test_a_variable_that_is_wrong_is_named(name: str, value: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        variables({**TASK, name: value})


def test_tasks_of_each_node() -> None:
    assert [slurm._tasks_of(node, "4(x2),3,1(x2)") for node in range(5)] == [4, 4, 3, 1, 1]


@pytest.mark.fault
@pytest.mark.parametrize("nodes", ["x; touch pwned", "$(touch pwned)"])
def test_a_hostile_node_list_runs_nothing(tmp_path: Path, nodes: str, tiny: Path) -> None:
    calls = [stub_program(tmp_path / "bin", name) for name in ("scontrol", "touch", "sh", "hostname")]
    result = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "-opt", str(tiny), "--launcher", "slurm"],
        env={"PATH": str(tmp_path / "bin"), "PYTHONPATH": str(ROOT / "tests"), **TASK, "SLURM_NODELIST": nodes},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert f"SLURM_NODELIST: expected names of hosts, as in node[01-03,7],gpu-a[1-2]b, got {nodes!r}" in result.stderr
    assert "Traceback" not in result.stderr
    assert not [path for path in calls if path.exists()]
    assert not list(tmp_path.rglob("pwned"))
