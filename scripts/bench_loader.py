"""Say how quickly this machine would feed a training run, from files and from LMDBs, and which to choose.

    python scripts/bench_loader.py -opt options/train/EDVR/edvr_m_x4_reds_wotsa.yml

A part of the training set is copied (files by links) into a temporary folder, which is removed again. Samples are drawn
as the run would draw them, in one process, in turns, with everything in the page cache.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.config import load_options
from vsr.data.compare import advice, compare
from vsr.data.pairs import free_memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", required=True, help="an option file for training")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="as for train.py")
    parser.add_argument("--images", type=int, default=60, help="to copy, about (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="to measure each storage (%(default)s)")
    parser.add_argument("--folder", help="where to make the temporary folder: on the disk that the run would read from")
    given = parser.parse_args()
    folder = None
    try:
        options = load_options(given.opt, given.set)
        folder = tempfile.mkdtemp(prefix="vsr-bench-", dir=given.folder)
        found = compare(options, Path(folder), images=given.images, seconds=given.seconds)
        print(f"{found.section.dataset.type}: {found.images} images, measured on {found.measured}, in one process")
        print(f"{'storage':<12}{'samples/s':>10}{'ms/sample':>11}{'times disk':>12}{'whole set, GB':>15}")
        for speed in found.speeds:
            print(
                f"{speed.storage:<12}{1 / speed.seconds:>10.1f}{1000 * speed.seconds:>11.2f}"
                f"{found.speeds[0].seconds / speed.seconds:>12.1f}{speed.set_bytes / 1e9:>15.2f}"
            )
        for line in advice(found, free_memory=free_memory() or 0, cores=os.cpu_count() or 1):
            print(line)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if folder is not None:
            shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
