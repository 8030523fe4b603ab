"""The training run: read ``_train`` from top to bottom."""

import gc
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from vsr.config import Options
from vsr.data.bad_samples import REPORT, BadSamples
from vsr.data.loader import build_dataset, build_train_loader
from vsr.data.overlap import shared_frames
from vsr.data.sampler import TrainSampler
from vsr.engine import checkpoint
from vsr.engine.diverged import FaultWatch
from vsr.engine.evaluate import EvaluationSet
from vsr.engine.hangs import HangWatch
from vsr.engine.log import TrainLog
from vsr.engine.memory import memory_advice
from vsr.engine.resume import resume
from vsr.engine.run_folder import RunFolder, write_options
from vsr.engine.scaling import scale_iterations
from vsr.engine.stopping import MARKER, StopRequest
from vsr.engine.validation import Validation
from vsr.models.restoration import Batch, RestorationModel
from vsr.registry import MODELS
from vsr.utils import dist, logs

log = logging.getLogger(__name__)


def train(options: Options, *, fresh: bool = False, force: bool = False) -> None:
    """Train as the option file says; an interrupted run of that name is continued.

    Args:
        options: A checked option file with a ``train`` section.
        fresh: Start over; the earlier run's folder is archived.
        force: Continue it although its learning rates are others now.
    """
    if options.train is None:
        raise ValueError("train: expected this section in the option file, found none. Add it, or use test.py.")
    device = dist.init(options.dist.timeout)
    with closing(RunFolder(options, fresh=fresh)) as folder:
        logs.to_file(folder.root / "train.log")
        log.info("run folder: %s", folder.root)
        while _train(options, folder, device, force=force):
            gc.collect()  # the model that has diverged, before the next one is built


def _train(given: Options, folder: RunFolder, device: torch.device, *, force: bool = False) -> bool:
    """Run to the end; return whether the run has been set back to an earlier state, and is to be entered anew."""
    assert given.train is not None
    section, accumulate = given.datasets["train"], given.train.accumulate
    draws_a_step = section.batch_size_per_gpu * accumulate * dist.world_size()
    options = scale_iterations(given, draws_a_step)
    assert options.train is not None
    set_tf32(options.train.tf32)
    train_set = build_dataset(section, scale=options.scale, seed=options.manual_seed, key="train")
    val_sets = [EvaluationSet(key, options) for key in options.datasets if key != "train"]
    model: RestorationModel = MODELS.build({"type": options.model_type}, options=options, device=device)
    sample = train_set[0, 0]
    model.check_sample(sample, "datasets.train", train=True)
    for val_set in val_sets:
        model.check_sample(val_set.dataset[0], f"datasets.{val_set.key}", train=False)
        val_set.check_memory(model)
        check_disjoint(train_set, val_set)
    dist.wait_for_all()  # looking through the data may take one process much longer than another

    start, draw = resume(model, given, folder, force=force)
    if dist.is_main():
        checkpoint.set_aside(folder, start)
        write_options(folder.root, given)  # now that they are known to work, and to fit the states
        (folder.root / MARKER).unlink(missing_ok=True)
    total = options.train.total_iter
    describe(model, options, len(train_set), start)
    sampler = TrainSampler(
        length=len(train_set),
        enlarge_ratio=section.dataset_enlarge_ratio,
        batch_size=section.batch_size_per_gpu,
        world_size=dist.world_size(),
        rank=dist.rank(),
        seed=options.manual_seed,
        start_draw=draw,
        num_batches=max(total - start, 0) * accumulate,
    )

    def read_again(step: int) -> list[Batch]:
        part, alone = sampler.part((step - start - 1) * accumulate, accumulate), replace(section, num_worker_per_gpu=0)
        with closing(build_train_loader(train_set, alone, part, pin_memory=False)) as batches:
            return list(batches)

    terms_known = model.loss_terms(sample["gt"].numel() * section.batch_size_per_gpu)

    with (
        closing(StopRequest()) as stop,
        closing(HangWatch(options.dist.timeout)) as hangs,
        closing(build_train_loader(train_set, section, sampler, pin_memory=device.type == "cuda")) as loader,
        closing(BadSamples(folder.root / REPORT, section.max_bad_samples)) as bad,
        closing(TrainLog(options.logger, folder.root, start, total, terms_known)) as progress,
    ):
        validation = Validation(options, model, val_sets, folder, progress, stop)
        saver = checkpoint.Saver(folder, model, given)
        validation.catch_up(start)
        if stop.asked():  # a validation that was cut short is made up for by the next run
            stop.leave(folder.root, start)
            return False
        faults = FaultWatch(model, folder, read_again)
        if faults.needs_state(start):
            saver.save(start, draw, last=False)
        hangs.go()
        for step, batches in enumerate(grouped(bad.watched(loader), accumulate), start=start + 1):
            progress.data_ready()
            with memory_advice(model, batches, step):
                terms = model.train_step(batches, step)
            draw += draws_a_step
            keys = [key for batch in batches for key in batch["key"]]
            faults.note(step, keys, terms)
            groups = model.optimizer.param_groups
            told = progress.step(step, terms, rate=model.rate(step), keys=keys, groups=groups)
            saves = step % options.logger.save_checkpoint_freq == 0 or step == total
            looks = told or (saves and faults.overdue())
            if (looks and faults.judge(step, batches)) or (saves and faults.check_weights(step)):
                if not stop.asked():
                    return True
                stop.leave(folder.root, step)  # the newest state is already the one to go on from
                return False
            # The state first: a run that is killed while it validates has lost nothing.
            if saves:
                saver.save(step, draw, last=step == total)
            hangs.pause()
            if validation.due(step) and not stop.asked():
                validation.run(step)
            if saves:
                validation.with_state(step)
            if stop.asked():
                if saver.saved != step and not faults.check_weights(step):
                    saver.save(step, draw, last=True)
                stop.leave(folder.root, step)
                return False
            progress.pause()
            hangs.go()
    log.info("finished: %d steps. Weights, logs and states: %s", total, folder.root)
    return False


def grouped(batches: Iterable[Batch], count: int) -> Iterator[list[Batch]]:
    """Yield lists of ``count`` batches."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == count:
            yield group
            group = []


def set_tf32(allowed: bool) -> None:
    """Let float32 products on GPUs round their factors to 10 bits, or not; vsr's own kernels ask the environment."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    os.environ.setdefault("VSR_CUDA_TF32", str(int(allowed)))


def check_disjoint(train_set: Any, val_set: EvaluationSet) -> None:
    """Refuse to validate on frames that are trained on."""
    if shared := shared_frames(train_set, val_set.dataset):
        raise ValueError(
            f"datasets.{val_set.key}: expected frames that datasets.train does not hold, but they share {shared}. "
            "Separate them by clips, exclude_clips, val_partition or frames."
        )


def describe(model: RestorationModel, options: Options, samples: int, start: int) -> None:
    """Log what is about to run."""
    assert options.train is not None
    section, count = options.datasets["train"], sum(p.numel() for p in model.network_g.parameters())
    accumulate = options.train.accumulate
    batch = section.batch_size_per_gpu * accumulate * dist.world_size()
    times = f" x {accumulate} (accumulate)" if accumulate > 1 else ""
    log.info("network_g: %s, %s parameters, on %s", options.network_g.type, f"{count:,}", model.device)
    log.info(
        "data: %d samples x %d; %d processes x batch %d%s = %d samples a step; %.1f epochs in %d steps",
        samples, section.dataset_enlarge_ratio, dist.world_size(), section.batch_size_per_gpu, times, batch,
        options.train.total_iter * batch / (samples * section.dataset_enlarge_ratio), options.train.total_iter,
    )  # fmt: skip
    periods = options.train.scheduler.args.get("periods") if options.train.scheduler else None
    if periods and sum(periods) < options.train.total_iter:
        log.warning(
            "train.scheduler.periods end at step %d, before train.total_iter (%d); the rate then stays as it is",
            sum(periods), options.train.total_iter,
        )  # fmt: skip
    if start >= options.train.total_iter:
        log.info("this run is already finished: raise train.total_iter to go on, or start over with --fresh")
