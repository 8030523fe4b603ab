"""Test a network: python test.py -opt options/demo/edvr_bunny_x4.yml, or the same with torchrun."""

import sys

from vsr.engine.cli import test_main

if __name__ == "__main__":
    sys.exit(test_main())
