"""Make LMDBs of images, of clips as folders of frames, or of videos, for io_backend: {type: lmdb}.

    python scripts/make_lmdb.py datasets/REDS/train_sharp datasets/REDS/train_sharp_bicubic/X4
    python scripts/make_lmdb.py --gt DIV2K/HR --lq DIV2K/X4 --filename-tmpl '{}x4' --encoding tiles raw

Each ROOT becomes ROOT.lmdb beside it, unless --output says otherwise; --gt and --lq are compared with each other first.
Encodings: png, as BasicSR reads it; tiles, several times as quick for training on crops, in about the same space;
raw, the quickest as long as the LMDB fits into memory. scripts/bench_loader.py says what pays on this machine.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.data.encodings import ENCODINGS, TILE
from vsr.data.lmdb_sources import check_pair, find_sources
from vsr.data.lmdb_writer import VERIFY, Recipe, make_lmdb, plan_lmdb
from vsr.utils import logs


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="*", metavar="ROOT", help="folder of images, clips or videos, or a video")
    parser.add_argument("--gt", metavar="ROOT", help="images in high quality")
    parser.add_argument("--lq", metavar="ROOT", help="the same in low quality")
    parser.add_argument("--filename-tmpl", default="{}", help="name of an LQ image for the name {} of its GT image")
    parser.add_argument("--output", nargs="+", metavar="X.lmdb", help="one for each root; ROOT.lmdb if it is not given")
    parser.add_argument(
        "--encoding", nargs="+", default=["png"], choices=ENCODINGS, help="one for all, or one for each root (png)"
    )
    parser.add_argument("--tile", type=int, default=TILE, help="side of a tile, about (%(default)s)")
    parser.add_argument(
        "--compress-level", type=int, metavar="0-9", help="of PNGs: 6 or more is smaller and slower; default: quickest"
    )
    parser.add_argument(
        "--only", metavar="FILE", help="a list of the clips or images to take, such as a meta_info file"
    )
    parser.add_argument("--workers", type=int, help="images encoded at a time; default: one for each core")
    going = parser.add_mutually_exclusive_group()
    going.add_argument("--resume", action="store_true", help="continue where an earlier run was interrupted")
    going.add_argument("--fresh", action="store_true", help="throw away what an interrupted run left")
    parser.add_argument(
        "--verify", choices=VERIFY, default="sample", help="whose pixels to compare in the end (%(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="look and estimate, write nothing")
    given = parser.parse_args()
    given.roots += [root for root in (given.gt, given.lq) if root is not None]
    if not given.roots:
        parser.error("name a folder or a video, or --gt and --lq")
    if (given.gt is None) != (given.lq is None):
        parser.error("--gt and --lq go together; a single root needs no option")
    if given.output is not None and len(given.output) != len(given.roots):
        parser.error(f"--output: expected one for each of {len(given.roots)} roots, got {len(given.output)}")
    if len(given.encoding) not in (1, len(given.roots)):
        parser.error(
            f"--encoding: expected one, or one for each of {len(given.roots)} roots, got {len(given.encoding)}"
        )
    return given


def beside(root: str) -> str:
    """Return the LMDB's name for a root."""
    root = root.rstrip("/")
    return (os.path.splitext(root)[0] if os.path.isfile(root) else root) + ".lmdb"


def main() -> int:
    given = arguments()
    logs.setup()
    try:
        encodings = given.encoding * (len(given.roots) if len(given.encoding) == 1 else 1)
        recipes = [
            Recipe(root, target, encoding, given.tile, given.compress_level, given.only)
            for root, target, encoding in zip(
                given.roots, given.output or map(beside, given.roots), encodings, strict=True
            )
        ]
        if given.gt is not None:
            gt, lq = (find_sources(root, only=given.only) for root in (given.gt, given.lq))
            check_pair(gt, lq, filename_tmpl=given.filename_tmpl)
        for recipe in recipes:
            if given.dry_run:
                plan = plan_lmdb(recipe)
                print(
                    f"{recipe.root}: {plan.images} images in {plan.clips} folders or videos -> {recipe.folder}, "
                    f"{recipe.encoding}: about {plan.estimate / 1e9:.3f} GB; {plan.free / 1e9:.1f} GB are free"
                )
            else:
                print(
                    make_lmdb(
                        recipe, workers=given.workers, resume=given.resume, fresh=given.fresh, verify=given.verify
                    )
                )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command with --resume continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
