"""The command lines, and what a user sees who got something wrong."""

import json
from pathlib import Path

import pytest
from kit import kill, launch, run, still_running, wait_for_steps

from vsr.engine.cli import test_main as run_test_main
from vsr.engine.cli import train_main
from vsr.models.restoration import RestorationModel


def message(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert train_main(arguments) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_a_missing_option_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.yml" in message(capsys, "-opt", "nowhere.yml")


def test_all_mistakes_of_an_option_file_are_shown_at_once(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_text(tiny.read_text().replace("total_iter", "total_itr").replace("gt_size: 16", "gt_size: big"))
    error = message(capsys, "-opt", str(tiny))
    assert "Did you mean 'total_iter'" in error
    assert "gt_size" in error
    assert "'big'" in error


@pytest.mark.parametrize("flag", [["--local_rank=0"], ["--local-rank", "0"], ["--auto_resume"], ["--launcher", "none"]])
def test_launch_arguments_that_mean_nothing_are_accepted_and_named(
    tiny: Path, flag: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_main(["-opt", str(tiny), "--set", "train.total_iter=1", *flag]) == 0
    error = capsys.readouterr().err
    assert error.count("ignored:") == 1
    assert flag[0].split("=")[0].replace("local-rank", "local_rank") in error


def test_a_launcher_without_its_environment_is_an_error(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = message(capsys, "-opt", str(tiny), "--launcher", "pytorch")
    assert "expected the environment of several processes" in error


def test_one_task_of_srun_needs_no_other(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert train_main(["-opt", str(tiny), "--launcher", "slurm", "--where"]) == 0
    assert capsys.readouterr().out.strip().endswith("tiny")


def test_force_yml_means_set(tiny: Path, tmp_path: Path) -> None:
    assert train_main(["-opt", str(tiny), "--force_yml", "train:total_iter=1", "name=other"]) == 0
    assert (tmp_path / "experiments" / "other" / "training_states" / "1.state").is_file()


def test_debug_is_a_short_run_under_a_name_of_its_own(tiny: Path, tmp_path: Path) -> None:
    assert train_main(["-opt", str(tiny), "--debug", "--set", "train.total_iter=9"]) == 0
    runs = [path.name for path in (tmp_path / "experiments").iterdir()]
    assert runs == ["debug_tiny"]
    records = [json.loads(line) for line in (tmp_path / "experiments/debug_tiny/log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "lr" in record] == list(range(1, 10))
    states = {path.stem for path in (tmp_path / "experiments/debug_tiny/training_states").glob("*.state")}
    assert states == {"8", "9"}


def test_testing_takes_the_flags_of_training(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_test_main(["-opt", str(tiny), "--auto_resume", "--launcher", "none"]) == 1
    error = capsys.readouterr().err
    assert "ignored: --launcher, --auto_resume" in error
    assert "path.pretrain_network_g: expected a checkpoint to test" in error


def test_testing_without_weights_says_what_to_do(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_test_main(["-opt", str(tiny)]) == 1
    assert "path.pretrain_network_g: expected a checkpoint to test" in capsys.readouterr().err


@pytest.mark.fault
def test_two_runs_cannot_write_into_one_folder(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "experiments" / "tiny"
    process = launch("train.py", "-opt", str(tiny), "--set", "train.total_iter=100000")
    try:
        wait_for_steps(root, 1, process)
        half_written = root / "models" / ".net_g_4.pth.x.tmp"
        half_written.touch()
        for fresh in ([], ["--fresh"]):
            assert "expected no other run in this folder" in message(capsys, "-opt", str(tiny), *fresh)
        assert half_written.exists()
    finally:
        kill(process)
    assert [p.name for p in root.parent.iterdir()] == ["tiny"]  # nothing was archived


@pytest.mark.fault
def test_a_killed_run_is_continued_at_once_though_its_workers_still_live(tiny: Path, tmp_path: Path) -> None:
    root = tmp_path / "experiments" / "tiny"
    workers = ["--set", "datasets.train.num_worker_per_gpu=2"]
    process = launch("train.py", "-opt", str(tiny), *workers, "train.total_iter=100000")
    try:
        wait_for_steps(root, 4, process)
        process.kill()  # alone: the workers notice it seconds later
        status, output = run("train.py", "-opt", str(tiny), *workers)
    finally:
        kill(process)
    assert status == 0, output


def test_an_error_of_our_own_shows_its_traceback_on_the_screen_and_in_the_log(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(RestorationModel, "train_step", broken)
    assert train_main(["-opt", str(tiny)]) == 1
    for text in (capsys.readouterr().err, (tmp_path / "experiments" / "tiny" / "train.log").read_text()):
        assert "Traceback" in text
        assert "KeyError: 'ours'" in text


@pytest.mark.fault
def test_the_processes_of_a_killed_torchrun_die_with_it(tiny: Path, tmp_path: Path) -> None:
    process = launch("train.py", "-opt", str(tiny), "--set", "train.total_iter=100000", world=2)
    try:
        wait_for_steps(tmp_path / "experiments" / "tiny", 1, process)
        process.kill()  # torchrun alone
        process.wait()
        assert not still_running(str(tiny), seconds=10)
    finally:
        kill(process)
