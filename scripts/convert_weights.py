"""Write a checkpoint of OpenMMLab, EDVR's code of 2019, or FMA-Net's code as one under the names of vsr and BasicSR."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.models.weights import convert
from vsr.utils import logs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "file", help="the checkpoint; of FMA-Net model_R_best.pt, beside which model_D_best.pt lies, or the folder"
    )
    parser.add_argument("new_file", help="a .pth file to write")
    parser.add_argument(
        "--bgr",
        action="store_true",
        default=None,
        help="it was trained on blue-first images (NAFSSR; FMA-Net's are known)",
    )
    arguments = parser.parse_args()
    logs.setup()
    try:
        convert(arguments.file, arguments.new_file, bgr=arguments.bgr)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
