"""Make test sets, or training patches, of Middlebury, KITTI 2012 and 2015, or any stereo pairs.

    python scripts/prepare_stereo.py kitti2012 datasets/KITTI2012 --list kitti2012_20.txt
    python scripts/prepare_stereo.py kitti2015 datasets/KITTI2015 --list kitti2015_20.txt
    python scripts/prepare_stereo.py middlebury datasets/MiddleburyTest
    python scripts/prepare_stereo.py pairs my/pictures --train --scale 2 4

KITTI's ROOT holds testing/colored_0 and colored_1 (2012) or testing/image_2 and image_3 (2015) with NNNNNN_10.png;
which 20 pairs are tested on, --list says. Middlebury's and that of others holds a folder a scene (im0.png and im1.png,
view1 and view5, im2 and im6), or the images themselves (NAME_L.png and NAME_R.png). There will be OUTPUT/test/NAME with
hr, lr_x2 and lr_x4, HR cropped to multiples of 20, and, of scenes with disp0.pfm (.npy, .png of 16 bits) and of KITTI's
training images with disp_noc, disparity; with --train OUTPUT/patches_x4 as scripts/prepare_flickr1024.py makes them,
Middlebury's images halved. The same command goes on where it was interrupted.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.data.encodings import ENCODINGS
from vsr.data.prepare import script_arguments
from vsr.data.stereo_patches import SCALES
from vsr.data.stereo_sets import TEST_NAMES, prepare_stereo
from vsr.utils import logs


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=(*TEST_NAMES, "pairs"), help="the data set; pairs: any other")
    parser.add_argument("root", metavar="ROOT", help="its folder")
    parser.add_argument("--output", default="datasets/StereoSR", help="where to write to (%(default)s)")
    parser.add_argument("--list", metavar="FILE", help="a text file that names the pairs to take, one a line")
    parser.add_argument("--name", help="of the test set; default: the data set's, or the folder's")
    parser.add_argument("--train", action="store_true", help="make training patches, not a test set")
    parser.add_argument("--scale", type=int, nargs="+", choices=SCALES, help="of the patches; default: 4")
    parser.add_argument("--lmdb", choices=ENCODINGS, help="write LMDBs in this encoding, not files")
    script_arguments(parser)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    logs.setup()
    try:
        lines = prepare_stereo(
            given.kind,
            given.root,
            given.output,
            names_file=given.list,
            name=given.name,
            train=given.train,
            scales=given.scale,
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
