"""Write a network as an ONNX model (.onnx) or a torch.export program (.pt2), checked against the network.

python scripts/export.py net_g_best.pth edvr.onnx --size 180 320
python scripts/export.py -opt options/test/NAFNet/test_NAFNet-GoPro.yml nafnet.onnx --size 256 256 --dynamic batch size
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # vsr need not be installed

from vsr.config import load_options
from vsr.inference.export import AXES, export_onnx, export_program, save_program
from vsr.models.weights import load_network
from vsr.utils import logs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="the weights; none: path.pretrain_network_g of the option file")
    parser.add_argument("file", help="what to write: a .onnx or a .pt2 file")
    parser.add_argument("-opt", "--opt", metavar="FILE", help="an option file; none: as the checkpoint itself says")
    parser.add_argument("--param_key", help="entry of the checkpoint; none: params_ema, else params, else the whole")
    parser.add_argument("--size", nargs=2, type=int, required=True, metavar=("HEIGHT", "WIDTH"), help="of the input")
    parser.add_argument("--batch", type=int, default=1, help="samples of an input")
    parser.add_argument("--num_frame", type=int, help="frames of an input, for networks of whole clips")
    parser.add_argument("--dynamic", nargs="+", default=[], choices=AXES, help="what may be another at run time")
    parser.add_argument("--opset", type=int, default=20, help="of the ONNX model")
    given = parser.parse_args()
    logs.setup()
    try:
        options = load_options(given.opt) if given.opt else None
        checkpoint = given.checkpoint or (options and options.path.pretrain_network_g)
        if not checkpoint:
            raise ValueError("checkpoint: expected a file, or path.pretrain_network_g in the option file. Name one.")
        network = load_network(checkpoint, options, param_key=given.param_key)
        form = {key: getattr(given, key) for key in ("batch", "num_frame", "dynamic")}
        if given.file.endswith(".onnx"):
            report = export_onnx(network, given.file, given.size, opset=given.opset, **form)
        elif given.file.endswith(".pt2"):
            program, report = export_program(network, given.size, **form)
            save_program(program, given.file)
        else:
            raise ValueError(f"{given.file}: expected a name that ends in .onnx or .pt2.")
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{given.file}: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
