"""Make folders of frames of Charades, and lists of the clips that train, validate and test.

    python scripts/prepare_charades.py ~/Downloads/Charades_v1_480.zip --root datasets/Charades
    python scripts/prepare_charades.py ~/Downloads/Charades_v1_rgb.tar --root datasets/Charades

SOURCE is the zip of the videos, the tar of the frames, or a folder of what is in one of them. There will be
ROOT/Charades_v1_480_img/0A8CF/0000000.jpg ...; frames keep the names that they have, and a folder of frames is linked
to, not copied. While it works, the files of an archive that are not made into clips yet lie below ROOT, too.
ROOT/train_list.csv, val_list.csv and test_list.csv are checked, or written: 80, 10 and 10 % of the clips, by a hash of
the name. The same command goes on where it was interrupted. --input_size and --frame_interval say which clips are too
short, for the count in the end.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.data.prepare import script_arguments
from vsr.data.prepare_clips import prepare_charades
from vsr.utils import logs


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="zip, tar or folder")
    parser.add_argument("--root", default="datasets/Charades", help="where to write to (%(default)s)")
    parser.add_argument("--quality", type=int, default=95, help="of the JPEGs, 1 to 100 (%(default)s)")
    parser.add_argument("--input_size", type=int, default=10, help="input frames of a sample (%(default)s)")
    parser.add_argument("--frame_interval", type=int, default=50, help="frames from one to the next (%(default)s)")
    script_arguments(parser)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    logs.setup()
    try:
        lines = prepare_charades(
            given.source,
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
