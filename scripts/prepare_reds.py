"""Prepare REDS: unpack, verify and arrange it, with lists, LMDBs and optical flow on request.

    python scripts/prepare_reds.py --root datasets/REDS
    python scripts/prepare_reds.py --root datasets/REDS --download --lmdb tiles
    python scripts/prepare_reds.py --root datasets/REDS --flow dis

The root holds the official zip archives (train_sharp.zip ...) or what any tool has unpacked from them, nested or flat.
Nothing of it is moved, changed or removed: all that is written goes into OUTPUT. There, the clips 000 to 029 of val
stand beside those of train as 240 to 269, as links. A run that was interrupted is gone on with by the same command.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.data.encodings import ENCODINGS
from vsr.data.prepare import script_arguments
from vsr.data.reds_files import SERVERS, SUBSETS, SUPER_RESOLUTION
from vsr.data.reds_preparation import REGROUP, Reds, RedsOptions, option_lines, prepare_reds
from vsr.engine.generate_flow import METHODS, generate_flow
from vsr.utils import logs


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with the zip archives, or with what was in them")
    parser.add_argument("--output", help="folder for all that is written (ROOT/prepared)")
    parser.add_argument(
        "--subsets",
        nargs="+",
        default=[],
        metavar="NAME",
        choices=SUBSETS,
        help=f"of {', '.join(SUBSETS)}; default: what is there, and for a download {', '.join(SUPER_RESOLUTION)}",
    )
    parser.add_argument("--download", action="store_true", help="fetch the archives that are not there, one by one")
    parser.add_argument("--server", choices=SERVERS, default=SERVERS[0], help="from where (%(default)s)")
    parser.add_argument(
        "--regroup",
        choices=REGROUP,
        default=REGROUP[0],
        help="val as 240 to 269 beside train: by links (the default), by copies; none: val stays apart",
    )
    parser.add_argument("--reds4", action="store_true", help="also make REDS4/GT and its like with 000, 011, 015, 020")
    parser.add_argument("--lmdb", choices=ENCODINGS, help="also make an LMDB of each folder")
    parser.add_argument(
        "--flow", choices=METHODS, help="also make the optical flow of the sharp LQ frames; see generate_flow.py"
    )
    parser.add_argument("--flow_weights", metavar="FILE", help="of raft: raft-small.pth")
    parser.add_argument("--allow_incomplete", action="store_true", help="use the complete clips where some are missing")
    script_arguments(parser)
    given = parser.parse_args()
    if (given.flow == "raft") != (given.flow_weights is not None):
        parser.error("--flow raft needs --flow_weights, and nothing else does")
    return given


def make_flows(reds: Reds, given: argparse.Namespace) -> dict[str, Path]:
    """Make the flow of every folder of sharp LQ frames, and return where it is."""
    return {
        name: generate_flow(
            str(reds.folder / name), method=given.flow, weights=given.flow_weights, workers=given.workers
        ).folder
        for name in reds.sets
        if "sharp_bicubic" in name
    }


def main() -> int:
    given = arguments()
    logs.setup()
    try:
        options = RedsOptions(
            root=given.root,
            output=given.output,
            subsets=given.subsets,
            download=given.download,
            server=given.server,
            regroup=given.regroup,
            reds4=given.reds4,
            needed=("train_sharp_bicubic",) if given.flow else (),
            lmdb=given.lmdb,
            allow_incomplete=given.allow_incomplete,
        )
        reds = prepare_reds(options, workers=given.workers, dry_run=given.dry_run)
        if not given.dry_run:
            flows = make_flows(reds, given) if given.flow else {}
            print(option_lines(reds, flows.get("train_sharp_bicubic/X4")), end="")
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
