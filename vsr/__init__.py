"""vsr: a config-driven training framework for video, stereo and image restoration."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vsr.config import load_options as load_options
    from vsr.inference import restore as restore
    from vsr.inference.complexity import complexity as complexity
    from vsr.models.weights import build_network as build_network
    from vsr.models.weights import list_networks as list_networks
    from vsr.models.weights import load_network as load_network

# Imported at first use, so that `import vsr` costs nothing beyond this file.
_LAZY = {
    "load_options": "vsr.config",
    "build_network": "vsr.models.weights",
    "load_network": "vsr.models.weights",
    "list_networks": "vsr.models.weights",
    "restore": "vsr.inference",
    "complexity": "vsr.inference.complexity",
}
_SUBPACKAGES = frozenset(
    [
        "archs",
        "config",
        "data",
        "engine",
        "inference",
        "losses",
        "metrics",
        "models",
        "ops",
        "optim",
        "registry",
        "utils",
    ]
)
__all__ = ["__version__", "build_network", "complexity", "list_networks", "load_network", "load_options", "restore"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"vsr.{name}")
    raise AttributeError(f"module 'vsr' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBPACKAGES})
