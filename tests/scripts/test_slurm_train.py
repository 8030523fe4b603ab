"""The batch script for SLURM, with stubs in the places of srun, scontrol and Python."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from faultkit import stub_program
from kit import ROOT

SCRIPT = ROOT / "scripts" / "slurm_train.sh"
BASH = shutil.which("bash")
pytestmark = [pytest.mark.fault, pytest.mark.skipif(BASH is None, reason="needs bash")]

# Notes its arguments; then takes a line of srun.does: a status, or to wait for SIGUSR1 and leave a marker, or none.
SRUN = """#!/bin/bash
trap 'if [[ $does == wait ]]; then : > "$FOLDER/PREEMPTED"; fi; exit 0' USR1
printf '%s\\n' "$@" '' >> "$BIN/srun.calls"
{ read -r does; cat > "$BIN/rest"; } < "$BIN/srun.does"
mv "$BIN/rest" "$BIN/srun.does"
: > "$BIN/started"
case $does in
    wait | finish) while :; do sleep 0.02; done ;;
    *) exit "$does" ;;
esac
"""


class Cluster:
    """A folder with stubs, where the script is run."""

    def __init__(self, root: Path, does: list[str]) -> None:
        self.root, self.bin, self.folder = root, root / "bin", root / "experiments" / "a run"
        self.folder.mkdir(parents=True)
        self.python = stub_program(self.bin, "py", output=f"{self.folder}\n")
        self.scontrol = stub_program(self.bin, "scontrol")
        (self.bin / "srun").write_text(SRUN)
        (self.bin / "srun").chmod(0o755)
        (self.bin / "srun.does").write_text("".join(f"{line}\n" for line in does))

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(BASH), str(SCRIPT), *arguments],
            env={
                "PATH": f"{self.bin}:{os.environ['PATH']}", "PYTHON": "py", "SLURM_JOB_ID": "77", "SLURM_NTASKS": "4",
                "BIN": str(self.bin), "FOLDER": str(self.folder), "SLURM_SUBMIT_DIR": str(self.root), **environment,
            },
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: str, told: bool = False, **environment: str) -> tuple[int, str]:
        process = self.start(*arguments, **environment)
        try:
            end = time.monotonic() + 30
            while told and not (self.bin / "started").exists():
                assert time.monotonic() < end
                time.sleep(0.01)
            if told:
                process.send_signal(signal.SIGUSR1)
            _, error = process.communicate(timeout=30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode, error

    def calls(self) -> list[list[str]]:
        path = self.bin / "srun.calls"
        return [call.split("\n") for call in path.read_text().split("\n\n") if call] if path.exists() else []


def test_its_arguments_reach_every_task_as_they_are(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, ["0"])
    arguments = ["-opt", "my options/a b.yml", "--set", "name=$(touch pwned)", "x='*'; touch pwned"]
    assert cluster.run(*arguments, SLURM_CPUS_PER_TASK="8") == (0, "")
    start = ["--kill-on-bad-exit=1", "--cpus-per-task=8", "py", "train.py"]
    assert cluster.calls() == [[*start, *arguments]]
    assert cluster.python.read_text().split("\n")[:-2] == ["train.py", *arguments, "--where"]
    assert not cluster.scontrol.exists()
    assert not list(tmp_path.rglob("pwned"))


def test_the_signal_is_handed_on_and_the_job_queued_again(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, ["wait"])
    assert cluster.run("-opt", "x.yml", told=True) == (0, "")
    assert len(cluster.calls()) == 1
    assert cluster.scontrol.read_text() == "requeue\n77\n\n"


def test_a_run_that_is_finished_when_the_signal_comes_is_not_queued_again(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, ["finish"])
    assert cluster.run("-opt", "x.yml", told=True) == (0, "")
    assert not cluster.scontrol.exists()


def test_a_run_that_fails_goes_on_a_few_times_and_never_begins_anew(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, ["1", "137", "0"])
    status, error = cluster.run("-opt", "x.yml", "--fresh")
    assert status == 0
    assert "start 2 of 4 ended with status 137" in error
    assert [call[2:] for call in cluster.calls()] == [["train.py", "-opt", "x.yml", "--fresh"]] + [
        ["train.py", "-opt", "x.yml"]
    ] * 2


def test_a_run_that_fails_again_and_again_fails(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, ["1", "1", "3"])
    assert cluster.run("-opt", "x.yml", RESTARTS="2")[0] == 3
    assert len(cluster.calls()) == 3
    assert not cluster.scontrol.exists()


def test_a_job_that_was_queued_again_continues(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, ["0"])
    assert cluster.run("--fresh", "-opt", "x.yml", SLURM_RESTART_COUNT="1")[0] == 0
    assert cluster.calls()[0][2:] == ["train.py", "-opt", "x.yml"]


def test_a_mistake_in_the_option_file_starts_nothing(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, ["0"])
    stub_program(cluster.bin, "py", status=1)
    assert cluster.run("-opt", "x.yml")[0] == 1
    assert cluster.calls() == []


def test_the_script_asks_for_its_signal_in_time_and_has_no_faults_that_a_checker_finds() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert "#SBATCH --signal=B:USR1@120\n" in text
    assert "#SBATCH --requeue\n" in text
    assert "eval" not in text
    assert subprocess.run([str(BASH), "-n", str(SCRIPT)], check=False, capture_output=True).stderr == b""
    if checker := shutil.which("shellcheck"):
        assert subprocess.run([checker, str(SCRIPT)], check=False, capture_output=True, text=True).stdout == ""


def test_where_tells_the_folder_of_a_run(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vsr.engine.cli import train_main

    assert train_main(["-opt", str(tiny), "--where", "--set", "name=a b"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/experiments/a b\n"
    assert not (tmp_path / "experiments").exists()
    assert train_main(["-opt", str(tiny), "--where", "--set", "nam=a"]) == 1
