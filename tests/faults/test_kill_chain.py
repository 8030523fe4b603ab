"""One run that is killed forty times, while it trains and while it saves, against one that is left alone."""

import contextlib
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from faultkit import faulty_writes, in_child
from kit import assert_same_run, final_state, history, kill, launch, run, wait_for_steps

from vsr.config import load_options
from vsr.engine import checkpoint
from vsr.engine.cli import train_main
from vsr.engine.train import train

EVERY, TOTAL = 3, 180  # steps between states; steps of the run
KILLS = 20  # of each kind
COMMAND = 10  # each so manieth kill is one of `python train.py` itself; the others are of forks of this process
SETTINGS = [
    f"train.total_iter={TOTAL}", f"train.scheduler.periods=[{TOTAL}]", f"logger.save_checkpoint_freq={EVERY}",
    "val.val_freq=45", "network_d={type: UNetDiscriminatorSN, num_in_ch: 3, num_feat: 4}",
    "train.optim_d={type: Adam, lr: 1e-3}", "train.gan_opt={type: GANLoss, gan_type: vanilla, loss_weight: 0.1}",
]  # fmt: skip
FILES = {  # what a save writes, in this order: the temporary names, and those of the whole run's first state
    "*net_g_*": f"models/net_g_{EVERY}.pth",
    "*net_d_*": f"models/net_d_{EVERY}.pth",
    "*.state.*": f"training_states/{EVERY}.state",
    "*.json.*": f"training_states/{EVERY}.json",
}


class Chain:
    """The run that is killed, and what must be true of it after each kill."""

    def __init__(self, tiny: Path, experiments: Path) -> None:
        self.arguments = ["-opt", str(tiny), "--set", "name=parts", *SETTINGS]
        self.whole, self.root, self.output = experiments / "whole", experiments / "parts", experiments / "output"
        self.states = self.root / "training_states"
        self.newest = 0  # step of the newest whole state after the last kill

    def told(self) -> int:
        return max(history(self.root), default=0)

    @contextlib.contextmanager
    def forked(self, prepare: Callable[[], object]) -> Iterator[int]:
        """Run the command in a fork of this process, which has imported everything; kill -9 it in the end."""
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setsid()
                descriptor = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(descriptor, 1)
                os.dup2(descriptor, 2)
                prepare()
                status = train_main(self.arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        try:
            yield child
        finally:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, self.output.read_text()

    def wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < end, self.output.read_text()
            time.sleep(0.004)

    def check(self) -> None:
        """Nothing is lost but the steps since the last state, and that state is the one of the whole run."""
        path = checkpoint.newest_valid(self.states)
        newest = int(path.stem) if path else 0
        # The state of a step is written before the next step is taken, and none is lost again.
        assert newest >= max(self.newest, (self.told() - 1) // EVERY * EVERY)
        assert len(list(self.root.rglob(".*.tmp"))) <= 1  # the one that was being written
        if newest > self.newest:
            one, other = final_state(self.whole, newest), final_state(self.root, newest)
            assert one.keys() == other.keys()
            assert [key for key in one if not torch.equal(one[key], other[key])] == []
            for network in ("net_g", "net_d"):
                torch.load(self.root / "models" / f"{network}_{newest}.pth", weights_only=True)
        self.newest = newest


def kill_in_a_step(chain: Chain, rng: random.Random, *, command: bool) -> None:
    """Kill it at any moment a few steps after those that it has told of."""
    wanted, later = chain.told() + rng.randint(1, 5), rng.uniform(0, 0.02)
    if command:
        process = launch("train.py", *chain.arguments)
        try:
            wait_for_steps(chain.root, wanted, process)
            time.sleep(later)
        finally:
            kill(process)
        return
    with chain.forked(lambda: None) as child:
        chain.wait(lambda: chain.told() >= wanted or ended(child))
        time.sleep(later)


def kill_in_a_save(chain: Chain, rng: random.Random, *, command: bool) -> None:
    """Kill it in one of its next saves: at any byte of any file, or at any moment."""
    if command:
        process = launch("train.py", *chain.arguments)
        try:
            chain.wait(lambda: process.poll() is not None or any(chain.states.glob(".*.state.*")))
            assert process.poll() is None, process.communicate()[0]
        finally:
            kill(process)
        return
    number = rng.randint(1, 2)
    if rng.random() < 0.5:
        names = rng.choice(list(FILES))
        room = rng.randrange((chain.whole / FILES[names]).stat().st_size)
        with chain.forked(lambda: at_save(number, lambda: faulty_writes(names, room, "kill"))) as child:
            chain.wait(lambda: ended(child))
        return
    first, last = (chain.whole / FILES[names] for names in ("*net_g_*", "*.json.*"))
    later = rng.uniform(0, 1.3 * (last.stat().st_mtime - first.stat().st_mtime))  # about what a save takes
    reader, writer = os.pipe()
    with chain.forked(lambda: at_save(number, lambda: contextlib.nullcontext(os.write(writer, b"!")))):
        os.close(writer)
        assert os.read(reader, 1) == b"!", chain.output.read_text()  # nothing: it has ended
        time.sleep(later)
    os.close(reader)


def ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def at_save(number: int, within: Callable[[], contextlib.AbstractContextManager[object]]) -> None:
    """Let this process's ``number``th save happen within a context."""
    original, count = checkpoint.save, 0

    def save(*arguments: Any, **keywords: Any) -> None:
        nonlocal count
        count += 1
        with within() if count == number else contextlib.nullcontext():
            original(*arguments, **keywords)

    checkpoint.save = save


@pytest.mark.fault
@pytest.mark.parametrize("files", range(4))
def test_a_removal_of_an_old_state_that_was_cut_short_is_made_up_for(tmp_path: Path, files: int) -> None:
    folder = SimpleNamespace(models=tmp_path / "models", states=tmp_path / "training_states")
    for pattern in (
        "models/net_g_{}.pth",
        "models/net_d_{}.pth",
        "training_states/{}.state",
        "training_states/{}.json",
    ):
        for step in (3, 6, 9):
            path = tmp_path / pattern.format(step)
            path.parent.mkdir(exist_ok=True)
            path.touch()

    def killed_after_some_files() -> None:
        unlink, left = Path.unlink, [None] * files

        def unlinking(path: Path, missing_ok: bool = False) -> None:
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left.pop()
            unlink(path, missing_ok=missing_ok)

        Path.unlink = unlinking  # type: ignore[method-assign]
        checkpoint._prune(folder, keep=2)

    assert in_child(killed_after_some_files) == -signal.SIGKILL
    checkpoint._prune(folder, keep=2)  # of the next save
    assert not list(tmp_path.glob("*/*3.*"))
    assert len(list(tmp_path.glob("*/*.*"))) == 8


@pytest.mark.fault
@pytest.mark.slow
def test_forty_kills_lose_nothing_but_the_steps_since_the_last_state(tiny: Path, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    rng, chain = random.Random(seed), Chain(tiny, tmp_path / "experiments")
    train(load_options(tiny, ["name=whole", *SETTINGS, "logger.keep_last=1000"]))
    kinds = [kill_in_a_step, kill_in_a_save] * KILLS
    rng.shuffle(kinds)
    for number, kind in enumerate(kinds):
        try:
            kind(chain, rng, command=number % COMMAND == 0)
            chain.check()
        except Exception as error:
            raise AssertionError(f"seed {seed}, kill {number} ({kind.__name__})") from error
    assert 0 < chain.newest < TOTAL
    status, output = run("train.py", *chain.arguments)
    assert status == 0, output
    assert_same_run(chain.whole, chain.root, TOTAL)
    # Nor has a kill left anything behind: the last two states and their weights, and the best.
    kept = [name.format(step) for step in (TOTAL - EVERY, TOTAL) for name in ("net_g_{}.pth", "net_d_{}.pth")]
    assert {path.name for path in (chain.root / "models").iterdir()} == {*kept, checkpoint.BEST_WEIGHTS}
    assert {path.stem for path in chain.states.glob("*.*")} == {str(TOTAL - EVERY), str(TOTAL)}
    assert not list(chain.states.glob("abandoned_*/*.json"))  # no whole state was put aside
    assert not list(chain.root.rglob(".*.tmp"))
