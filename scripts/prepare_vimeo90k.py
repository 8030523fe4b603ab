"""Prepare Vimeo-90K's septuplets: unpack and verify them, with lists, LR frames and LMDBs on request.

    python scripts/prepare_vimeo90k.py --root datasets/vimeo90k --lr bicubic
    python scripts/prepare_vimeo90k.py --root datasets/vimeo90k --lr bicubic bd --lmdb tiles

The root holds vimeo_septuplet.zip or what any tool has unpacked from it. Nothing of it is changed: all that is written
goes into OUTPUT. Lists by motion (fast_testset.txt, medium_testset.txt, slow_testset.txt) are used if they are there.
A run that was interrupted is gone on with by the same command.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.data.encodings import ENCODINGS
from vsr.data.prepare import script_arguments
from vsr.data.vimeo90k_preparation import GT_LMDB, LR, VimeoOptions, option_lines, prepare_vimeo90k
from vsr.utils import logs


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with vimeo_septuplet.zip, or with what was in it")
    parser.add_argument("--output", help="folder for all that is written (ROOT/prepared)")
    parser.add_argument("--download", action="store_true", help="fetch the archive (82 GB) if it is not there")
    parser.add_argument(
        "--lr",
        nargs="+",
        default=[],
        choices=tuple(LR),
        help="make LR frames: bicubic, antialiased as MATLAB's; bd, by blur and subsampling",
    )
    parser.add_argument("--scale", type=int, default=4, help="GT size / LR size (%(default)s)")
    parser.add_argument("--lmdb", choices=ENCODINGS, help="also make LMDBs of the training septuplets")
    parser.add_argument(
        "--lmdb_gt", choices=GT_LMDB, default=GT_LMDB[0], help="GT frames in them; all for recurrent networks (im4)"
    )
    parser.add_argument("--allow_incomplete", action="store_true", help="leave out septuplets that lack frames")
    script_arguments(parser)
    return parser.parse_args()


def main() -> int:
    given = vars(arguments())
    logs.setup()
    try:
        workers, dry_run = given.pop("workers"), given.pop("dry_run")
        made = prepare_vimeo90k(VimeoOptions(**given), workers=workers, dry_run=dry_run)
        if not dry_run:
            print(option_lines(made), end="")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
