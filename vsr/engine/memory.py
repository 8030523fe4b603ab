"""What a training that runs out of memory is told."""

import contextlib
from collections.abc import Iterator

from torch import Tensor

from vsr.models.restoration import Batch, RestorationModel
from vsr.utils.memory import out_of_memory, usage


@contextlib.contextmanager
def memory_advice(model: RestorationModel, batches: list[Batch], step: int) -> Iterator[None]:
    """Say how large the step was that ran out of memory in this block, and which options make it smaller.

    Raises:
        RuntimeError: it ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        text = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RuntimeError(f"step {step}: {_sizes(model, batches)}. {_advice(model)} ({text})") from error


def _sizes(model: RestorationModel, batches: list[Batch]) -> str:
    options = model.options
    assert options.train is not None
    shapes = {name: "x".join(map(str, v.shape)) for name, v in batches[0].items() if isinstance(v, Tensor)}
    parameters = sum(p.numel() for p in model.network_g.parameters())
    of = " and ".join(f"{name} {shape}" for name, shape in shapes.items())
    network = f"{options.network_g.type}, {parameters:,} parameters, in {options.train.precision}"
    return f"the memory of {model.device} does not suffice for batches of {of} ({network}{usage(model.device)})"


def _advice(model: RestorationModel) -> str:
    options = model.options.train
    assert options is not None
    batch, ways = model.options.datasets["train"].batch_size_per_gpu, []
    if batch > 1:
        least = next(divisor for divisor in range(2, batch + 1) if batch % divisor == 0)
        ways.append(
            f"datasets.train.batch_size_per_gpu: {batch // least} with train.accumulate: {options.accumulate * least} "
            "(the same steps)"
        )
    if getattr(model.network_g, "checkpointed", ()) and not options.checkpoint_activations:
        ways.append("train.checkpoint_activations: true (the same steps, about a third slower)")
    if options.precision == "float32":
        ways.append("train.precision: bfloat16")
    return f"Set {', or '.join([*ways, 'a smaller datasets.train.gt_size'])}."
