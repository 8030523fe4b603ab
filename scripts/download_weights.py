"""Fetch published weights: python scripts/download_weights.py basicvsr_reds4; with --list, say which there are."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.models.pretrained import FOLDER, fetch, listing
from vsr.utils import logs


def progress(come: int, total: int) -> None:
    """Rewrite one line of the screen."""
    if sys.stderr.isatty():
        print(f"\r{come / 1e6:.1f} MB" + (f" of {total / 1e6:.1f}" if total else ""), end=" ", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="see --list")
    parser.add_argument("--folder", default=FOLDER, help="where to put them (%(default)s)")
    parser.add_argument("--list", action="store_true", help="print names, sources, sizes, hashes and licences")
    arguments = parser.parse_args()
    logs.setup()
    if arguments.list:
        print(listing())
    elif not arguments.names:
        parser.error("name what to fetch, or say --list")
    failed = 0
    for name in arguments.names:
        try:
            print(fetch(name, arguments.folder, report=progress))
        except (RuntimeError, ValueError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed += 1
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
