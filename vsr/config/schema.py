"""The option file as frozen dataclasses: the manual of the YAML.

There are two kinds of node. A *section* is one of the dataclasses below; its fields are its keys.
A *component* is a registered class: a ``type`` and the arguments of its constructor, whose
signature is the schema. A field marked ``component(...)`` inside a section takes the ``type`` and
every key that the section itself does not know.
"""

# ruff: noqa: RUF009 (component() makes a dataclass field, as field() does)

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Component:
    """A registered class or function (YAML ``type``) and the arguments for it (the rest)."""

    type: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def as_option(self) -> dict[str, Any]:
        """The form that ``Registry.build`` takes: ``{"type": ..., **arguments}``."""
        return {"type": self.type, **self.args}


def key_of(entry: "dataclasses.Field[Any]") -> str:
    """The key of a field in the file: the underscore behind a word that Python keeps for itself is not part of it."""
    return entry.name.rstrip("_")


def component(registry: str, *, rest: bool = False, default: Any = dataclasses.MISSING) -> Any:
    """A field that holds a component, a dict or a list of them, out of one of the tables of vsr.registry.

    Args:
        registry: Name of the table, 'NETWORKS'.
        rest: The component's keys stand among the section's own, not below a key of their own.
        default: What an absent key means; none: the key is required.
    """
    metadata = {"registry": registry, "rest": rest}
    if default in (dict, list):
        return field(default_factory=default, metadata=metadata)
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class DatasetPart:
    """One of the data sets that a MixedDataset draws from: its own keys, and (all others) the data set's."""

    dataset: Component = component("DATASETS", rest=True)
    degradations: list[Component] = component("DEGRADATIONS", default=list)  # make LQ from GT, one after the other
    name: str = ""  # what stands before the keys of its samples; empty: its number
    weight: float | None = None  # its share of the draws, relative to the others'; none, for all: their lengths


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """One data set: how it is loaded, and (all other keys) the data set itself."""

    dataset: Component = component("DATASETS", rest=True)
    degradations: list[Component] = component("DEGRADATIONS", default=list)  # make LQ from GT, one after the other
    name: str = ""  # in logs, results and TensorBoard; empty: the key of this section
    fingerprint: str | None = None  # of the images that this file is meant for; others are told of
    batch_size_per_gpu: int = 1  # samples a process draws for one step; validation always takes 1
    num_worker_per_gpu: int = 2  # loader processes for each training process; 0 loads in the loop itself
    dataset_enlarge_ratio: int = 1  # how often the set is repeated within one epoch
    num_prefetch_queue: int = 2  # batches that each worker prepares ahead
    timeout: float = 300.0  # seconds without a batch from a worker before the run stops with an error
    on_bad_sample: Literal["stop", "skip"] = "stop"  # to train on one that cannot be read: end the run; take another
    max_bad_samples: int = 100  # bad files that skip puts up with; one more stops the run


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """The run of another option file, whose weights this one starts from."""

    stage: str  # that option file; relative to the current folder
    weights: Literal["last", "best"] = "last"  # after its last step, or the best ones that its validation found


@dataclass(frozen=True, kw_only=True)
class PathOptions:
    """Files that a run reads and folders that it writes; relative to the current folder."""

    experiments_root: str = "experiments"  # a training run writes to experiments_root/name
    results_root: str = "results"  # test.py writes to results_root/name
    pretrain_network_g: str | StageOptions | None = None  # checkpoint to start from, or to test; or a stage before
    strict_load_g: bool = True  # refuse a checkpoint whose keys or shapes differ from the network's
    param_key_g: str | None = None  # entry of the checkpoint; none: params_ema, else params, else the whole
    pretrain_network_d: str | None = None  # checkpoint that network_d starts from
    strict_load_d: bool = True  # refuse one whose keys or shapes differ from the network's
    param_key_d: str | None = None  # entry of it, as param_key_g
    resume_state: str | None = None  # training state to start from, once; none: the run's newest valid one


@dataclass(frozen=True, kw_only=True)
class OffsetWatchOptions:
    """Deformable layers that read far away: the first sign of a run that diverges."""

    limit: float = 100.0  # pixels of a layer's features: its mean |offset| in one step
    action: Literal["warn", "skip", "stop", "roll_back"] = "warn"  # beyond it: tell; drop the step; stop; on_divergence


@dataclass(frozen=True, kw_only=True)
class DivergenceOptions:
    """A run that does not recover: more than max_bad_steps in a row, or weights that are no numbers."""

    action: Literal["stop", "roll_back"] = "stop"  # with a report; or go on from the newest state from before it began
    lr_mul: float = 0.5  # roll_back: factor on the rates from there on, each time anew
    parts: list[str] | str = field(default_factory=list)  # of the names of what is slowed, 'conv_offset'; none: all
    max_roll_backs: int = 3  # of one run; after that it stops


@dataclass(frozen=True, kw_only=True)
class FreezeOptions:
    """Parts of network_g that do not train, for some steps or for all of them."""

    parts: list[str] | str = field(default_factory=list)  # parts of the names of what is frozen; none: everything
    except_: list[str] | str = field(default_factory=list)  # parts of the names of what trains all the same
    until: int | None = None  # the first step that trains everything; none: it stays frozen
    pretrained: bool = False  # path.pretrain_network_g must hold all that is frozen; train.mode: freeze says so


@dataclass(frozen=True, kw_only=True)
class ClipGradOptions:
    """A bound for the gradient of a step, applied before the optimiser sees it."""

    norm: float | None = None  # largest L2 norm of the whole gradient; NAFNet's recipes have 0.01
    value: float | None = None  # largest absolute value of each of its numbers


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What is optimised, and for how long."""

    total_iter: int  # optimiser steps
    losses: Mapping[str, Component] = component("LOSSES", default=dict)  # summed; pixel_opt: is losses: {pixel: ...}
    optim_g: Component = component("OPTIMIZERS")  # of network_g
    optim_d: Component | None = component("OPTIMIZERS", default=None)  # of network_d
    scheduler: Component | None = component("SCHEDULERS", default=None)  # of both; none: the rate stays
    batch_augment: list[Component] = component("BATCH_AUGMENTS", default=list)  # on the device, one after the other
    warmup_iter: int = -1  # steps of linear warm-up from 0; -1: none
    ema_decay: float = 0.0  # of the moving average of the weights, for each step; 0: no average
    lr_mul: Mapping[str, float] = field(default_factory=dict)  # {part of a parameter's name: factor on its rate}
    freeze: FreezeOptions | None = None  # parts that do not train yet, or never; tsa_iter and fix_flow are spellings
    clip_grad: ClipGradOptions | None = None  # none: gradients are left as they are
    accumulate: int = 1  # batches whose mean gradient makes one step
    reference_batch: int | None = None  # samples a step that the numbers of steps in this file are meant for
    scale_iterations: bool = False  # multiply all numbers of steps by reference_batch / the samples of a step
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of most of the forward and backward pass
    tf32: bool = True  # float32 products on GPUs with 10 bits of mantissa: several times as fast
    channels_last: bool = False  # weights and images in NHWC: faster on GPUs in half precision, mostly slower on CPUs
    checkpoint_activations: bool = False  # less memory, about a third more time: activations are computed twice
    compile: bool = False  # torch.compile: minutes at the start; pays on GPUs
    net_d_init_iters: int = 0  # steps in the beginning in which network_d alone learns
    net_d_iters: int = 1  # network_g learns in every such step only; network_d in all
    relativistic: bool = False  # judge how much more real than the mean of the others an image is, as ESRGAN does
    r1_reg_weight: float = 0.0  # of the penalty on network_d's gradient at real images; 0: none
    net_d_reg_every: int = 16  # steps between such penalties, each counting for all of them
    gp_weight: float = 0.0  # of WGAN-GP's penalty on that gradient between real and restored images; 10 in the paper
    max_bad_steps: int = 100  # steps in a row that may be skipped (gradient not finite; offset_watch); one more stops
    on_divergence: DivergenceOptions = field(default_factory=DivergenceOptions)  # or, after them, goes back
    offset_watch: OffsetWatchOptions | None = field(default_factory=OffsetWatchOptions)  # null: not watched


@dataclass(frozen=True, kw_only=True)
class MetricOptions:
    """One column of the results."""

    metric: Component = component("METRICS", rest=True)
    better: str | None = None  # 'higher' or 'lower'; none: what the metric itself says


@dataclass(frozen=True, kw_only=True)
class BestOptions:
    """What picks the weights that are kept as net_g_best.pth."""

    set: str | None = None  # section of datasets; none: the first that is not train
    metric: str | None = None  # name in val.metrics; none: the first


@dataclass(frozen=True, kw_only=True)
class ValOptions:
    """Validation during training, and test.py."""

    val_freq: int | None = None  # steps between validations; none: at the end only
    val_at: list[int] = field(default_factory=list)  # further steps to validate after; 0: before the first one
    weights: Literal["ema", "raw"] = "ema"  # which are measured: the averaged ones, if there are any; the trained ones
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the network; published figures are of float32
    save_img: bool | None = None  # write every restored frame; none: test.py does, training does not
    suffix: str | None = None  # appended to the names of saved images
    metrics: Mapping[str, MetricOptions] = field(default_factory=dict)  # by names of your own
    protocol: Literal["FMANet"] | None = None  # metrics and totals of a publication: put before those of this file
    totals: Literal["clips", "frames"] = "clips"  # of clips: the mean of the clips' means, or of all frames alike
    best: BestOptions = field(default_factory=BestOptions)  # which of them picks the best checkpoint
    compare_bicubic: bool = False  # measure the input beside the network: bicubically enlarged; at scale 1 as it is
    chunk: int = 0  # frames of a clip that a network of whole clips gets at a time; 0: all
    chunk_overlap: int = 6  # frames that neighbouring chunks share
    tile: int = 0  # side in LQ pixels of the tiles that a frame is restored in; 0: whole frames
    tile_overlap: int = 16  # LQ pixels that neighbouring tiles share
    auto_tile: bool = True  # where the memory runs out, go on in tiles, halved until they fit; false: that is an error
    self_ensemble: bool = False  # average over the 8 flips and rotations
    flip_seq: bool = False  # networks of whole clips: let a clip follow once more in reverse, average the two results
    center_frame_only: bool = False  # networks of whole clips: of windows, restore all, and measure the middle frame


@dataclass(frozen=True, kw_only=True)
class VisdomOptions:
    """A Visdom server (pip install visdom) that shows a run live; one that is not there costs a warning."""

    port: int = 7097  # that it listens on: python -m visdom.server -port 7097
    server: str = "localhost"  # its machine
    env: str = ""  # its environment for this run; empty: the run's name
    timeout: float = 3.0  # seconds that it may take to answer; after that it is left alone


@dataclass(frozen=True, kw_only=True)
class LoggerOptions:
    """What a run writes, and how often; in steps."""

    print_freq: int = 100  # lines in train.log and log.jsonl
    save_checkpoint_freq: int = 5000  # training states and weights
    use_tb_logger: bool = True  # scalars and pictures for TensorBoard
    keep_last: int = 5  # checkpoints kept beside the best one; at least 2
    on_save_error: Literal["stop", "warn"] = "stop"  # no state can be written: end at the second miss in a row; go on
    log_keys: bool = False  # write the keys of each logged step's samples into log.jsonl
    visdom: VisdomOptions | None = None  # plots and pictures on a Visdom server, too; none: no server is asked


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """What PredictionModel learns, and what it leaves in the folder Results of the run."""

    test_type: Literal["nextframe", "subtract", "opticalflow"] = "nextframe"  # what is predicted
    wsupervised: float = 0.0  # weight of the loss that the memory find the frame most like the target; 0: none
    load: bool = False  # insist on a state to go on from; where there is one, a run goes on from it in any case
    results: bool = True  # leave Results: pictures and weights of a run (needs a validation set), pictures of a test
    pictures: int = 10  # samples of the validation set in Results, spread evenly over it
    legacy_names: bool = False  # name the folders of Results without what tells reads apart (pixsim, pixwise)


@dataclass(frozen=True, kw_only=True)
class DistOptions:
    """Several processes."""

    timeout: float = 600.0  # seconds that one process waits for the others before all stop


@dataclass(frozen=True, kw_only=True)
class Options:
    """A whole option file."""

    name: str  # of the run: the folder under experiments/ and results/
    model_type: str  # one of vsr.registry.MODELS
    scale: int = 1  # GT size / LQ size
    manual_seed: int = 0  # of everything random: initial weights, order of samples, crops, dropout
    imports: list[str] = field(default_factory=list)  # modules that register your own classes
    datasets: Mapping[str, DatasetOptions] = field(default_factory=dict)  # train, val, val_2, test ...
    network_g: Component = component("NETWORKS")  # the network that restores
    network_d: Component | None = component("NETWORKS", default=None)  # the one that judges it, for train.losses.gan
    path: PathOptions = field(default_factory=PathOptions)
    train: TrainOptions | None = None  # needed by train.py
    val: ValOptions = field(default_factory=ValOptions)
    logger: LoggerOptions = field(default_factory=LoggerOptions)
    prediction: PredictionOptions | None = None  # of model_type PredictionModel; none: all defaults
    dist: DistOptions = field(default_factory=DistOptions)
