"""Make GoPro, as it is downloaded, into what options/train/NAFNet/*_gopro.yml name.

    python scripts/prepare_gopro.py ~/Downloads/GOPRO_Large.zip --root datasets/GoPro
    python scripts/prepare_gopro.py --root datasets/GoPro --lmdb tiles

SOURCE is GOPRO_Large (train/CLIP/{blur,blur_gamma,sharp}), or a copy with train/{input,target} as MPRNet and NAFNet
offer it; a folder, or zip or tar archives, which are unpacked below ROOT. Without SOURCE it is searched for in ROOT.
There will be train/sharp_crops and train/blur_crops, 512x512 parts at step 256 as NAFNet's, and test/target and
test/input, whole images; with --lmdb LMDBs of these names. The same command goes on where it was interrupted.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.data.encodings import ENCODINGS
from vsr.data.gopro_sidd import GOPRO_GRID, prepare_gopro
from vsr.data.prepare import script_arguments
from vsr.data.subimages import Grid, grid_arguments
from vsr.utils import logs


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="folder or archive of GoPro; default: ROOT")
    parser.add_argument("--root", default="datasets/GoPro", help="where to write to (%(default)s)")
    parser.add_argument("--gamma", action="store_true", help="take blur_gamma in place of blur")
    parser.add_argument("--lmdb", choices=ENCODINGS, help="write LMDBs in this encoding, not files")
    grid_arguments(parser, GOPRO_GRID)
    script_arguments(parser)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    logs.setup()
    try:
        lines = prepare_gopro(
            given.sources or [given.root],
            given.root,
            grid=Grid(given.crop_size, given.step, given.thresh_size),
            gamma=given.gamma,
            lmdb=given.lmdb,
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
