"""Make the optical flow that FMA-Net is trained with: from each inner frame of the clips to the frames beside it.

    python scripts/generate_flow.py datasets/REDS4/train_sharp_bicubic/X4 datasets/REDS4/val_sharp_bicubic/X4
    python scripts/generate_flow.py clips.lmdb --output clips_flow --method raft --weights raft-small.pth

A ROOT is a folder of clips, as folders of images or as videos at any depth, or their LMDB. Its flows come to
OUTPUT/CLIP/{centre}_{neighbour}.npy: float32 (h, w, 2), dx and dy in pixels, so that neighbour(p + flow(p)) is
centre(p). Where --output is not given, REDS's train_sharp_bicubic/X4 has them in train_flow_bicubic/X4, as FMA-Net
wants it, and any other ROOT in ROOT_flow. The same command goes on with a run that was interrupted.

dis, the default, needs neither weights nor a GPU. raft needs torchvision and the official raft-small.pth; it is the
steadier one on noisy or blurred frames and where things move by more than ten pixels.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.data.flow import PRESETS
from vsr.data.prepare import script_arguments
from vsr.engine.generate_flow import METHODS, generate_flow
from vsr.models.raft import ITERATIONS
from vsr.utils import logs
from vsr.utils.progress import size_text

OF_DIS, OF_RAFT = ("preset",), ("weights", "iterations", "bgr")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", metavar="ROOT", help="folder of clips, a video, or an LMDB")
    parser.add_argument("--output", nargs="+", metavar="FOLDER", help="one for each root; see above")
    parser.add_argument("--method", choices=METHODS, default="dis", help="(%(default)s)")
    parser.add_argument("--preset", choices=tuple(PRESETS), help="of dis (medium; the others are much worse)")
    parser.add_argument("--weights", metavar="FILE", help="of raft: raft-small.pth")
    parser.add_argument("--iterations", type=int, help=f"of raft: refinements ({ITERATIONS})")
    parser.add_argument(
        "--bgr", action="store_true", default=None, help="of raft: blue as red, as FMA-Net's own script"
    )
    parser.add_argument(
        "--distance", type=int, default=1, metavar="N", help="neighbours up to N frames away (1, as FMA-Net)"
    )
    parser.add_argument(
        "--ends", action="store_true", help="first and last frames, too, with the neighbours that they have"
    )
    script_arguments(parser)
    given = parser.parse_args()
    if given.output is not None and len(given.output) != len(given.roots):
        parser.error(f"--output: expected one for each of {len(given.roots)} roots, got {len(given.output)}")
    for name in OF_RAFT if given.method == "dis" else OF_DIS:
        if getattr(given, name) is not None:
            parser.error(f"--{name} does nothing for --method {given.method}")
    return given


def main() -> int:
    given = arguments()
    logs.setup()
    options = {name: value for name in (*OF_DIS, *OF_RAFT) if (value := getattr(given, name)) is not None}
    try:
        for root, output in zip(given.roots, given.output or [None] * len(given.roots), strict=True):
            plan = generate_flow(
                root,
                output,
                method=given.method,
                distance=given.distance,
                ends=given.ends,
                workers=given.workers,
                dry_run=given.dry_run,
                **options,
            )
            print(f"{root}: {plan.clips} clips -> {plan.folder}: {plan.flows} flows, {size_text(plan.bytes)}")
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
