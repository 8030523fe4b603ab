"""Runs with numbers that are none: told of, looked into, stopped, or set back to an earlier state."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import broken_sets
import pytest
from faultkit import run_ranks
from kit import assert_same_run, final_state, history, steps_told
from torch import nn

from vsr.config import OptionError, load_options
from vsr.data.sampler import TrainSampler
from vsr.engine.cli import train_main
from vsr.engine.diverged import FaultWatch
from vsr.engine.train import train
from vsr.models.restoration import RestorationModel

pytestmark = pytest.mark.fault

BROKEN = ["datasets.train.type=BrokenDataset", "imports=[tiny_networks, broken_sets]"]
QUICK = ["val.metrics.ssim=null", "val.compare_bicubic=false", "datasets.val.clips=[d]"]
BACK = [*QUICK, "train.on_divergence.action=roll_back", "train.max_bad_steps=1", "logger.save_checkpoint_freq=2"]


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[RestorationModel, int], Any]], None]:
    """Have a function called before every step."""

    def install(act: Callable[[RestorationModel, int], Any]) -> None:
        step_of = RestorationModel.train_step

        def step(self: RestorationModel, batches: list, number: int) -> dict:
            act(self, number)
            return step_of(self, batches, number)

        monkeypatch.setattr(RestorationModel, "train_step", step)

    return install


def ruin(model: RestorationModel) -> None:
    """Let the last layer's output overflow from now on: what a rate that is too high leads to."""
    nn.init.constant_(model.network_g.last.weight, 3e38)
    nn.init.constant_(model.network_g.first.bias, 10.0)


def ruin_once_at(wanted: int) -> Callable[[RestorationModel, int], None]:
    done = []

    def act(model: RestorationModel, step: int) -> None:
        if step == wanted and not done:
            done.append(step)
            ruin(model)

    return act


def report(root: Path, step: int) -> dict[str, Any]:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    text = (root / "bad_steps" / f"step_{step}.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=refuse)


def test_a_broken_sample_is_named_whether_its_step_was_the_last_before_the_look_or_not(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BAD_DRAWS", "5")  # step 3 takes draws 4 and 5
    roots = {}
    for name, freq in (("often", 1), ("seldom", 4)):
        assert (
            train_main(["-opt", str(tiny), "--set", *QUICK, *BROKEN, f"name={name}", f"logger.print_freq={freq}"]) == 0
        )
        roots[name] = tmp_path / "experiments" / name
    expected = history(roots["often"])[3]["keys"][1]
    for name, exact in (("often", True), ("seldom", False)):
        found = report(roots[name], 3)
        assert (found["step"], found["bad_steps"], found["exact"]) == (3, [3], exact)
        assert found["ranks"][0]["bad_inputs"] == [{"key": expected, "tensor": "lq"}]
        assert found["ranks"][0]["steps"][0]["keys"] == history(roots["often"])[3]["keys"]
        assert found["ranks"][0]["steps"][0]["terms"]["grad_norm"] == "nan"
        assert found["ranks"][0]["finite"]["input"] is False
        assert found["lr"] == {"1.0": pytest.approx(history(roots["often"])[3]["lr"])}
    assert f"the input is not finite: lq of sample {expected}" in capsys.readouterr().err
    a, b = (final_state(root, 8) for root in roots.values())
    assert all(a[key].equal(b[key]) for key in a), "looking into a step must change nothing"
    assert list((roots["often"] / "bad_steps").iterdir()) == [roots["often"] / "bad_steps" / "step_3.json"]


def test_a_step_that_cannot_be_looked_into_ends_no_run(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: Any) -> None:
        raise FileNotFoundError("the disk is gone")

    monkeypatch.setenv("BAD_DRAWS", "1")
    monkeypatch.setattr(TrainSampler, "part", gone)
    options = [*QUICK, *BROKEN, "logger.print_freq=2", "train.total_iter=2"]
    assert train_main(["-opt", str(tiny), "--set", *options]) == 0
    assert "step 1 could not be looked into: the disk is gone" in capsys.readouterr().err
    rank = report(tmp_path / "experiments" / "tiny", 1)["ranks"][0]
    assert rank["error"] == "the disk is gone"
    assert rank["steps"][0]["terms"]["pixel"] == "nan"


def test_a_run_that_stops_leaves_a_report_with_the_first_bad_layer(
    tiny: Path, tmp_path: Path, before_step: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before_step(lambda model, step: ruin(model) if step == 3 else None)
    assert train_main(["-opt", str(tiny), "--set", *QUICK, "train.max_bad_steps=2", "logger.print_freq=5"]) == 1
    error = capsys.readouterr().err
    root = tmp_path / "experiments" / "tiny"
    assert "step 5: 3 steps in a row had a gradient that is not finite (train.max_bad_steps: 2)" in error
    assert "first not finite: the output of network_g.last (Conv2d)" in error
    assert str(root / "bad_steps" / "step_5.json") in error
    assert "Traceback" not in error
    found = report(root, 5)
    assert (found["bad_steps"], found["bad_steps_in_a_row"], found["exact"]) == ([3, 4, 5], 3, True)
    rank = found["ranks"][0]
    assert rank["first_bad"] == {"pass": "forward", "where": "network_g.last (Conv2d)", "what": "output"}
    assert rank["finite"] == {"input": True, "weights": True, "output": False, "loss": False, "gradient": False}
    assert [step["step"] for step in rank["steps"]] == [3, 4, 5]
    assert set(rank["steps"][0]["terms"]) == {"pixel", "total", "grad_norm"}


def test_a_diverged_run_goes_back_to_the_newest_state_from_before_and_ends_with_half_the_rate(
    tiny: Path, tmp_path: Path, before_step: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = [*BACK, "val.val_freq=8"]
    train(load_options(tiny, [*plain, "name=plain"]))
    before_step(ruin_once_at(5))
    assert train_main(["-opt", str(tiny), "--set", *plain]) == 0
    root = tmp_path / "experiments" / "tiny"
    assert "Going back to step 4 (1 of at most 3 times); from there the rate of everything" in capsys.readouterr().err
    assert steps_told(root) == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    usual = history(tmp_path / "experiments" / "plain")
    for step, entry in history(root).items():
        assert entry["lr"] == pytest.approx(usual[step]["lr"] * (0.5 if step > 4 else 1.0))
        assert entry["keys"] == usual[step]["keys"], "the same samples again"
    assert final_state(root, 8)[".model.roll_backs.0.to"] == 4
    assert final_state(root, 8)[".model.roll_backs.0.lr_mul"] == 0.5
    assert float(final_state(root, 8)[".model.bad_steps_in_a_row"]) == 0


def test_a_run_that_is_told_to_stop_does_so_though_it_has_just_gone_back(
    tiny: Path, tmp_path: Path, before_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_step(ruin_once_at(5))
    set_back = FaultWatch._set_back

    def told(self: FaultWatch, *args: Any) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return set_back(self, *args)

    monkeypatch.setattr(FaultWatch, "_set_back", told)
    train(load_options(tiny, BACK))
    root = tmp_path / "experiments" / "tiny"
    assert (root / "PREEMPTED").exists()
    assert steps_told(root)[-1] == 6
    monkeypatch.undo()
    train(load_options(tiny, BACK))
    assert steps_told(root)[-4:] == [5, 6, 7, 8]


class StopHereError(Exception):
    pass


# Right after going back, before a state knows of it; and with one that does.
@pytest.mark.parametrize("when", [5, pytest.param(7, marks=pytest.mark.slow)])
def test_a_run_that_went_back_and_was_stopped_continues_exactly(
    tiny: Path, tmp_path: Path, before_step: Any, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    once = ruin_once_at(5)
    with monkeypatch.context() as patch:
        step_of = RestorationModel.train_step

        def ruined(self: RestorationModel, batches: list, step: int) -> dict:
            once(self, step)
            return step_of(self, batches, step)

        patch.setattr(RestorationModel, "train_step", ruined)
        train(load_options(tiny, [*BACK, "name=whole", "train.on_divergence.parts=last"]))
        once = ruin_once_at(5)

        def stopped(self: RestorationModel, batches: list, step: int) -> dict:
            if self.roll_backs and step == when:
                raise StopHereError
            return ruined(self, batches, step)

        patch.setattr(RestorationModel, "train_step", stopped)
        with pytest.raises(StopHereError):
            train(load_options(tiny, [*BACK, "name=parts", "train.on_divergence.parts=last"]))
    rates = []
    before_step(lambda model, _: rates.append(sorted(group["lr_mul"] for group in model.optimizer.param_groups)))
    train(load_options(tiny, [*BACK, "name=parts", "train.on_divergence.parts=last"]))
    assert rates[0] == [0.5, 1.0]
    assert_same_run(tmp_path / "experiments" / "whole", tmp_path / "experiments" / "parts", 8)


def test_going_back_in_vain_goes_further_back_and_ends_after_so_many_times(
    tiny: Path, tmp_path: Path, before_step: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before_step(lambda model, step: ruin(model) if step == 7 else None)
    options = [*BACK, "logger.keep_last=5", "train.on_divergence.max_roll_backs=2"]
    assert train_main(["-opt", str(tiny), "--set", *options]) == 1
    error = capsys.readouterr().err
    assert error.index("Going back to step 6 (1 of") < error.index("Going back to step 4 (2 of")
    assert "the run has been set back 2 times before (train.on_divergence.max_roll_backs: 2)" in error
    root = tmp_path / "experiments" / "tiny"
    assert steps_told(root) == [1, 2, 3, 4, 5, 6, 7, 8, 7, 8, 5, 6, 7, 8]


def test_before_the_first_state_a_run_goes_back_to_its_beginning(
    tiny: Path, before_step: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before_step(ruin_once_at(2))
    assert train_main(["-opt", str(tiny), "--set", *BACK, "logger.save_checkpoint_freq=8", "val.val_freq=null"]) == 0
    assert "Going back to step 0" in capsys.readouterr().err


def test_a_run_that_began_from_the_state_of_another_goes_back_to_where_it_began(
    tiny: Path, tmp_path: Path, before_step: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    train(load_options(tiny, [*QUICK, "name=other", "train.total_iter=4"]))
    before_step(ruin_once_at(5))
    state = tmp_path / "experiments" / "other" / "training_states" / "4.state"
    options = [*BACK, f"path.resume_state={state}", "logger.save_checkpoint_freq=8"]
    assert train_main(["-opt", str(tiny), "--set", *options]) == 0
    assert "Going back to step 4" in capsys.readouterr().err
    assert steps_told(tmp_path / "experiments" / "tiny") == [5, 6, 5, 6, 7, 8]
    assert "roll_backs" not in json.loads(state.with_suffix(".json").read_text()), "the other run's state is its own"


def test_weights_that_are_no_numbers_are_not_saved(
    tiny: Path, tmp_path: Path, before_step: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def act(model: RestorationModel, step: int) -> None:
        if step == 4:
            nn.init.constant_(model.network_ema.last.bias, float("inf"))

    before_step(act)
    assert train_main(["-opt", str(tiny), "--set", "logger.save_checkpoint_freq=2"]) == 1
    assert "step 4: weights, or their average, are not finite" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "experiments" / "tiny" / "training_states").glob("*.state")] == [
        "2.state"
    ]


EDVR = "{type: EDVR, num_feat: 8, num_frame: 3, deformable_groups: 2, num_extract_block: 0, num_reconstruct_block: 0}"


def test_offsets_that_reach_too_far_set_a_run_back_and_slow_the_layers_that_make_them(
    tiny: Path, tmp_path: Path, before_step: Any
) -> None:
    done: list[int] = []
    factors: list[set[tuple[bool, float]]] = []

    def act(model: RestorationModel, step: int) -> None:
        if step == 4 and not done:
            done.append(step)
            nn.init.constant_(model.network_g.pcd_align.dcn_pack["l2"].conv_offset.bias[:36], 9624.0)
        elif model.roll_backs:
            of = {parameter: group["lr_mul"] for group in model.optimizer.param_groups for parameter in group["params"]}
            factors.append({("conv_offset" in name, of[p]) for name, p in model.network_g.named_parameters()})

    before_step(act)
    options = [
        f"network_g={EDVR}", "scale=4", "val.metrics.ssim=null", "val.val_freq=null", "train.total_iter=6",
        "train.offset_watch.action=roll_back", "logger.save_checkpoint_freq=1",
        "train.on_divergence={lr_mul: 0.25, parts: conv_offset}",
    ]  # fmt: skip
    train(load_options(tiny, options))
    assert steps_told(tmp_path / "experiments" / "tiny") == [1, 2, 3, 4, 4, 5, 6]
    assert factors == [{(True, 0.25), (False, 1.0)}] * 3


def test_the_search_for_the_loss_scale_of_float16_is_no_fault(tiny: Path, tmp_path: Path, before_step: Any) -> None:
    before_step(lambda model, step: model.gradients.scale.fill_(2.0**40) if step == 1 else None)
    train(load_options(tiny, ["train.precision=float16", "val.val_freq=null", "train.total_iter=2"]))
    root = tmp_path / "experiments" / "tiny"
    assert final_state(root, 2)[".model.gradients.scale"] == 2.0**38  # two steps were skipped
    assert not (root / "bad_steps").exists()


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("train.on_divergence.parts=[lats]", r"parts: expected a part of a parameter's name, got 'lats'"),
        ("train.on_divergence.lr_mul=0.0", r"expected more than 0, got 0\.0"),
        ("train.on_divergence.lr_mul=2.0", r"expected 1 or less, got 2\.0"),
        ("train.on_divergence.max_roll_backs=0", r"expected 1 or more, got 0"),
        ("train.on_divergence.action=back", r"expected one of"),
    ],
)
def test_options_that_make_no_sense_are_refused(tiny: Path, override: str, text: str) -> None:
    with pytest.raises((ValueError, OptionError), match=text):
        train(load_options(tiny, [override]))


@pytest.mark.slow
def test_two_processes_go_back_together_when_one_of_them_meets_numbers_that_are_none(
    tiny: Path, tmp_path: Path
) -> None:
    # A step takes draws 4 (step - 1) + 0, 1 on process 0 and + 2, 3 on process 1.
    bad = ",".join(str(4 * (step - 1) + 3) for step in (5, 6))
    environment = {"BAD_DRAWS": bad, "BAD_ONCE": "1"}
    ended = run_ranks(2, "train.py", "-opt", str(tiny), "--set", *BROKEN, *BACK, environment=environment)
    root = tmp_path / "experiments" / "tiny"
    assert ended.status == 0, ended.output
    assert steps_told(root) == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    found = report(root, 5)
    assert [rank["finite"]["input"] for rank in found["ranks"]] == [True, False]
    assert found["ranks"][0]["first_bad"] is None
    assert found["ranks"][1]["first_bad"]["pass"] == "input"
    assert ended.left == []
    assert "process 1: the input is not finite: lq of sample" in ended.output


def test_the_broken_data_set_is_whole_but_for_its_bad_draws(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAD_DRAWS", "1")
    broken = broken_sets.BrokenDataset(dataroot_gt=f"{clips}/train", num_frame=3, gt_size=16, scale=2)
    assert broken[0, 0]["lq"].isfinite().all()
    assert int((~broken[0, 1]["lq"].isfinite()).sum()) == 1
