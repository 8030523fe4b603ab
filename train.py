"""Train a network: python train.py -opt options/demo/edvr_bunny_x4.yml, or the same with torchrun."""

import sys

from vsr.engine.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main())
