"""Disks that fill up, fail and forget, and kills in the middle of a save, while a whole run is training."""

import json
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faultkit import faulty_writes, fill_up, in_child, run_ranks, state_hash, tmpfs, truncate
from kit import assert_same_run, final_state, history

from vsr.config import Options, load_options
from vsr.engine import checkpoint, validation
from vsr.engine.checkpoint import newest_valid
from vsr.engine.cli import train_main
from vsr.engine.train import train

pytestmark = pytest.mark.fault
EVERY_2 = "logger.save_checkpoint_freq=2"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "experiments" / "tiny"


def leftovers(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob(".*.tmp"))


def steps_of(folder: Path, pattern: str) -> list[int]:
    return sorted(int(path.stem.rpartition("_")[2]) for path in folder.glob(pattern) if path.stem != "net_g_best")


# ---- killed while saving ------------------------------------------------------------------------


def test_a_run_killed_while_it_saves_goes_on_from_the_state_before(tiny: Path, tmp_path: Path) -> None:
    train(load_options(tiny, ["name=whole"]))

    def size(name: str) -> int:
        return next((tmp_path / "experiments" / "whole").rglob(name)).stat().st_size

    cases = [("net_g_8.pth", 0.5), *(("8.state", fraction) for fraction in (0, 0.1, 0.5, 0.99)), ("8.json", 0.5)]
    for i, (name, fraction) in enumerate(cases):
        root = tmp_path / "experiments" / f"run{i}"
        options, limit = load_options(tiny, [f"name=run{i}"]), int(size(name) * fraction)

        def training(options: Options = options, name: str = name, limit: int = limit) -> None:
            with faulty_writes(f".{name}.*", limit, "kill"):
                train(options)

        assert in_child(training) == -signal.SIGKILL
        assert len(leftovers(root)) == 1, "it was not killed in the middle of a file"
        assert newest_valid(root / "training_states") == root / "training_states" / "4.state"
        train(options)
        assert leftovers(root) == []
        assert_same_run(tmp_path / "experiments" / "whole", root, 8)


# ---- disks that are full, or fail ---------------------------------------------------------------


@pytest.mark.parametrize("action", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("file", ["net_g_*", "[0-9]*.state", "[0-9]*.json"])
def test_one_missed_save_is_told_of_and_made_up_for(
    tiny: Path, root: Path, file: str, action: str, caplog: pytest.LogCaptureFixture
) -> None:
    with faulty_writes(f".{file}.*", 30, action, times=1) as met:
        train(load_options(tiny, [EVERY_2]))
    assert "2" in met[0]
    reason = "no space left on the disk: need" if action == "ENOSPC" else "could not be written: Input/output error"
    (line,) = [record.getMessage() for record in caplog.records if "could not be saved" in record.getMessage()]
    assert line.startswith("step 2: the state could not be saved (miss 1 in a row, 1 in all); the run goes on")
    assert "tries again at step 4" in line
    assert reason in line
    assert "1 saves of this run failed; this one did not" in caplog.text
    assert steps_of(root / "training_states", "*.state") == [6, 8]
    assert leftovers(root) == []


def test_the_second_miss_in_a_row_stops_the_run_and_keeps_the_last_good_state(
    tiny: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with faulty_writes(".[468].state.*", 1000, "ENOSPC"):
        assert train_main(["-opt", str(tiny), "--set", EVERY_2]) == 1
    error = capsys.readouterr().err
    assert "error: step 6: the state could not be saved, 2 times in a row (logger.on_save_error: stop)" in error
    assert "no space left on the disk: need" in error
    assert "Free some space and start the same command again" in error
    assert "Traceback" not in error
    assert max(history(root)) == 6
    assert newest_valid(root / "training_states") == root / "training_states" / "2.state"
    assert steps_of(root / "models", "net_g_*.pth") == [2], "weights without a state only fill the disk"
    assert train_main(["-opt", str(tiny), "--set", EVERY_2]) == 0  # the disk has room again
    assert newest_valid(root / "training_states") == root / "training_states" / "8.state"


def test_warn_goes_on_and_counts_every_miss(tiny: Path, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with faulty_writes(".[1-7].state.*", 0, "EIO") as met:
        train(load_options(tiny, ["logger.save_checkpoint_freq=1", "logger.on_save_error=warn"]))
    assert len(met) == 7
    assert "miss 7 in a row, 7 in all" in caplog.text
    assert steps_of(root / "training_states", "*.state") == [8]


@pytest.mark.parametrize("policy", ["stop", "warn"])
def test_a_run_whose_last_save_fails_has_failed(
    tiny: Path, root: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with faulty_writes(".8.state.*", 0, "ENOSPC"):
        assert train_main(["-opt", str(tiny), "--set", f"logger.on_save_error={policy}"]) == 1
    assert "step 8: the state could not be saved, 1 times in a row" in capsys.readouterr().err
    assert newest_valid(root / "training_states") == root / "training_states" / "4.state"


def test_a_disk_of_2_mb_that_fills_up_ends_the_run_before_anything_is_lost(tiny: Path, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "2m") as disk:
        overrides = [f"path.experiments_root={disk}", "network_g.width=64", EVERY_2]
        train(load_options(tiny, [*overrides, "train.total_iter=2"]))
        states = disk / "tiny" / "training_states"
        before = state_hash(final_state(disk / "tiny", 2))
        filler = fill_up(disk, leave=60_000)
        with pytest.raises(
            OSError, match=r"no space left on the disk: need [\d.]+ MB or more, free 0\.\d MB at .*disk"
        ):
            train(load_options(tiny, overrides))
        assert newest_valid(states) == states / "2.state"
        assert state_hash(final_state(disk / "tiny", 2)) == before
        assert leftovers(disk) == []
        filler.unlink()
        train(load_options(tiny, overrides))
        assert newest_valid(states) == states / "8.state"


def test_a_limit_of_file_sizes_keeps_the_earlier_states_and_is_named(tiny: Path, tmp_path: Path, root: Path) -> None:
    train(load_options(tiny, ["train.total_iter=4"]))
    states = root / "training_states"
    before = (states / "4.state").read_bytes()

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # Python does this, too; then the kernel answers with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
        with (tmp_path / "said").open("w") as sys.stderr:
            assert train_main(["-opt", str(tiny)]) == 1

    assert in_child(limited) == 0
    assert "no space left on the disk (File too large): need" in (tmp_path / "said").read_text()
    assert leftovers(root) == []
    assert (states / "4.state").read_bytes() == before
    assert newest_valid(states) == states / "4.state"


def test_a_run_whose_folder_vanishes_says_so_and_leaves_what_there_was(
    tiny: Path, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    validate = validation.Validation.run

    def then_vanish(self: validation.Validation, step: int) -> None:
        validate(self, step)
        root.rename(tmp_path / "elsewhere")

    monkeypatch.setattr(validation.Validation, "run", then_vanish)
    assert train_main(["-opt", str(tiny), "--set", EVERY_2, "val.val_freq=3"]) == 1
    error = capsys.readouterr().err
    assert "error: step 6: the state could not be saved, 2 times in a row" in error
    assert f"could not be written: the folder {root / 'models'} is gone" in error
    assert error.count("log.jsonl could not be written") == 1
    states = tmp_path / "elsewhere" / "training_states"
    assert newest_valid(states) == states / "2.state"


def test_best_weights_and_figures_that_cannot_be_written_do_not_end_the_run(
    tiny: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        faulty_writes("[!8]*net_g_best*", 10, "ENOSPC", times=1),
        faulty_writes("*validation.json*", 0, "EIO", times=1),
    ):
        train(load_options(tiny))
    assert "step 4: the best weights were not saved; the earlier ones stay" in caplog.text
    assert "which will repeat it" in caplog.text
    memory = json.loads((root / "validation.json").read_text())
    assert memory["step"] == memory["best"]["step"] == 8
    assert (root / "models" / "net_g_best.pth").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["stop", "warn"])
def test_all_processes_learn_of_a_miss_and_none_waits(tiny: Path, tmp_path: Path, policy: str) -> None:
    done = run_ranks(
        2, "train.py", "-opt", str(tiny), "--set", EVERY_2, f"logger.on_save_error={policy}",
        writes=(".[246].state.*", 500, "ENOSPC"),
    )  # fmt: skip
    assert done.left == []
    root = tmp_path / "experiments" / "tiny"
    if policy == "stop":
        assert done.status == 1
        assert done.output.count("error: step 4: the state could not be saved, 2 times in a row") >= 1
        assert max(history(root)) == 4
    else:
        assert done.status == 0, done.output
        assert steps_of(root / "training_states", "*.state") == [8]
        assert "3 saves of this run failed; this one did not" in done.output


# ---- states that are no longer what was written -------------------------------------------------


def zero(path: Path) -> None:
    truncate(path, 0)


def without_json(path: Path) -> None:
    path.with_suffix(".json").unlink()


def torn(path: Path) -> None:
    """As a file system leaves it that has written the size but not the pages."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


@pytest.mark.parametrize("break_it", [zero, without_json, torn])
def test_a_run_goes_on_from_the_newest_whole_state_bit_for_bit(
    tiny: Path, tmp_path: Path, root: Path, break_it: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    train(load_options(tiny))
    expected = state_hash(final_state(root, 8))
    break_it(root / "training_states" / "8.state")
    train(load_options(tiny))
    assert state_hash(final_state(root, 8)) == expected
    assert "8.state: skipped: " in caplog.text
    kept = list((root / "training_states").glob("abandoned_*/8.state"))
    assert len(kept) == 1, "what is broken is set aside, not deleted"


def test_a_run_of_which_no_whole_state_is_left_begins_anew_and_keeps_the_broken_ones(
    tiny: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(load_options(tiny))
    for step in (4, 8):
        zero(root / "training_states" / f"{step}.state")
    train(load_options(tiny))
    assert "no whole state is left; what is broken is not deleted" in caplog.text
    assert len(list((root / "training_states").glob("abandoned_*/*.state"))) == 2
    assert newest_valid(root / "training_states") == root / "training_states" / "8.state"


def test_every_file_of_a_run_is_read_without_running_anything(tiny: Path, root: Path) -> None:
    train(load_options(tiny, ["train.total_iter=2", "train.precision=bfloat16"]))
    files = [*root.glob("models/*.pth"), *root.glob("training_states/*.state")]
    assert len(files) == 3
    for path in files:
        torch.load(path, weights_only=True)
    assert checkpoint.load(root / "training_states" / "2.state")["step"] == 2
