"""Make Flickr1024, as it is downloaded, into what options/train/NAFSSR/*.yml name.

    python scripts/prepare_flickr1024.py datasets/Flickr1024 --output datasets/StereoSR
    python scripts/prepare_flickr1024.py datasets/Flickr1024 --middlebury datasets/Middlebury --scale 2 4 --lmdb tiles

ROOT holds Train, Validation and Test with NNNN_L.png and NNNN_R.png. There will be OUTPUT/patches_x4, patches of
30x90 LQ pixels as iPASSR's (NNNNNN/{hr0,hr1,lr0,lr1}.png), and OUTPUT/val/Flickr1024 and OUTPUT/test/Flickr1024 with
hr, lr_x2 and lr_x4; with --lmdb LMDBs of these names, not hundreds of thousands of files. --middlebury adds the patches
of Middlebury's 60 pairs, halved, before those of Flickr1024: what NAFSSR is trained on, 49020 patches at x4, 298143
at x2. The same command goes on where it was interrupted.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.data.encodings import ENCODINGS
from vsr.data.prepare import script_arguments
from vsr.data.stereo_patches import SCALES
from vsr.data.stereo_sets import FLICKR, prepare_flickr1024
from vsr.utils import logs


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", metavar="ROOT", help="the folder of Flickr1024")
    parser.add_argument("--output", default="datasets/StereoSR", help="where to write to (%(default)s)")
    parser.add_argument("--middlebury", metavar="DIR", help="Middlebury's pairs to train on, at their full size")
    parser.add_argument("--scale", type=int, nargs="+", choices=SCALES, default=[4], help="of the patches (4)")
    parser.add_argument("--parts", nargs="+", choices=FLICKR, default=[], help="default: those that are there")
    parser.add_argument("--lmdb", choices=ENCODINGS, help="write LMDBs in this encoding, not files")
    script_arguments(parser)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    logs.setup()
    try:
        lines = prepare_flickr1024(
            given.root,
            given.output,
            middlebury=given.middlebury,
            scales=given.scale,
            parts=given.parts,
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
