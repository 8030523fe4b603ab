"""Every name that an option file may use, and the module that stands behind it."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

C = TypeVar("C", bound=Callable[..., Any])


def suggest(word: str, known: Iterable[str]) -> str:
    """Return the tail of an error message: the nearest known word, then all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"{hint} Known: {', '.join(names) or 'none'}."


class Registry:
    """Maps a YAML ``type`` to a class or function, importing its module on first use.

    Args:
        kind: What the names stand for, in the singular ('network'); used in messages.
        table: Name -> module that registers it. Nothing is imported before ``get``.
    """

    def __init__(self, kind: str, table: Mapping[str, str]) -> None:
        self.kind = kind
        self.table = dict(table)
        self._entries: dict[str, Callable[..., Any]] = {}

    def register(self, entry: C) -> C:
        """Decorator: makes a class or function selectable under its ``__name__``."""
        name, module = entry.__name__, entry.__module__
        first = self._entries.get(name)
        # A name of the table is its module's, whether that has been imported yet or not.
        other = first.__module__ if first is not None else self.table.get(name, module)
        if first is not entry and (first is not None or other != module):
            raise ValueError(
                f"{self.kind} '{name}' is registered twice: in {other} and in {module}. Rename one of them."
            )
        self._entries[name] = entry
        return entry

    def names(self) -> list[str]:
        return sorted(self.table.keys() | self._entries.keys())

    def get(self, name: str) -> Callable[..., Any]:
        """Return the entry called ``name``; raise ValueError with a suggestion if none is."""
        if name not in self._entries and name in self.table:
            importlib.import_module(self.table[name])  # its decorators fill _entries
        if name not in self._entries:
            raise ValueError(f"unknown {self.kind} '{name}'.{suggest(name, self.names())}")
        return self._entries[name]

    def build(self, option: Mapping[str, Any], **context: Any) -> Any:
        """Call the entry named ``option['type']`` with the other keys as its arguments.

        Args:
            option: ``{"type": name, **arguments}``, as in an option file.
            context: What the caller knows (scale, seed ...): passed where the entry has such a
                parameter and the option does not set it.

        Raises:
            ValueError: the type is missing or unknown, or an argument is not one of the entry's.
        """
        arguments = dict(option)
        name = arguments.pop("type", None)
        if not isinstance(name, str):
            raise ValueError(f"{self.kind}: expected a 'type', got {name!r}.{suggest('', self.names())}")
        entry = self.get(name)
        known = inspect.signature(entry).parameters
        for key in arguments:
            if key not in known:
                raise ValueError(f"{name}: '{key}' is not an argument of this {self.kind}.{suggest(key, known)}")
        return entry(**{k: v for k, v in context.items() if k in known} | arguments)


NETWORKS = Registry(
    "network",
    {
        "Baseline": "vsr.archs.nafnet_baseline",
        "BaselineLocal": "vsr.archs.nafnet_baseline",
        "BasicVSR": "vsr.archs.basicvsr",
        "BasicVSRPlusPlus": "vsr.archs.basicvsrpp",
        "EDSR": "vsr.archs.edsr",
        "EDVR": "vsr.archs.edvr",
        "EDVR_Concat128Norm": "vsr.archs.memory_edvr",
        "EDVR_Concat256": "vsr.archs.memory_edvr",
        "EDVR_Crop3": "vsr.archs.memory_edvr",
        "EDVR_Crop5": "vsr.archs.memory_edvr",
        "EDVR_NoPCD": "vsr.archs.memory_edvr",
        "EDVR_PixSentence": "vsr.archs.memory_edvr",
        "EDVR_PixSim": "vsr.archs.memory_edvr",
        "EDVR_PixWise": "vsr.archs.memory_edvr",
        "FMANet": "vsr.archs.fmanet",
        "IconVSR": "vsr.archs.basicvsr",
        "MSRResNet": "vsr.archs.msrresnet",
        "MemoryEDVR": "vsr.archs.memory_edvr",
        "MemoryPrediction": "vsr.archs.memory_prediction",
        "RCAN": "vsr.archs.rcan",
        "RRDBNet": "vsr.archs.rrdbnet",
        "SRVGGNetCompact": "vsr.archs.srvgg",
        "SwinIR": "vsr.archs.swinir",
        "UNetDiscriminatorSN": "vsr.archs.discriminators",
        "VGGStyleDiscriminator": "vsr.archs.discriminators",
        "NAFNet": "vsr.archs.nafnet",
        "NAFNetLocal": "vsr.archs.nafnet",
        "NAFNetSR": "vsr.archs.nafssr",
        "NAFSSR": "vsr.archs.nafssr",
        "SpyNet": "vsr.archs.spynet",
    },
)
BLOCKS = Registry("block", {"NAFBlock": "vsr.archs.nafnet"})  # map one feature map to another of its shape
FUSIONS = Registry("fusion", {"BiPAM": "vsr.archs.stereo_fusion", "SCAM": "vsr.archs.nafssr"})  # two to two
MEMORIES = Registry(  # what a window of features is read from
    "memory", dict.fromkeys(("pixsim", "pixwise", "pixsentence"), "vsr.archs.memory_fusion")
)
DATASETS = Registry(
    "dataset",
    {
        "CharadesDataset": "vsr.data.prediction",
        "FMANetDataset": "vsr.data.fmanet",
        "FMANetTestDataset": "vsr.data.fmanet",
        "HumanEvaDataset": "vsr.data.prediction",
        "MixedDataset": "vsr.data.mixed",
        "NextFrameDataset": "vsr.data.prediction",
        "PairedImageDataset": "vsr.data.paired_image",
        "PairedStereoImageDataset": "vsr.data.paired_stereo_image",
        "REDSDataset": "vsr.data.reds",
        "REDSRecurrentDataset": "vsr.data.reds",
        "SingleImageDataset": "vsr.data.single_image",
        "VideoTrainDataset": "vsr.data.video",
        "VideoRecurrentTrainDataset": "vsr.data.video",
        "VideoTestDataset": "vsr.data.video",
        "VideoRecurrentTestDataset": "vsr.data.video",
        "VideoTestVimeo90KDataset": "vsr.data.vimeo90k",
        "Vimeo90KDataset": "vsr.data.vimeo90k",
        "Vimeo90KRecurrentDataset": "vsr.data.vimeo90k",
    },
)
DEGRADATIONS = Registry(
    "degradation",
    {
        "BlurDown": "vsr.data.blur_stages",
        "FrameAverage": "vsr.data.blur_stages",
        "GaussianBlur": "vsr.data.blur_stages",
        "JPEG": "vsr.data.degradation_stages",
        "Noise": "vsr.data.degradation_stages",
        "RandomBlur": "vsr.data.blur_stages",
        "RandomResize": "vsr.data.degradation_stages",
        "Resize": "vsr.data.degradation_stages",
        "Shuffle": "vsr.data.degradation_stages",
        "SincFilter": "vsr.data.blur_stages",
        "USM": "vsr.data.blur_stages",
        "VideoCompression": "vsr.data.video_compression",
    },
)
BATCH_AUGMENTS = Registry(
    "batch augmentation",
    {
        "CutBlur": "vsr.data.batch_augment",
        "CutMix": "vsr.data.batch_augment",
        "CutMixup": "vsr.data.batch_augment",
        "Degrade": "vsr.data.device_degradations",
        "Mixup": "vsr.data.batch_augment",
        "RGBShuffle": "vsr.data.batch_augment",
    },
)
LOSSES = Registry(
    "loss",
    {
        "CharbonnierLoss": "vsr.losses.pixel",
        "EdgeLoss": "vsr.losses.edge",
        "FFTLoss": "vsr.losses.frequency",
        "GANLoss": "vsr.losses.gan",
        "L1Loss": "vsr.losses.pixel",
        "MSELoss": "vsr.losses.pixel",
        "MSSSIMLoss": "vsr.losses.structure",
        "MultiScaleGANLoss": "vsr.losses.gan",
        "PSNRLoss": "vsr.losses.pixel",
        "PerceptualLoss": "vsr.losses.perceptual",
        "SSIMLoss": "vsr.losses.structure",
        "WeightedTVLoss": "vsr.losses.total_variation",
    },
)
METRICS = Registry(
    "metric",
    {
        "calculate_bad_disparity": "vsr.metrics.stereo_consistency",
        "calculate_disparity_error": "vsr.metrics.stereo_consistency",
        "calculate_l1": "vsr.metrics.l1",
        "calculate_psnr": "vsr.metrics.psnr",
        "calculate_psnr_left": "vsr.metrics.psnr",
        "calculate_skimage_ssim": "vsr.metrics.skimage_ssim",
        "calculate_skimage_ssim_left": "vsr.metrics.skimage_ssim",
        "calculate_ssim": "vsr.metrics.ssim",
        "calculate_ssim_left": "vsr.metrics.ssim",
        "calculate_warped_psnr": "vsr.metrics.stereo_consistency",
        "calculate_tof": "vsr.metrics.tof",
    },
)
OPTIMIZERS = Registry(
    "optimizer",
    {
        "Adam": "vsr.optim.optimizers",
        "AdamW": "vsr.optim.optimizers",
        "SGD": "vsr.optim.optimizers",
    },
)
SCHEDULERS = Registry(
    "scheduler",
    {
        "ConstantLR": "vsr.optim.schedules",
        "MultiStepLR": "vsr.optim.schedules",
        "MultiStepRestartLR": "vsr.optim.schedules",
        "CosineAnnealingRestartLR": "vsr.optim.schedules",
        "CosineAnnealingRestartCyclicLR": "vsr.optim.schedules",
        "TrueCosineAnnealingLR": "vsr.optim.schedules",
        "LinearLR": "vsr.optim.schedules",
        "VibrateLR": "vsr.optim.schedules",
    },
)
MODELS = Registry(
    "model",
    {
        "FMANetModel": "vsr.models.fmanet",
        "ImageModel": "vsr.models.image",
        "PredictionModel": "vsr.models.prediction",
        "StereoModel": "vsr.models.stereo",
        "VideoModel": "vsr.models.video",
    },
)
