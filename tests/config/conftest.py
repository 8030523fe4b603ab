"""Components and an option file for the tests of the options; the project's own registries are put aside."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

import vsr.registry
from vsr.config import OptionError, Options, load_options
from vsr.registry import Registry


class Net:
    def __init__(self, *, num_feat: int = 64, num_frame: int = 5, upscale: int = 4, hook: Callable[[], None] = print):
        pass


class NeedyNet:
    def __init__(self, *, depths: list[int], scale: int, ratio: float | None = None) -> None:
        pass


class Clips:
    def __init__(
        self,
        *,
        dataroot_gt: str | None = None,
        clips: list[str] | None = None,
        num_frame: int = 5,
        gt_size: int | None = None,
        interval_list: Sequence[int] = (1,),
        padding: Literal["replicate", "circle"] = "replicate",
        io_backend: Mapping[str, Any] | None = None,
        use_hflip: bool = True,
        use_rot: bool = True,
        scale: int,
        seed: int = 0,
    ) -> None:
        pass


class Loss:
    def __init__(self, *, loss_weight: float = 1.0, reduction: Literal["mean", "sum"] = "mean") -> None:
        pass


class Metric:
    def __init__(self, *, crop_border: int, test_y_channel: bool = False) -> None:
        pass


def calculate_ssim(*, crop_border: int, test_y_channel: bool = False, ssim3d: bool = False) -> None:
    pass


def Optim(*, params: Any, lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
    pass


def Restart(*, base_lr: float, periods: list[int], restart_weights: list[float] | None = None) -> None:
    pass


class ImageModel:
    pass


class VideoModel:
    pass


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small components instead of the project's, so that these tests know every argument."""
    tables: dict[str, list[Callable[..., Any]]] = {
        "NETWORKS": [Net, NeedyNet],
        "DATASETS": [Clips],
        "LOSSES": [Loss],
        "METRICS": [Metric, calculate_ssim],
        "OPTIMIZERS": [Optim],
        "SCHEDULERS": [Restart],
        "MODELS": [ImageModel, VideoModel],
    }
    for name, entries in tables.items():
        registry = Registry(getattr(vsr.registry, name).kind, {})
        for entry in entries:
            registry.register(entry)
        monkeypatch.setattr(vsr.registry, name, registry)


GOOD = """\
name: run
model_type: VideoModel
scale: 4
datasets:
  train:
    type: Clips
    dataroot_gt: gt
    gt_size: 64
    batch_size_per_gpu: 2
  val: {type: Clips, dataroot_gt: gt}
network_g: {type: Net, num_feat: 32}
train:
  total_iter: 100
  losses: {pixel: {type: Loss}}
  optim_g: {type: Optim, lr: 1e-4}
val:
  metrics: {psnr: {type: Metric, crop_border: 0}}
"""


class Case:
    """A good option file in a folder of its own, to be spoiled."""

    good = GOOD

    def __init__(self, folder: Path) -> None:
        self.path = folder / "x.yml"

    def load(self, text: str = GOOD, *overrides: str) -> Options:
        self.path.write_text(text, encoding="utf-8")
        return load_options(self.path, overrides)

    def problems(self, text: str = GOOD, *overrides: str) -> list[str]:
        """The lines of the error, with 'x.yml' for the path of the file."""
        with pytest.raises(OptionError) as caught:
            self.load(text, *overrides)
        return str(caught.value).replace(str(self.path), "x.yml").splitlines()

    def problem(self, right: str, wrong: str) -> str:
        """The only line of the error after one replacement in the good file."""
        assert self.good.count(right) == 1, f"{right!r} must stand once in the good file"
        lines = self.problems(self.good.replace(right, wrong))
        assert len(lines) == 1, lines
        return lines[0]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)
