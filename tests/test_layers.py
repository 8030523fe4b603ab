"""Who may import whom, and what nobody may call: read from the source, nothing is run.

5  vsr.engine
4  vsr.models
3  vsr.archs  vsr.data  vsr.losses  vsr.metrics  vsr.optim  vsr.inference   (never each other)
2  vsr.ops    vsr.config
1  vsr.registry  vsr.utils
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = {
    "registry": 0,  # imports nothing of vsr; its `suggest` serves every error message
    "utils": 1,
    "ops": 2,
    "config": 2,
    "archs": 3,
    "data": 3,
    "losses": 3,
    "metrics": 3,
    "optim": 3,
    "inference": 3,
    "models": 4,
    "engine": 5,
    "doctor": 6,
    "info": 6,
    "recipes": 6,
}
LIBRARY = sorted((ROOT / "vsr").rglob("*.py"))
ENTRIES = [*(ROOT / "scripts").rglob("*.py"), *ROOT.glob("*.py")]


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield every module that the source imports, inside functions too, as 'torch.nn' or 'vsr.ops'.

    Args:
        package: Where the source stands, 'vsr.archs', for relative imports.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def broken_rules(source: str, path: str) -> list[str]:
    """Return what a library file ('archs/edvr.py') imports against the rules above, and why it may not."""
    own = Path(path).with_suffix("").parts[0]
    found = []
    for name in imports(ast.parse(source), ".".join(["vsr", *Path(path).parent.parts])):
        if name.startswith("vsr."):
            other = name.split(".")[1]
            if other == "__version__":
                continue
            if other != own and LAYERS.get(other, 9) >= LAYERS[own]:
                found.append(f"{name}: vsr.{other} does not lie below vsr.{own}")
            elif own == "archs" and other not in ("archs", "ops", "registry"):
                found.append(f"{name}: a network file is to be read alone")
        elif own == "archs" and name.split(".")[0] not in {"torch", *sys.stdlib_module_names}:
            found.append(f"{name}: a network imports torch, vsr.ops, vsr.registry and its siblings only")
        elif own == "utils" and name.startswith("torch.nn"):
            found.append(f"{name}: vsr.utils knows no networks")
    return found


SAFE_LOADERS = ("SafeLoader", "CSafeLoader")
RUN_CODE = {  # imports of these, too, so that another name does not hide them
    "eval", "exec", "builtins.eval", "builtins.exec", "os.system", "os.popen", "subprocess.getoutput",
    "subprocess.getstatusoutput", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all",
    "yaml.load_all", "torch.hub.load", "joblib.load", "pandas.read_pickle", "shutil.unpack_archive", "tempfile.mktemp",
}  # fmt: skip
PICKLES = ("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve")
METHODS = {  # of whatever object: archives that are unpacked unseen; pickles that go over the wire
    "extractall", "all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list",
    "send_object_list", "recv_object_list", "getoutput", "mktemp",
}  # fmt: skip


def forbidden_calls(source: str) -> list[str]:
    """Return what could run what a file or a user's text contains: calls, mentions and imports, one a line of it."""
    tree = ast.parse(source)
    names = {"np": "numpy"}  # what a name in the source stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            base = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names |= {alias.asname: f"{base}{alias.name}" for alias in node.names if alias.asname}
            names |= {alias.name: f"{base}{alias.name}" for alias in node.names if base and not alias.asname}

    def full(node: ast.AST) -> str:
        first, dot, rest = ast.unparse(node).partition(".")
        return f"{names.get(first, first)}{dot}{rest}"

    found = {name: 0 for name in imports(tree, "") if name.split(".")[0] in PICKLES or name in RUN_CODE}
    allowed: set[int] = set()  # the torch.load and yaml.load that are called as they should be
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, keywords = full(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        if keywords.get("shell", "False") != "False":
            found[f"{name}(shell=...)"] = node.lineno
        if name == "torch.load" and keywords.get("weights_only") == "True":
            allowed.add(id(node.func))
        loaders = [keywords.get("Loader", ""), *map(ast.unparse, node.args[1:2])]
        if name == "yaml.load" and any(loader.rpartition(".")[2] in SAFE_LOADERS for loader in loaders):
            allowed.add(id(node.func))
        if name == "numpy.load" and keywords.get("allow_pickle", "False") != "False":
            found["np.load(allow_pickle=...)"] = node.lineno
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name | ast.Attribute) or id(node) in allowed:
            continue
        name = full(node)
        last = name.rpartition(".")[2]
        if name in RUN_CODE or ("." in name and last in METHODS):
            found.setdefault(name, node.lineno)
        if name in ("torch.load", "yaml.load"):
            found[f"{name}, not the safe way"] = node.lineno
    return [f"line {line}: {name}" for name, line in found.items()]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downwards_only(path: Path) -> None:
    inside = str(path.relative_to(ROOT / "vsr"))
    if inside == "__init__.py":  # names of every layer, imported at first use: see the test of `import vsr` below
        return
    assert inside.split("/")[0].removesuffix(".py") in LAYERS, "a new package: give it a layer above"
    assert broken_rules(path.read_text(encoding="utf-8"), inside) == []


@pytest.mark.parametrize("path", [*LIBRARY, *ENTRIES], ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_runs_what_a_file_contains(path: Path) -> None:
    assert forbidden_calls(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("archs/net.py", "from vsr.data import video"),
        ("archs/net.py", "import numpy as np"),
        ("archs/net.py", "from vsr.utils.images import read_image"),
        ("archs/net.py", "def f():\n    import vsr.losses.pixel"),
        ("ops/warp.py", "from vsr import config"),
        ("ops/warp.py", "from ..models import video"),
        ("utils/seeds.py", "from torch import nn"),
        ("utils/seeds.py", "import torch.nn.functional as F"),
        ("registry.py", "from vsr.utils import images"),
        ("engine/train.py", "from vsr import load_options"),
        ("models/video.py", "from vsr.engine.results import Record"),
    ],
)
def test_an_import_upwards_or_sideways_is_found(path: str, line: str) -> None:
    assert len(broken_rules(line, path)) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("archs/net.py", "import math\nimport torch\nfrom torch import nn\nfrom vsr.archs.blocks import conv"),
        ("archs/net.py", "from .blocks import conv\nfrom vsr.ops.warp import warp\nfrom vsr.registry import NETWORKS"),
        ("data/video.py", "import cv2\nfrom vsr.utils.images import read_image\nfrom vsr.config.schema import Options"),
        ("engine/train.py", "from vsr import __version__\nfrom vsr.models.video import VideoModel"),
    ],
)
def test_an_import_downwards_passes(path: str, line: str) -> None:
    assert broken_rules(line, path) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "import marshal",
        "eval('1')",
        "exec(text)",
        "run = eval",
        "os.system('ls')",
        "import os as o\no.system('ls')",
        "from os import system",
        "os.popen('ls')",
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=given)",
        "subprocess.getoutput(f'scontrol show hostname {nodes}')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=given)",
        "from torch import load\nload(path)",
        "import torch as t\nt.load(path)",
        "partial(torch.load, weights_only=True)(path)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text)",
        "yaml.load(unsafe_text, yaml.FullLoader)",
        "yaml.unsafe_load(text)",
        "yaml.full_load(text)",
        "np.load(path, allow_pickle=True)",
        "from numpy import load\nload(path, allow_pickle=True)",
        "zipfile.ZipFile(path).extractall(folder)",
        "tar.extractall(folder, filter='data')",
        "shutil.unpack_archive(path, folder)",
        "torch.distributed.all_gather_object(parts, value)",
        "torch_dist.broadcast_object_list(values)",
        "dist.gather_object(value)",
        "from torch.distributed import gather_object\ngather_object(value)",
        "tempfile.mktemp()",
    ],
)
def test_a_forbidden_call_is_found(line: str) -> None:
    assert len(forbidden_calls(line)) == 1


def test_harmless_calls_pass() -> None:
    harmless = """
import yaml, torch
from yaml import SafeLoader
network.eval()
torch.load(p, weights_only=True)
yaml.load(t, Loader=SafeLoader)
yaml.load(t, yaml.CSafeLoader)
yaml.safe_load(t)
np.load(p)
np.load(p, allow_pickle=False)
subprocess.run(['ls'], shell=False)
archive.extractfile(member)
tempfile.mkstemp()
torch.distributed.all_gather(parts, value)
torch.jit.load, loader.load(p)
re.compile(text)
"""
    assert forbidden_calls(harmless) == []


def test_importing_vsr_imports_no_network_and_no_heavy_library() -> None:
    code = "import sys, vsr; print(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    heavy = {"cv2", "lmdb", "tensorboard", "torchvision", "PIL", "scipy", "matplotlib"}
    assert "vsr" in loaded
    assert [m for m in loaded if m.split(".")[0] in heavy or m.startswith(("vsr.archs.", "vsr.models."))] == []
