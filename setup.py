"""Installs vsr. Works without torch: the networks' package is pure Python."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "vsr" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

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
        "build": ["ninja"],
        "test": ["pytest"],
        "dev": ["pytest", "ruff", "mypy", "types-PyYAML", "types-tqdm", "pre-commit"],
    },
)
