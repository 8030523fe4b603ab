"""The model class: a network with its losses, optimiser, schedule, moving average and inference."""

import contextlib
import copy
import gc
import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vsr.archs.blocks import checkpoint_activations
from vsr.config import Options
from vsr.data.batch_augment import augment_batch, build_batch_augments
from vsr.inference import Tiling, infer
from vsr.inference.tiles import Network
from vsr.models.adversary import take_adversary
from vsr.models.average import follow
from vsr.models.freezing import Freezing
from vsr.models.gradients import Gradients, autocast
from vsr.models.measures import build_metrics, check_measurable
from vsr.models.offset_watch import OffsetWatch
from vsr.models.samples import check_sizes, named_frames
from vsr.models.terms import Term, describe_terms, term_name
from vsr.models.weights import build_network, fill, for_inference, read_weights
from vsr.ops.build import BuildError, find_compiler
from vsr.optim import build_optimizer, build_schedule, load_by_name, state_by_name
from vsr.registry import LOSSES
from vsr.utils import dist
from vsr.utils.images import to_uint8
from vsr.utils.records import Record
from vsr.utils.seeds import derive_seed

log = logging.getLogger(__name__)

Batch = Mapping[str, Any]
OnFrame = Callable[[str, np.ndarray], None]  # (key, restored frame as uint8 (h, w, 3) RGB)
Pictures = tuple[np.ndarray, np.ndarray]  # restored frame and ground truth, uint8 (h, w, 3) RGB


class RestorationModel:
    """Everything that one optimiser step or one restored frame touches.

    Owns the network, its losses, optimiser, schedule, moving average and data parallelism. Owns no
    loop, no path, no logger, no YAML. Subclasses override ``forward``, ``losses``, ``restore`` and
    ``check_sample`` for their kind of data, and little else.

    Args:
        options: A checked option file.
        device: Where to work. For several processes the process group must exist already.
        train: Build what training needs, too.
    """

    of_pairs = False  # restores stereo pairs, which metrics of that name measure as a whole

    def __init__(self, *, options: Options, device: torch.device, train: bool = True) -> None:
        self.options, self.device, self.trains = options, device, train
        self.enlarges = options.scale  # size of what ``restore`` returns / LQ size
        self.compiled = train and options.train is not None and options.train.compile
        torch.manual_seed(options.manual_seed)  # the same initial weights on every process and in every run
        self.network_g = build_network(options.network_g.as_option()).to(device)
        scale = getattr(self.network_g, "scale", options.scale)
        if scale != options.scale:
            raise ValueError(
                f"scale: expected {scale}, what network_g ({options.network_g.type}) enlarges by with its arguments, "
                f"got {options.scale}. Change one of the two."
            )
        self.metrics = build_metrics(options, of_pairs=self.of_pairs)
        val = options.val
        self.tiling = Tiling(val.tile, val.tile_overlap, shrink=val.auto_tile, option="val.tile")
        self.network_ema: nn.Module | None = None
        if train:
            self._prepare_training()
        else:
            for_inference(self.network_g)

    def load_pretrained(self, source: str) -> set[str]:
        """Start from a checkpoint, read as path.param_key_g and path.strict_load_g say; return what was loaded."""
        averaged = self.trains or self.options.val.weights == "ema"
        weights = read_weights(source, self.options.path.param_key_g, averaged=averaged)
        loaded = set[str]()
        for network in (self.network_g, self.network_ema):
            if network is not None:
                loaded = fill(network, weights, source=source, strict=self.options.path.strict_load_g)
        if self.trains:
            self.freezing.check_loaded(loaded, source)
        return loaded

    def _prepare_training(self) -> None:
        options = self.options.train
        assert options is not None, "train.py checks that the option file has a train section"
        self.criteria = {name: LOSSES.build(loss.as_option()).to(self.device) for name, loss in options.losses.items()}
        self.adversary = take_adversary(self.options, self.criteria, self.device)
        train_set = self.options.datasets.get("train")
        self.batch_augments = build_batch_augments(
            [augment.as_option() for augment in options.batch_augment],
            batch_size=train_set.batch_size_per_gpu if train_set else None,
        )
        self.roll_backs: list[dict[str, Any]] = []  # of this run: {"at", "to": steps, "lr_mul": factor, "parts": [...]}
        self.optimizer = self._optimizer()
        self.schedule = build_schedule(
            options.scheduler.as_option() if options.scheduler else None,
            base_lr=options.optim_g.args["lr"],
            warmup_iter=options.warmup_iter,
        )
        if options.channels_last:
            self.network_g.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if options.ema_decay > 0:
            self.network_ema = copy.deepcopy(self.network_g).requires_grad_(False)
        self.offsets = OffsetWatch(self.network_g, options.offset_watch)
        self.freezing = Freezing(self.network_g, options.freeze)
        self.gradients = Gradients(options.precision, options.clip_grad, self.device)
        if options.checkpoint_activations:
            if not getattr(self.network_g, "checkpointed", ()):
                name = self.options.network_g.type
                raise ValueError(f"train.checkpoint_activations: expected false, as {name} names no part to recompute.")
            checkpoint_activations(self.network_g)
        if self.compiled:
            try:
                find_compiler("cpu")
            except BuildError as error:
                raise ValueError(f"train.compile: expected what torch.compile needs, but {error}.") from error
            # Each crop size of a progressive schedule by itself: Inductor fails on sizes left open in some networks.
            self.network_g.compile(dynamic=False)
        self.parallel: nn.Module = self.network_g  # what the training step calls; DDP from the first one on
        self.bad_steps_in_a_row = torch.zeros((), device=self.device)
        self.skipped = torch.zeros((), device=self.device)  # 1: the last step changed nothing

    def _optimizer(self) -> torch.optim.Optimizer:
        """Build the optimiser of network_g; what a roll-back slowed has a factor of its own."""
        options = self.options.train
        assert options is not None
        slowed = [(entry["parts"], entry["lr_mul"]) for entry in self.roll_backs if entry["parts"]]
        parameters = self.network_g.named_parameters()
        return build_optimizer(options.optim_g.as_option(), parameters, lr_mul=options.lr_mul, slowed=slowed)

    def _start_phase(self, step: int) -> None:
        """Freeze what is frozen in step ``step``; DDP, which exchanges just what trains, is built anew then."""
        changed = self.freezing.apply(step)
        if dist.world_size() > 1 and (changed or self.parallel is self.network_g):
            self.parallel = self.network_g
            gc.collect()  # the old wrapper lies in cycles, and as long as it lives its hooks exchange gradients, too
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.parallel = DistributedDataParallel(self.network_g, device_ids=ids)

    @property
    def inference_network(self) -> nn.Module:
        """The network that val.weights asks for: the averaged one where there is one, or the trained one."""
        if self.network_ema is not None and self.options.val.weights == "ema":
            return self.network_ema
        return self.network_g

    # ---------------------------------------------------------------- training

    def arranged(self, batch: Batch) -> Batch:
        """Return a batch of the loader with ``gt`` as what ``restore`` is measured against."""
        return batch

    def prepare(self, batch: Batch) -> dict[str, Any]:
        """Move a batch to the device; there uint8 images become float32 in [0, 1]."""
        parts = self.arranged(batch).items()
        moved = {k: v.to(self.device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in parts}
        return {k: v.float() / 255 if isinstance(v, Tensor) and v.dtype == torch.uint8 else v for k, v in moved.items()}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Run the network on a prepared batch; return ``restored`` and what the losses want to see.

        It runs under autocast where train.precision says so; the losses do not, and get float32.
        """
        return {"restored": self.parallel(batch["lq"])}

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Return the weighted loss terms, scalars, by the names of ``train.losses``; of a loss of parts each part."""
        terms: dict[str, Tensor] = {}
        for name, loss in self.criteria.items():
            if hasattr(loss, "parts"):
                parts = loss.parts(outputs["restored"], batch["gt"])
                terms |= {term_name(name, part): value for part, value in parts.items()}
            else:
                terms[name] = loss(outputs["restored"], batch["gt"])
        return terms

    def loss_terms(self, values: int) -> dict[str, Term]:
        """Return what is known of the terms of network_g's loss, for a log; ``values``: of a batch's ground truth."""
        adversarial = {self.adversary.name: self.adversary.criterion} if self.adversary else {}
        return describe_terms({**self.criteria, **adversarial}, values)

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step``: the schedule's, times the factors of roll-backs that slow all."""
        return self.schedule(step) * self._slowdown()

    def _slowdown(self) -> float:
        return math.prod(entry["lr_mul"] for entry in self.roll_backs if not entry["parts"])

    def train_step(self, batches: list[Batch], step: int) -> dict[str, Tensor]:
        """Run forward, backward and update on one step's micro-batches.

        The gradient is the mean over micro-batches, and over processes; so a loss of reduction
        'sum' sums within one process's micro-batch only. Nothing here reads a value back from the
        device: the host runs ahead of it. A step whose gradient is not finite changes nothing (the
        optimiser reads ``found_inf`` on the device) and is counted; so is one that the offset watch drops.

        Args:
            batches: What the loader gave: one batch, or several to accumulate over.
            step: From 1; learning rate and random numbers depend on nothing else.

        Returns:
            Scalars on the device, not yet averaged over processes: each loss term under its name,
            ``total``, the gradient's norm ``grad_norm``, and the deformable layers' ``offset/<layer>``.
        """
        rate = self.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_mul"]
        if self.adversary:
            self.adversary.set_rate(step, self._slowdown())
        self._start_phase(step)
        buffers = self._buffers()
        before = [buffer.clone() for buffer in buffers]
        sums = self.accumulate(batches, step)
        offsets, drop = self.offsets.read(step)
        sums["grad_norm"] = self._update(drop)
        for buffer, kept in zip(buffers, before, strict=True):  # running statistics that a bad step must not touch
            buffer.copy_(torch.where(self.skipped > 0, kept, buffer))
        if self.network_ema is not None:
            assert self.options.train is not None
            follow(self.network_ema, self.network_g, (1 - self.options.train.ema_decay) * (1 - self.skipped))
        return sums | offsets

    def _buffers(self) -> list[Tensor]:
        networks = [self.network_g, *([self.adversary.network] if self.adversary else [])]
        return [buffer for network in networks for buffer in network.buffers()]

    def accumulate(self, batches: list[Batch], step: int) -> dict[str, Tensor]:
        """Put the gradient of one step's micro-batches in the place of the last one; return the means of the terms.

        A function of the weights, the batches, the step and the rank alone, random numbers and all.
        """
        torch.manual_seed(derive_seed(self.options.manual_seed, step, dist.rank()))  # for dropout and its like
        self.network_g.train()
        self.optimizer.zero_grad()
        if self.adversary:
            self.adversary.start_step()
        sums: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            with contextlib.nullcontext() if i == len(batches) - 1 else self._no_sync():
                seeds = (self.options.manual_seed, step, dist.rank(), i)
                prepared = augment_batch(self.batch_augments, self.prepare(batch), seeds)
                terms = self._backward(prepared, step, len(batches))
            if self.adversary:
                share, last = 1 / len(batches), i == len(batches) - 1
                terms |= self.adversary.learn(terms.pop("restored"), prepared["gt"], step, share=share, last=last)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach() / len(batches)
        return sums

    def _backward(self, batch: Batch, step: int, count: int) -> dict[str, Tensor]:
        """Run forward and backward on one of ``count`` micro-batches; return the loss terms and ``total``.

        With an adversary ``restored`` is among them, for it to learn from; and in steps in which network_g does not
        learn nothing else is.
        """
        learns = self.adversary is None or self.adversary.teaches(step)
        with torch.set_grad_enabled(learns), self.gradients.autocast():
            outputs = {name: output.float() for name, output in self.forward(batch).items()}
        terms: dict[str, Tensor] = {}
        if learns:
            terms = self.losses(outputs, batch, step)
            if self.adversary:
                terms[self.adversary.name] = self.adversary.loss(outputs["restored"], batch["gt"])
            if unreduced := [name for name, term in terms.items() if term.dim()]:
                raise ValueError(f"train.losses.{unreduced[0]}: expected a loss of one number. Use reduction: mean.")
            terms["total"] = torch.stack(tuple(terms.values())).sum()
            self.gradients.scaled(terms["total"] / count).backward()
        return terms | ({"restored": outputs["restored"]} if self.adversary else {})

    def _no_sync(self) -> contextlib.AbstractContextManager[None]:
        """Accumulate gradients without exchanging them: only a step's last micro-batch does."""
        parallel = self.parallel
        return parallel.no_sync() if isinstance(parallel, DistributedDataParallel) else contextlib.nullcontext()

    def _update(self, drop: Tensor | None) -> Tensor:
        """Apply the gradients to the weights, or ``drop`` them; return the norm."""
        norm = self.gradients.finish([p.grad for p in self.network_g.parameters() if p.grad is not None])
        finite = torch.isfinite(norm)  # gradients are averaged over processes: all agree
        if self.adversary:
            finite &= torch.isfinite(self.adversary.finish())
        self.skipped = (~finite if drop is None else ~finite | drop).float()
        self.optimizer.found_inf = self.skipped  # type: ignore[attr-defined]  # the fused optimisers' own protocol
        self.optimizer.step()
        if self.adversary:
            self.adversary.update(self.skipped)
        self.bad_steps_in_a_row = (self.bad_steps_in_a_row + self.skipped) * self.skipped
        return norm

    # ---------------------------------------------------------------- inference

    def restore(self, batch: Batch) -> Tensor:
        """Restore a prepared batch with ``inference_network``, in tiles and with self-ensemble as options say."""
        return self._restored(batch["lq"], self_ensemble=self.options.val.self_ensemble)

    def _restored(
        self, x: Tensor, *, self_ensemble: bool, network: Network | None = None, whole: Network | None = None
    ) -> Tensor:
        """Restore frames in tiles as val.tile or the memory wants; ``whole`` restores those that are not tiled."""
        network = network or self.inference_network

        def at(tile: int) -> Tensor:
            called, overlap = network if tile or whole is None else whole, self.tiling.overlap
            return infer(called, x, tile=tile, tile_overlap=overlap, self_ensemble=self_ensemble)

        return self.tiling.run(at, x, multiple=getattr(network, "size_multiple", 1))

    def restore_at_precision(self, batch: Batch) -> Tensor:
        """Return what ``restore`` makes of a prepared batch in the precision of val.precision, as float32."""
        with autocast(self.device, getattr(torch, self.options.val.precision)):
            return self.restore(batch).float()

    def uncompiled(self) -> contextlib.AbstractContextManager[Any]:
        """Let a compiled network run as written: each size of frames would be compiled by itself, for minutes."""
        return torch.compiler.set_stance("force_eager") if self.compiled else contextlib.nullcontext()

    @torch.inference_mode()
    def validate(
        self,
        loader: Iterable[Batch],
        *,
        restore: Callable[[Batch], Tensor] | None = None,
        on_frame: OnFrame | None = None,
        lead: int = 0,
        after_gaps: Collection[str] = (),
    ) -> list[Record]:
        """Restore and measure every item of this process's share; return the records of all processes.

        Args:
            loader: Batches of one item: this process's contiguous range of the set.
            restore: What restores; none: the model itself.
            on_frame: Called with every restored frame, on the process that restored it.
            lead: The first so many batches are another process's: metrics that compare frames with those before
                them need them, and nothing else is made of them.
            after_gaps: Keys of frames before which others are missing: what came before is not compared with them.

        Returns:
            One record a frame, in the set's order: the same list on every process, whatever their
            number.
        """
        self.inference_network.eval()
        records = []
        before: tuple[str, Pictures] | None = None  # the frame before, as restored and as it should be, and its clip
        for number, batch in enumerate(loader):
            with self.uncompiled():
                frames = (restore or self.restore_at_precision)(self.prepare(batch))
            image = batch["lq"].dim() == 4
            named = named_frames(self.arranged(batch))
            for (key, target), frame in zip(named, frames.reshape(-1, *frames.shape[-3:]), strict=True):
                picture = to_uint8(frame)
                clip, finite = key.rpartition("/")[0], bool(torch.isfinite(frame).all())
                follows = before is not None and before[0] == clip and not image and key not in after_gaps
                known = before[1] if before is not None and follows else None
                values = {}
                if target is not None and finite:
                    values = self._measure(picture, target, known, batch)
                elif target is not None:  # a picture has no such number: it would be measured as black
                    values = dict.fromkeys(self._measurable(known), math.nan)
                before = (clip, (picture, target)) if target is not None and finite else None
                if number < lead:
                    continue
                if on_frame:
                    on_frame(key, picture)
                if not finite:
                    log.warning("%s: what was restored is not finite; its measures are not numbers", key)
                records.append((key, values, image, self.options.val.totals == "frames"))
        dist.wait_for_all()  # shares are alike in number, not in time
        return [Record(*record) for part in dist.gather_json(records) for record in part]

    def _measurable(self, before: Pictures | None) -> list[str]:
        """Return the metrics that a frame has; one that follows needs a frame before it."""
        return [name for name, metric in self.metrics.items() if before or not getattr(metric, "follows", False)]

    def _measure(
        self, restored: np.ndarray, target: np.ndarray, before: Pictures | None, batch: Batch
    ) -> dict[str, float]:
        """Return the values of a frame, which is finite."""
        values = {}
        for name in self._measurable(before):
            metric = self.metrics[name]
            if getattr(metric, "follows", False):
                values[name] = float(metric.measure(restored, target, before))
            else:
                values[name] = self.measured(metric, restored, target, batch)
        return values

    def measured(self, metric: Any, restored: np.ndarray, target: np.ndarray, batch: Batch) -> float:
        """Return what a metric says of a restored frame; ``batch`` is the item of the data set that it was made of."""
        return float(metric.measure(restored, target))

    # ---------------------------------------------------------------- checks and state

    def check_sample(self, sample: Batch, where: str, *, train: bool) -> None:
        """Check that a data set's sample is what the network takes, before step 1.

        Args:
            sample: One item of the set, not yet batched.
            where: The option that the set comes from, 'datasets.train'; starts the messages.
            train: A training sample goes into the network as it is; others are padded and cropped.
        """
        name, scale = self.options.network_g.type, self.options.scale
        check_sizes(sample, where, self.network_g, name, scale, train=train)
        if not train and "gt" in sample and sample["lq"].dim() == 4:
            height, width = sample["lq"].shape[-2:]
            check_measurable(self.metrics, where, height * self.enlarges, width * self.enlarges)
        if train and "gt" not in sample:
            raise ValueError(f"{where}.dataroot_gt: expected ground truth to train on, got none. Name its root.")
        if train and self.adversary:
            self.adversary.check_sample(sample["gt"], where)

    def state_dict(self) -> dict[str, Any]:
        """Return all that an exact continuation needs, as tensors and plain values."""
        return {
            "network_g": self.network_g.state_dict(),
            "network_ema": self.network_ema.state_dict() if self.network_ema is not None else None,
            "optimizer": state_by_name(self.optimizer, self.network_g.named_parameters()),
            "gradients": self.gradients.state_dict(),
            "adversary": self.adversary.state_dict() if self.adversary else None,
            "bad_steps_in_a_row": self.bad_steps_in_a_row,
            "roll_backs": self.roll_backs,
        }

    def load_state_dict(self, state: Mapping[str, Any], source: str | Path) -> None:
        """Continue from what ``state_dict`` returned; ``source`` starts the messages."""
        fill(self.network_g, state["network_g"], source=str(source))
        if self.network_ema is not None:
            if state["network_ema"] is None:
                log.warning("%s: has no moving average (train.ema_decay was 0); it starts from the weights now", source)
            fill(self.network_ema, state["network_ema"] or state["network_g"], source=str(source))
        self.roll_backs = list(state.get("roll_backs", ()))
        self.optimizer = self._optimizer()  # by what roll-backs slowed
        try:
            load_by_name(self.optimizer, self.network_g.named_parameters(), state["optimizer"])
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        self.gradients.load_state_dict(state.get("gradients", {}))
        if self.adversary and state.get("adversary") is None:
            log.warning("%s: has no discriminator; network_d starts from where a new run does", source)
            self.adversary.load_pretrained()
        elif self.adversary:
            self.adversary.load_state_dict(state["adversary"], str(source))
        self.bad_steps_in_a_row.copy_(state["bad_steps_in_a_row"])

    def finite(self) -> bool:
        """Whether all weights, averages and statistics are numbers; it waits for the device."""
        networks = [self.network_g, self.network_ema, self.adversary.network if self.adversary else None]
        values = [value for network in networks if network is not None for value in network.state_dict().values()]
        return all(bool(torch.isfinite(value).all()) for value in values)

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return what a checkpoint for others holds: ``params`` and, averaged, ``params_ema``."""
        networks = {"params": self.network_g, "params_ema": self.network_ema}
        return {
            key: {name: value.cpu() for name, value in network.state_dict().items()}
            for key, network in networks.items()
            if network is not None
        }
