"""Compare networks and ops with the golden files beside this one.

models/ID.json lists an official network's arguments, state_dict and inputs, models/ID.npz its outputs for the
weights of recipe.py. dcn_ops.* hold inputs, outputs and gradients of the deformable convolution.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden import recipe
from torch import Tensor, nn

from vsr.registry import NETWORKS

HERE = Path(__file__).parent
TOLERANCE = 2e-5  # of the greatest absolute value of the golden, or of 1


def model_ids(prefix: str) -> list[str]:
    """The golden networks whose id starts with ``prefix``; raises ValueError if there are none."""
    ids = sorted(path.stem for path in (HERE / "models").glob(f"{prefix}*.json"))
    if not ids:
        raise ValueError(f"no golden network called {prefix}* in {HERE / 'models'}")
    return ids


def manifest(model_id: str) -> dict[str, Any]:
    return json.loads((HERE / "models" / f"{model_id}.json").read_text(encoding="utf-8"))


def build(model_id: str) -> nn.Module:
    """Build the network of a manifest with the recipe's weights, by its arguments as option files spell them."""
    facts = manifest(model_id)
    network = NETWORKS.build({"type": facts["arch"], **facts["kwargs"]})
    recipe.load_into(network, strict=True)
    return network.train(facts["mode"] == "train")


def state_of(network: nn.Module) -> list[tuple[str, list[int], str]]:
    """The state_dict as the manifests write it: key, shape and type of every entry."""
    return [(k, list(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in network.state_dict().items()]


def check_outputs(network: nn.Module, model_id: str, state: Mapping[str, str] | None = None) -> None:
    """Assert that the network gives the official outputs, at every stored pixel and by the fingerprint of all.

    Args:
        network: As ``build`` makes it.
        model_id: The golden.
        state: Name of an output beside "out" -> entry of the state_dict that it is, after the forward pass.
    """
    stored = np.load(HERE / "models" / f"{model_id}.npz")
    for case in manifest(model_id)["cases"]:
        inputs = [torch.from_numpy(recipe.make_input(spec)) for spec in case["inputs"]]
        with torch.no_grad():
            results = {"out": network(*inputs)}
        results |= {name: network.state_dict()[key] for name, key in (state or {}).items()}
        assert sorted(results) == sorted(facts["name"] for facts in case["outputs"])
        for facts in case["outputs"]:
            got = results[facts["name"]].numpy()
            assert list(got.shape) == facts["shape"]
            limit = TOLERANCE * max(1.0, facts["absmax"])
            seen = recipe.view_output(got, facts["view"])
            np.testing.assert_allclose(seen, stored[f"{case['case']}/{facts['name']}"], rtol=0, atol=limit)
            if facts["view"]:
                np.testing.assert_allclose(recipe.fingerprint(got), facts["fingerprint"], rtol=0, atol=limit)


def check_recipe() -> None:
    """Assert that numpy still draws the numbers that the golden files were made with."""
    wanted = json.loads((HERE / "recipe_selftest.json").read_text(encoding="utf-8"))
    for key, shape, crc in wanted["fill"]:
        assert zlib.crc32(recipe.fill(key, shape).tobytes()) == crc, key
    for spec, crc in wanted["inputs"]:
        assert zlib.crc32(recipe.make_input(spec).tobytes()) == crc, spec


def deform_conv_cases() -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
    """Yield name, arguments and float64 tensors (inputs, grad_output, out and grad_*) of each case."""
    tensors = np.load(HERE / "dcn_ops.npz")
    for case in json.loads((HERE / "dcn_ops.json").read_text(encoding="utf-8"))["cases"]:
        name = case["case"]
        keys = [key for key in tensors.files if key.startswith(f"{name}/")]
        arguments = {k: case[k] for k in ("stride", "padding", "dilation", "groups", "deform_groups")}
        yield name, arguments, {k.removeprefix(f"{name}/"): torch.from_numpy(tensors[k]).double() for k in keys}
