"""Make SIDD Medium (sRGB), as it is downloaded, into what options/train/NAFNet/*_sidd.yml name.

    python scripts/prepare_sidd.py SIDD_Medium_Srgb.zip --root datasets/SIDD
    python scripts/prepare_sidd.py --root datasets/SIDD --lmdb tiles

SOURCE holds Data/*/*_NOISY_*.PNG and *_GT_*.PNG, and ValidationNoisyBlocksSrgb.mat and ValidationGtBlocksSrgb.mat for
the validation set; folders, or zip or tar archives, which are unpacked below ROOT. Without SOURCE all is searched
for in ROOT. There will be train/gt_crops and train/input_crops, 512x512 parts at step 384 as NAFNet's, and
val/gt_crops and val/input_crops; with --lmdb LMDBs of these names. The same command goes on where it was interrupted.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.data.encodings import ENCODINGS
from vsr.data.gopro_sidd import SIDD_GRID, prepare_sidd
from vsr.data.prepare import script_arguments
from vsr.data.subimages import Grid, grid_arguments
from vsr.utils import logs


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="folder or archive of SIDD; default: ROOT")
    parser.add_argument("--root", default="datasets/SIDD", help="where to write to (%(default)s)")
    parser.add_argument("--lmdb", choices=ENCODINGS, help="write LMDBs in this encoding, not files")
    grid_arguments(parser, SIDD_GRID)
    script_arguments(parser)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    logs.setup()
    try:
        lines = prepare_sidd(
            given.sources or [given.root],
            given.root,
            grid=Grid(given.crop_size, given.step, given.thresh_size),
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
