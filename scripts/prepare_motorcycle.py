"""Make the stereo pairs of options/demo/*_motorcycle_*.yml from the picture that scikit-image brings along.

    python scripts/prepare_motorcycle.py

There will be datasets/motorcycle (or --output) with train/{top,bottom} and val/middle, {hr0,hr1}.png each, bands of the
rows of Middlebury's motorcycle that do not meet, and disparity/middle.npy. Nothing is downloaded.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.data.motorcycle import prepare_motorcycle


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="datasets/motorcycle", help="where to write to (%(default)s)")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    try:
        lines = prepare_motorcycle(given.output)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
