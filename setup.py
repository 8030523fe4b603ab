"""Installs vsr. Works without torch and without a compiler: the kernels can be compiled at their first use, too.

They are compiled here where torch can be imported (``pip install --no-build-isolation``), unless
VSR_BUILD_OPS=0; those for NVIDIA GPUs if torch has CUDA and nvcc is found, unless VSR_BUILD_CUDA=0 or
``--no_cuda_ext``. An install fails for their sake only with VSR_OPS=require.
"""

import importlib.util
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # --no-build-isolation takes the setuptools that is there
    try:
        from wheel.bdist_wheel import bdist_wheel
    except ImportError:
        sys.exit("setuptools: expected 70.1 or newer, or the package wheel beside it. pip install -U setuptools")

ROOT = Path(__file__).parent.resolve()
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "vsr" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)
SOURCES = ("*.h", "*.cpp", "*.cu")  # of csrc, which an installed vsr needs to compile at first use
REQUIRED = os.environ.get("VSR_OPS") == "require"

while "--no_cuda_ext" in sys.argv:
    sys.argv.remove("--no_cuda_ext")
    os.environ["VSR_BUILD_CUDA"] = "0"  # `setup.py develop` starts pip, which sees the variable only

# By its path: importing vsr.ops would import torch.
_spec = importlib.util.spec_from_file_location("vsr_build", ROOT / "vsr" / "ops" / "build.py")
build = importlib.util.module_from_spec(_spec)
sys.modules["vsr_build"] = build  # dataclasses look their module up
_spec.loader.exec_module(build)


class BuildPy(build_py):
    """Puts the sources of the kernels into the package, as vsr/csrc; an editable install has them beside it."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for path in self.kernel_sources():
                self.mkpath(str(Path(self.build_lib) / "vsr" / "csrc"))
                self.copy_file(str(path), str(Path(self.build_lib) / "vsr" / "csrc" / path.name))

    def kernel_sources(self):
        return [path for pattern in SOURCES for path in sorted((ROOT / "csrc").glob(pattern))]

    def get_outputs(self, include_bytecode=1):
        names = [] if self.editable_mode else [path.name for path in self.kernel_sources()]
        csrc = Path(self.build_lib) / "vsr" / "csrc"
        return [*super().get_outputs(include_bytecode), *(str(csrc / name) for name in names)]


class BuildKernels(build_ext):
    """Compiles the kernels into vsr/ops/compiled, of the source tree for an editable install."""

    def initialize_options(self):
        super().initialize_options()
        self.made = []

    def run(self):
        folder = (ROOT if self.inplace else Path(self.build_lib)) / "vsr" / "ops" / "compiled"
        if not self.inplace:
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier build
        try:
            torch = build.installed_torch()
        except (ImportError, OSError) as error:
            self.fail(f"nothing is compiled: torch cannot be imported ({error}); try pip install --no-build-isolation")
        else:
            for kind in build.kinds(torch):
                try:
                    self.made += self.compile(build.recipe(kind, torch), folder)
                except (build.BuildError, OSError) as error:
                    self.fail(f"the {kind} kernels are not compiled: {error}")
        if not self.made:
            self.distribution.ext_modules = []  # what is installed is pure Python after all

    def fail(self, reason):
        if REQUIRED:
            sys.exit(f"VSR_OPS=require: {reason}")
        self.announce(f"{reason}. vsr works without, slower", logging.WARNING)

    def compile(self, recipe, folder):
        if recipe is None:
            return []
        folder.mkdir(parents=True, exist_ok=True)
        log = Path(tempfile.mkdtemp(prefix="vsr-")) / f"{recipe.kind}.log"  # kept if the compiler fails
        library = build.compile_library(recipe, build.find_compiler(recipe.kind, recipe.torch), folder, log)
        shutil.rmtree(log.parent)
        self.announce(f"compiled {library}", logging.INFO)
        return [str(library), str(library.with_suffix(".json"))]

    def get_outputs(self):
        return self.made

    def get_output_mapping(self):
        return {}

    def get_source_files(self):
        return []


class BdistWheel(bdist_wheel):
    """A wheel with compiled kernels is for one platform and any Python; without, for all."""

    def run(self):
        self.run_command("build")
        self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()

    def get_tag(self):
        python, abi, platform = super().get_tag()
        return ("py3", "none", platform) if not self.root_is_pure else (python, abi, platform)


# This tells setuptools that there is something to compile; whether it works is seen when it is tried.
compiles = os.environ.get("VSR_BUILD_OPS") != "0" and (REQUIRED or importlib.util.find_spec("torch") is not None)

setup(
    name="vsr",
    version=VERSION,
    description="A config-driven training framework for video, stereo and image restoration",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["vsr", "vsr.*"]),
    package_data={"vsr": ["py.typed"]},
    ext_modules=[Extension("vsr.ops.compiled", sources=[])] if compiles else [],
    cmdclass={"build_py": BuildPy, "build_ext": BuildKernels, "bdist_wheel": BdistWheel},
    # No upper bounds, and no torchvision: a torchvision that does not match torch breaks both.
    install_requires=[
        "torch>=2.10",  # older ones have a hole in torch.load even with weights_only (CVE-2026-24747)
        "numpy>=1.26",
        "opencv-python-headless>=4.8.1.78",  # older ones carry a hole in libwebp (CVE-2023-4863)
        "PyYAML>=6",
        "lmdb>=1.4",
        "filelock",
        "tqdm",
        "tensorboard",
        "scikit-image",
    ],
    extras_require={
        "safetensors": ["safetensors"],
        "video": ["av"],  # the degradation VideoCompression
        "onnx": ["onnx", "onnxscript", "onnxruntime"],
        "test": ["pytest"],
        "dev": ["pytest", "ruff", "mypy", "types-PyYAML", "types-tqdm", "pre-commit"],
    },
)
