"""Train for thousands of steps, and say whether memory, open files, threads and child processes stay as they are.

    python scripts/soak.py                                       2000 tiny steps on made-up clips
    python scripts/soak.py --workers 2 --ranks 2                 with two loader processes for each of two ranks
    python scripts/soak.py --opt options/train/X.yml --steps 500 --ranks 1

The run is train.py as it is, looked at from outside (/proc, so on Linux only). It validates and saves twenty times.
With --opt it is that file's run: its network, data and losses; its folder is a temporary one, which is removed again.

Exit status: 0 if all is flat, 1 if something grows, 2 if the run failed. See vsr.engine.soak for what flat means.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.config import load_options
from vsr.engine import soak

TRAIN = Path(__file__).parents[1] / "train.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opt", "-opt", help="an option file for training; none: made-up clips, a small EDVR")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="key=value", help="as for train.py")
    parser.add_argument("--steps", type=int, default=2000, help="40 or more (%(default)s)")
    parser.add_argument("--workers", type=int, help="loader processes of each rank; none: as the file says")
    parser.add_argument("--ranks", type=int, default=1, help="training processes (%(default)s)")
    given = parser.parse_args()
    try:
        if given.steps < 40 or given.ranks < 1 or (given.workers or 0) < 0:
            raise ValueError("expected --steps of 40 or more, --ranks of 1 or more, --workers of 0 or more.")
        if not os.path.isdir("/proc/self/task"):
            raise ValueError("expected a system with /proc (Linux), found none.")
        with tempfile.TemporaryDirectory(prefix="vsr-soak-") as name:
            folder = Path(name)
            file = given.opt or str(soak.write_made_up_run(folder))
            options = load_options(file, given.set)
            changes = [*given.set, *soak.overrides(options, given.steps, given.workers, folder)]
            print(f"{given.steps} steps of {given.opt or 'a small EDVR on made-up clips'} ...", flush=True)
            uses = soak.watch(
                ["-opt", file, "--set", *changes], TRAIN, folder / options.name / "log.jsonl",
                given.ranks, folder / "output",
            )  # fmt: skip
            found = [trend for rank, use in enumerate(uses) for trend in soak.trends(rank, use)]
    except (ValueError, OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(soak.table(found, given.steps)))
    return 0 if all(trend.flat for trend in found) else 1


if __name__ == "__main__":
    sys.exit(main())
