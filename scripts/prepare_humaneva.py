"""Make folders of frames of HumanEva's videos, and lists of the clips that train, validate and test.

    python scripts/prepare_humaneva.py --root datasets/HumanEva

ROOT/video/S1/Box_1_(C1).avi becomes ROOT/image/S1_Box_1_(C1)/000000.jpg ...; without a folder video all videos below
ROOT are taken, S1/Image_Data/Box_1_(C1).avi of the official archives, too. ROOT/train_list.csv, val_list.csv and
test_list.csv are checked, or written: 80, 10 and 10 % of the scenes, the cameras of a scene together. Clips that are
there already are left as they are, and the same command goes on where it was interrupted. --input_size and
--frame_interval say which clips are too short, for the count in the end.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.data.prepare import script_arguments
from vsr.data.prepare_clips import prepare_humaneva
from vsr.utils import logs


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="datasets/HumanEva", help="HumanEva's folder (%(default)s)")
    parser.add_argument("--quality", type=int, default=95, help="of the JPEGs, 1 to 100 (%(default)s)")
    parser.add_argument("--input_size", type=int, default=10, help="input frames of a sample (%(default)s)")
    parser.add_argument("--frame_interval", type=int, default=50, help="frames from one to the next (%(default)s)")
    script_arguments(parser)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    logs.setup()
    try:
        lines = prepare_humaneva(
            given.root,
            quality=given.quality,
            shortest=given.input_size * given.frame_interval + 1,
            workers=given.workers,
            dry_run=given.dry_run,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
