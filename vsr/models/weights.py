"""Reading checkpoints into networks, and saying exactly why one does not fit."""

import difflib
import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vsr.config import Options, load_options
from vsr.models import fmanet_weights
from vsr.models.deduce import deduce
from vsr.models.dialects import red_first, translate, unwrap
from vsr.models.pretrained import advice
from vsr.registry import NETWORKS
from vsr.utils.files import atomic_write

log = logging.getLogger(__name__)

# The entries under which checkpoints of this field keep a network, the averaged weights first.
_ENTRIES = ("params_ema", "params", "state_dict")
# Arguments that name files from which parts of a network start: the checkpoint has the parts as they became.
_PARTS_FROM = frozenset({"spynet_path", "edvr_path", "load_path"})
# NAFNet trained its stereo networks on images whose first channel is blue, and published them under these names.
_BLUE_FIRST = re.compile(r"NAFSSR-[TSBL]_[24]x\.pth")


def list_networks() -> list[str]:
    """Return the names that ``network_g.type`` may have."""
    return NETWORKS.names()


def for_inference(network: nn.Module) -> nn.Module:
    """Put a network into evaluation, its weights laid out as its convolutions are fastest with; return it.

    What a network states as ``channels_last`` was measured without gradients, on a CPU; training is slower so.
    """
    if getattr(network, "channels_last", False) and next(network.parameters()).device.type == "cpu":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


def build_network(option: Mapping[str, Any]) -> nn.Module:
    """Build a network from ``{"type": "EDVR", "num_feat": 64, ...}``, as an option file spells it."""
    network: nn.Module = NETWORKS.build(option)
    return network


def load_network(
    path: str | Path,
    options: Options | Mapping[str, Any] | str | Path | None = None,
    device: str | torch.device = "cpu",
    *,
    param_key: str | None = None,
    bgr: bool | None = None,
) -> nn.Module:
    """Build a network and fill it from a checkpoint, ready for inference.

    Args:
        path: A .pth or .safetensors file: ours, BasicSR's, NAFNet's, OpenMMLab's (mmagic), or of EDVR's first code.
            FMA-Net's own code writes two, model_D_best.pt and model_R_best.pt: the second, or the folder with both.
        options: The network's ``{"type": ..., **arguments}``, an option file or its path; none: the
            options.yml of the run folder that the checkpoint lies in; if there is none, the network is
            deduced from the tensors, and what they cannot show is logged.
        device: Where the network shall live.
        param_key: Entry of the checkpoint; none: params_ema, else params, else the whole.
        bgr: The network was trained on images whose first channel is blue, as NAFNet trains NAFSSR; it is changed
            to one that takes red first, as all of vsr's do. None: it is one of the files that NAFNet published, or was
            written by FMA-Net's code.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: the file is no checkpoint, or one of another network.
    """
    path = Path(path)
    weights: Mapping[str, Tensor] = read_weights(path, param_key, bgr=bgr)
    beside = path.parent.parent / "options.yml"
    if options is None and beside.is_file():
        options = beside
    if isinstance(options, str | Path):
        options = load_options(options)
    if isinstance(options, Options):
        options = options.network_g.as_option()
    if options is None:
        weights = _translated(weights, str(path))
        options = deduce(weights, source=str(path))
    network = build_network({key: value for key, value in options.items() if key not in _PARTS_FROM})
    fill(network, weights, source=str(path))
    return for_inference(network.to(device))


def convert(path: str | Path, target: str | Path, param_key: str | None = None, *, bgr: bool | None = None) -> None:
    """Write a checkpoint of any framework as one under vsr's names, which are BasicSR's and NAFNet's.

    Args:
        path, param_key, bgr: See ``load_network``.
        target: A .pth file, to hold ``{"params": ...}``; one that exists is replaced.
    """
    weights = _translated(read_weights(path, param_key, bgr=bgr), str(path))
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(Path(target)) as file:
        torch.save({"params": dict(weights)}, file)


def read_weights(
    path: str | Path, param_key: str | None = None, *, averaged: bool = True, bgr: bool | None = None
) -> dict[str, Tensor]:
    """Return the tensors of a network's checkpoint under the names that it has for them.

    The file is read without running any code that it may hold (``weights_only``). The prefixes of
    DataParallel and torch.compile are taken off; ``fill`` translates the names of other frameworks.

    Args:
        path: See ``load_network``.
        param_key: The entry wanted, 'params_ema' say; none: the first of params_ema, params,
            state_dict that is there, else the whole file.
        averaged: Where no entry is named, params_ema goes before params; else after it.
        bgr: See ``load_network``.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: expected a checkpoint, found no such file. {advice(path) or 'Check the path.'}"
        )
    content, *others = fmanet_weights.read_parts(path, _read)
    official = param_key is None and fmanet_weights.is_official(content)
    if official:
        content = fmanet_weights.join([content, *others], unwrap)
    if param_key is not None and param_key not in content:
        found = ", ".join(sorted(map(str, content))[:5])
        raise ValueError(
            f"{path}: expected the entry '{param_key}' (path.param_key_g), found {found}. "
            "Leave param_key_g out to take what is there."
        )
    entries = _ENTRIES if averaged else ("params", *_ENTRIES)
    key = param_key or next((entry for entry in entries if isinstance(content.get(entry), dict)), None)
    weights = content[key] if key else content
    if not isinstance(weights, dict) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ValueError(
            f"{path}: expected a dict of tensors, or one under {', '.join(_ENTRIES)}, "
            f"got {', '.join(map(str, list(content)[:5])) or 'an empty file'}. Is this a checkpoint of a network?"
        )
    log.info("weights: %s%s", path, f", entry '{key}'" if key else "")
    weights = {unwrap(str(name)): value for name, value in weights.items()}
    if bgr or (bgr is None and (official or _BLUE_FIRST.fullmatch(path.name))):
        weights = red_first(weights)
        log.info("%s: was trained on blue, green, red; changed to a network for red, green, blue", path)
    return weights


def _read(path: Path) -> dict[Any, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise ValueError(f"{path}: needs the package safetensors: pip install safetensors") from error
    except MemoryError:
        raise
    except Exception as error:  # what a broken or hostile file provokes is of many kinds
        if isinstance(error, OSError) and error.filename is not None:  # no right to read it, say
            raise
        if found := re.search(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path}: expected a checkpoint that holds tensors and plain values only, found {found[1]}, "
                "which was not run. Save the state_dict alone, where the file was made."
            ) from error
        refused = type(error).__name__ == "UnpicklingError"  # whose words advise to run what the file holds
        reason = "" if refused else f" ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else '-'})"
        raise ValueError(
            f"{path}: expected a checkpoint, could not read it{reason}. It is cut short, or something else, such as "
            "the page of a site. Fetch or copy it again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected a dict of tensors, got {type(content).__name__}. Save the state_dict, not the module."
        )
    return content


def fill(network: nn.Module, weights: Mapping[str, Tensor], *, source: str, strict: bool = True) -> set[str]:
    """Copy ``weights`` into ``network``; return the names of its tensors that got one.

    Args:
        network: Whatever shall receive them.
        weights: As ``read_weights`` returns them; another framework's names are translated where more of
            the network's own come out.
        source: Where they come from; starts the messages.
        strict: Refuse any difference of names or shapes. Otherwise what fits is loaded, and what
            does not is logged.

    Raises:
        ValueError: a difference under ``strict``, or nothing that fits at all.
    """
    own = network.state_dict()
    if weights.keys() != own.keys():
        weights = _translated(weights, source, own.keys())
    unlike = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own]
    if missing or unexpected or unlike:
        fitting = {name: weights[name] for name in own if name in weights and name not in unlike}
        report = _mismatch(network, own, weights, missing, unexpected, unlike)
        if strict or not fitting:
            advice = ", or path.strict_load_g: false to load what fits" if fitting else ""
            raise ValueError(f"{source}: {report} Set network_g (options) to what the checkpoint holds{advice}.")
        log.warning("%s: %d of %d tensors loaded. %s", source, len(fitting), len(own), report)
        weights = fitting
    network.load_state_dict(weights, strict=False)
    return own.keys() & weights.keys()


def _translated(weights: Mapping[str, Tensor], source: str, wanted: Collection[str] = ()) -> Mapping[str, Tensor]:
    """Return ``weights`` under vsr's names, unless fewer of the ``wanted`` ones are among them."""
    translated, what = translate(weights)
    if not what or len(translated.keys() & wanted) < len(weights.keys() & wanted):
        return weights
    log.info("%s: read %s", source, what)
    return translated


def _mismatch(
    network: nn.Module,
    own: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    unlike: list[str],
) -> str:
    lines = [f"expected the {len(own)} tensors of {type(network).__name__}, got {len(weights)}."]
    if missing:
        lines.append(f"{len(missing)} missing: {_some(missing)}.")
    if unexpected:
        lines.append(f"{len(unexpected)} unexpected: {_some(unexpected)}.")
        close = difflib.get_close_matches(unexpected[0], missing, n=1, cutoff=0.6)
        if close:
            lines.append(f"Is '{unexpected[0]}' the network's '{close[0]}'?")
    if unlike:
        shapes = [f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}" for name in unlike]
        lines.append(f"{len(unlike)} of another shape: {_some(shapes)}.")
    return " ".join(lines)


def _some(names: list[str], limit: int = 10) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
