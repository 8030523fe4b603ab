"""Write the list of images or clips that the option meta_info_file names, in BasicSR's format.

    python scripts/generate_meta_info.py datasets/DIV2K/DIV2K_train_HR_sub --output meta_info_DIV2K800sub_GT.txt
    python scripts/generate_meta_info.py datasets/REDS/train_sharp datasets/Vid4.lmdb videos/

ROOT is a folder of images, of clips as folders, or of videos, at any depth, a video, or an LMDB; only headers are
read. The list of ROOT goes to meta_info_ROOT.txt beside it. Lines: 'name (h,w,c)' of images, 'clip n (h,w,c)' of clips.
A list is needed only to choose some images or clips: delete the lines of the others.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.data.meta_info import KINDS, meta_info, write_meta_info
from vsr.utils import logs


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", metavar="ROOT", help="folder, video or LMDB")
    parser.add_argument("--output", nargs="+", metavar="FILE", help="one for each root; default: meta_info_ROOT.txt")
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default="auto",
        help="what ROOT holds; default: clips if all images lie in folders in it",
    )
    parser.add_argument("--first", type=int, default=0, help="of images: begin with this one of each folder (0)")
    parser.add_argument("--every", type=int, default=1, help="of images: take one of so many of each folder (1)")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="print the lists, write nothing")
    given = parser.parse_args()
    if given.output is not None and len(given.output) != len(given.roots):
        parser.error(f"--output: expected one for each of {len(given.roots)} roots, got {len(given.output)}")
    return given


def beside(root: str) -> str:
    """Return the list's name for a root."""
    path = Path(root).absolute()
    name = path.stem if path.is_file() else path.name.removesuffix(".lmdb")
    return str(path.with_name(f"meta_info_{name}.txt"))


def main() -> int:
    given = arguments()
    logs.setup()
    try:
        for root, output in zip(given.roots, given.output or map(beside, given.roots), strict=True):
            lines = meta_info(root, kind=given.kind, first=given.first, every=given.every)
            if given.dry_run:
                print("\n".join(lines))
            else:
                write_meta_info(lines, Path(output))
                print(f"{output}: {len(lines)} lines")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
