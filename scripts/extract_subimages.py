"""Cut large images into overlapping parts, as BasicSR does with DIV2K: crops are read several times as quickly then.

    python scripts/extract_subimages.py datasets/DIV2K/DIV2K_train_HR \\
        --lq datasets/DIV2K/DIV2K_train_LR_bicubic/X2 datasets/DIV2K/DIV2K_train_LR_bicubic/X3 \\
             datasets/DIV2K/DIV2K_train_LR_bicubic/X4
    python scripts/extract_subimages.py datasets/DIV2K/DIV2K_train_HR --lmdb tiles

The parts of ROOT/0001.png become ROOT_sub/0001_s001.png ...; those of an LQ image are the same part of the picture and
have the same name: 0001x4.png becomes X4_sub/0001_s001.png. crop_size, step and thresh_size are in pixels of ROOT.
The same command goes on where it was interrupted.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.data.encodings import ENCODINGS
from vsr.data.prepare import script_arguments
from vsr.data.subimages import DIV2K_GRID, Grid, extract_subimages, grid_arguments
from vsr.utils import logs


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", metavar="ROOT", help="folder of images; if there are several resolutions, the highest")
    parser.add_argument("--lq", nargs="+", default=[], metavar="FOLDER", help="the same images in lower resolutions")
    parser.add_argument("--output", nargs="+", metavar="FOLDER", help="one for ROOT and each of --lq; default: ..._sub")
    parser.add_argument(
        "--filename_tmpl", help="name of an LQ image for the name {} of that in ROOT; default: {} or {}x4, as it fits"
    )
    parser.add_argument("--lmdb", choices=ENCODINGS, help="write LMDBs in this encoding, ..._sub.lmdb, not files")
    grid_arguments(parser, DIV2K_GRID)
    script_arguments(parser)
    given = parser.parse_args()
    if given.output is not None and len(given.output) != 1 + len(given.lq):
        parser.error(f"--output: expected one for each of {1 + len(given.lq)} folders, got {len(given.output)}")
    return given


def main() -> int:
    given = arguments()
    logs.setup()
    try:
        lines = extract_subimages(
            [given.root, *given.lq],
            given.output,
            grid=Grid(given.crop_size, given.step, given.thresh_size),
            filename_tmpl=given.filename_tmpl,
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
