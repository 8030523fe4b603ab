"""`import vsr` is light, and what it promises is there."""

import json
import subprocess
import sys

import pytest
from kit import ROOT

import vsr


def modules_after(code: str) -> set[str]:
    """Return the top-level modules that a new process has loaded after ``code``."""
    script = f"{code}\nimport json, sys; print(json.dumps([m.partition('.')[0] for m in sys.modules]))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return set(json.loads(output.splitlines()[-1]))


def test_importing_vsr_loads_nothing_heavy() -> None:
    heavy = {"cv2", "lmdb", "tensorboard", "skimage", "torchvision", "scipy"}
    assert modules_after("import vsr") & (heavy | {"torch"}) == set()
    assert modules_after("import vsr, vsr.config, vsr.registry, vsr.ops, vsr.archs") & heavy == set()


@pytest.mark.parametrize("name", vsr.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(vsr, name) is not None


def test_subpackages_need_no_import_of_their_own() -> None:
    code = "import vsr; vsr.ops.modulated_deform_conv2d; vsr.losses.build; vsr.metrics.build; vsr.optim.build_schedule"
    assert "torch" in modules_after(code)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        vsr.nonsense  # noqa: B018
