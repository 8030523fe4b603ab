"""Check every data set of an option file before a run: names, sizes, numbers of frames, whether images can be read.

    python scripts/check_data.py -opt options/train/EDVR/edvr_m_x4_reds_wotsa.yml
    python scripts/check_data.py -opt FILE --full --json > report.json

All headers are looked at and a sample of the images is decoded; with --full all of them. Everything that is wrong is
listed, and the exit status is then 1. The fingerprint (docs/datasets.md) tells whether two machines have the same data.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.config import load_options
from vsr.data.check import SetCheck, check_data
from vsr.utils import logs

HEADINGS = ("set", "type", "clips", "images", "GT", "LQ", "storage", "decoded", "ok")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", "--opt", required=True, metavar="FILE", help="the option file (YAML)")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as for train.py")
    parser.add_argument("--full", action="store_true", help="decode every image")
    parser.add_argument("--json", action="store_true", help="print JSON, with all problems, in place of the table")
    parser.add_argument("--most", type=int, default=20, metavar="N", help="problems to list of a set (%(default)s)")
    return parser.parse_args()


def table(results: Sequence[SetCheck]) -> list[str]:
    """Return the lines of a table of the sets."""
    rows = [
        (
            r.key, r.type, "-" if r.clips is None else str(r.clips), str(r.images), r.gt, r.lq, r.storage,
            str(r.decoded), "yes" if r.ok else "NO",
        )
        for r in results
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (HEADINGS, *rows)]


def details(result: SetCheck, most: int) -> list[str]:
    """Return the lines about one set: its fingerprint, what is unusual, what is wrong."""
    lines = ["", f"{result.key}: {result.fingerprint or 'no fingerprint'}"]
    lines += [f"  note: {note}" for note in result.notes]
    lines += [f"  problem: {problem}" for problem in result.problems[:most]]
    if len(result.problems) > most:
        lines.append(f"  ... and {len(result.problems) - most} problems more: --most {len(result.problems)} or --json")
    return lines


def main() -> int:
    given = arguments()
    logs.setup()
    try:
        options = load_options(given.opt, given.set)
        if not options.datasets:
            raise ValueError(f"{given.opt}: expected data sets to check, got none.")
        results = check_data(options, full=given.full)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if given.json:
        print(json.dumps([asdict(result) | {"ok": result.ok} for result in results], indent=2, ensure_ascii=False))
    else:
        print("\n".join([*table(results), *(line for result in results for line in details(result, given.most))]))
        wrong = sum(len(result.problems) for result in results)
        print(f"\nproblems: {wrong}" if wrong else "\nall ok")
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
