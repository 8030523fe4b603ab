"""The command lines of train.py and test.py, with the launch lines that users have."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from vsr.config import OptionError, Options, load_options
from vsr.utils import dist, logs, slurm

log = logging.getLogger(__name__)

DEBUG_EVERY = 8  # steps between validations and checkpoints of --debug


def train_main(arguments: Sequence[str] | None = None) -> int:
    """Run train.py; return its exit status."""
    from vsr.engine.run_folder import run_root
    from vsr.engine.train import train

    parser = _parser("Train a network as an option file says. The same command continues an interrupted run.")
    parser.add_argument("--fresh", action="store_true", help="start over; the earlier run's folder is archived")
    parser.add_argument("--force", action="store_true", help="continue although the learning rates are others now")
    parser.add_argument("--where", action="store_true", help="check the option file, tell the run's folder, and end")
    given = parser.parse_args(arguments)
    if given.where:
        return _run(lambda options: sys.stdout.write(f"{run_root(options)}\n"), given)
    return _run(lambda options: train(options, fresh=given.fresh, force=given.force), given)


def test_main(arguments: Sequence[str] | None = None) -> int:
    """Run test.py; return its exit status."""
    from vsr.engine.test import test

    given = _parser("Test a network on every test set of an option file.").parse_args(arguments)
    return _run(test, given)


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("-opt", "--opt", required=True, metavar="FILE", help="the option file (YAML)")
    parser.add_argument(
        "--set", "--force_yml", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides",
        help="change options: train.total_iter=100 network_g.num_feat=32 (also a:b=v)",
    )  # fmt: skip
    ignored = "ignored: the environment of torchrun or srun tells"
    parser.add_argument("--auto_resume", action="store_true", help="ignored: a run always continues by itself")
    parser.add_argument(
        "--debug", action="store_true",
        help=f"a run of its own, debug_NAME, that logs each step, and validates and saves every {DEBUG_EVERY}",
    )  # fmt: skip
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], help=ignored)
    parser.add_argument("--local_rank", "--local-rank", type=int, help=ignored)
    return parser


def _run(command: Callable[[Options], object], given: argparse.Namespace) -> int:
    """Load the options and run ``command``; what the user got wrong ends in one message, not a traceback."""
    logs.setup()
    try:
        if slurm.adopt():
            logs.setup()  # now that it is known which process this is
        _explain(given)
        options = load_options(given.opt, given.overrides)
        command(debugging(options) if given.debug else options)
    except (ValueError, OSError, RuntimeError) as error:
        if dist.lost_another(error):
            log.error(
                "another process of the run has ended, or does not answer; its own message tells why. Noticed here: %s",
                str(error).strip()[-500:],  # NCCL's own reason stands at the end; it may be the only one
            )
            log.debug("the traceback of it", exc_info=True)
            dist.let_the_first_cause_be_told()
            return 1
        dist.tell_launcher(_plain(error))
        if isinstance(error, OptionError) and not dist.is_main():
            return 1  # every process reads the same file: one voice is enough
        # The file keeps the traceback, should the mistake be ours; but only rank 0 has a file.
        log.error("error: %s", _plain(error), exc_info=isinstance(error, RuntimeError) and not dist.is_main())
        log.debug("traceback of the error above", exc_info=True)
        return 1
    except KeyboardInterrupt:
        log.error("stopped. The same command continues from the last state")
        return 130
    except Exception as error:
        dist.tell_launcher(f"{type(error).__name__}: {error}")
        log.exception("an error that should not happen; please report it with this traceback")
        return 1
    finally:
        dist.shutdown()
    return 0


def debugging(options: Options) -> Options:
    """Return the options of BasicSR's ``--debug``: under a name of its own, so that the real run is left alone."""
    name = options.name if options.name.startswith("debug") else f"debug_{options.name}"
    return replace(
        options,
        name=name,
        val=replace(options.val, val_freq=DEBUG_EVERY),
        logger=replace(options.logger, print_freq=1, save_checkpoint_freq=DEBUG_EVERY),
    )


def _plain(error: Exception) -> str:
    """Return an error's own words: a loader's worker wraps them into its traceback."""
    text = str(error)
    return text.rpartition(f"\n{type(error).__name__}: ")[2].strip() if "Original Traceback" in text else text


def _explain(given: argparse.Namespace) -> None:
    """Say in one line which of the launch arguments mean nothing here."""
    ignored = [
        name
        for name, present in {
            "--launcher": given.launcher is not None,
            "--local_rank": given.local_rank is not None,
            "--auto_resume": given.auto_resume,
        }.items()
        if present
    ]
    if ignored:
        log.info("ignored: %s (the environment tells the processes, and runs always resume)", ", ".join(ignored))
    one_task = given.launcher == "slurm" and "SLURM_PROCID" in os.environ  # srun has started it, and no other
    if given.launcher in ("pytorch", "slurm") and "WORLD_SIZE" not in os.environ and not one_task:
        raise ValueError(
            f"--launcher {given.launcher}: expected the environment of several processes (WORLD_SIZE, RANK ...), found "
            f"none. Start with {'srun' if given.launcher == 'slurm' else 'torchrun'}, or leave it out for one process."
        )
