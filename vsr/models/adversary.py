"""Adversarial training: a discriminator beside the network that restores, with its own optimiser and schedule."""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vsr.config import Options
from vsr.losses.gan import gradient_penalty_loss, r1_penalty
from vsr.models.gradients import Gradients
from vsr.models.weights import build_network, fill, read_weights
from vsr.optim import build_optimizer, build_schedule
from vsr.utils import dist


class Adversary:
    """network_d, which learns to tell restored images from real ones, and the loss that this gives network_g.

    In each step network_g learns first, against the discriminator as it stands, then the discriminator, from the
    same restored images. Clips are judged frame by frame.

    Sources: Goodfellow et al., NeurIPS 2014; Ledig et al., SRGAN, CVPR 2017; the relativistic average form:
    Jolicoeur-Martineau, ICLR 2019, in ESRGAN (Wang et al., ECCVW 2018); R1: Mescheder et al., ICML 2018; the
    gradient penalty: Gulrajani et al., NeurIPS 2017.

    Args:
        options: A checked option file with network_d and train.optim_d.
        name: Of the adversarial loss in train.losses.
        criterion: That loss.
        device: Where to work. For several processes the process group must exist already.
    """

    def __init__(self, options: Options, name: str, criterion: nn.Module, device: torch.device) -> None:
        train = options.train
        assert train is not None
        assert options.network_d is not None, "the rules of the options ask for both"
        assert train.optim_d is not None, "the rules of the options ask for both"
        self.options, self.name, self.criterion = train, name, criterion
        self.network = build_network(options.network_d.as_option()).to(device)
        if getattr(self.network, "kind", "discriminator") != "discriminator":
            raise ValueError(
                f"network_d.type: expected a discriminator, got {options.network_d.type} ({self.network.kind}). "
                "Use VGGStyleDiscriminator or UNetDiscriminatorSN."
            )
        self.path = options.path
        self.optimizer = build_optimizer(train.optim_d.as_option(), self.network.named_parameters(), lr_mul={})
        self.schedule = build_schedule(
            train.scheduler.as_option() if train.scheduler else None,
            base_lr=train.optim_d.args["lr"],
            warmup_iter=train.warmup_iter,
        )
        self.gradients = Gradients(train.precision, train.clip_grad, device)
        if train.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parallel: nn.Module = self.network
        if dist.world_size() > 1:
            self.parallel = DistributedDataParallel(
                self.network, device_ids=[device.index] if device.type == "cuda" else None
            )

    def load_pretrained(self) -> None:
        """Start from path.pretrain_network_d, if it names a checkpoint; a run that continues has weights of its own."""
        source = self.path.pretrain_network_d
        if source:
            weights = read_weights(source, self.path.param_key_d)
            fill(self.network, weights, source=source, strict=self.path.strict_load_d)

    def check_sample(self, gt: Tensor, where: str) -> None:
        """Raise ValueError if the discriminator does not take a ground truth like this one, not yet batched."""
        self.network.eval()  # nothing is learnt from it
        images = _images(gt[None].to(next(self.network.parameters()).device).float() / 255)
        try:
            with torch.no_grad():
                self.network(images)
        except ValueError as error:
            raise ValueError(f"network_d: expected a discriminator for the GT of {where}: {error}") from error

    def teaches(self, step: int) -> bool:
        """Whether network_g learns in step ``step``; in the others the discriminator does alone."""
        return step > self.options.net_d_init_iters and step % self.options.net_d_iters == 0

    def set_rate(self, step: int, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(step) * factor

    def start_step(self) -> None:
        self.network.train()
        self.optimizer.zero_grad()

    def loss(self, restored: Tensor, real: Tensor) -> Tensor:
        """Return the weighted loss of network_g, scalar: how well the discriminator tells its images from real ones."""
        restored, real = _images(restored), _images(real)
        self.network.requires_grad_(False)  # its own gradient is of another loss
        try:
            with self.gradients.autocast():
                if self.options.relativistic:  # first, as ESRGAN's code does: each call improves the spectral norms
                    with torch.no_grad():
                        truth = self.network(real)
                fake = self.network(restored)
            fake = fake.float()
            if not self.options.relativistic:
                return self._judged(fake, is_real=True, is_disc=False)
            truth = truth.float()
            real_loss = self._judged(truth - fake.mean(), is_real=False, is_disc=False)
            return (real_loss + self._judged(fake - truth.mean(), is_real=True, is_disc=False)) / 2
        finally:
            self.network.requires_grad_(True)

    def learn(self, restored: Tensor, real: Tensor, step: int, *, share: float, last: bool) -> dict[str, Tensor]:
        """Add the gradient of the discriminator's losses on one micro-batch.

        Args:
            restored, real: Images or clips of one shape.
            step: From 1.
            share: Factor on the gradient: 1 / number of micro-batches.
            last: It is the step's last micro-batch: processes exchange gradients.

        Returns:
            Detached scalars: d_real and d_fake, the two losses, and the mean outputs out_d_real and out_d_fake;
            r1 and gp, the penalties without their weights, in the steps that have them.
        """
        restored, real = _images(restored).detach(), _images(real)
        due = {"r1": self.options.r1_reg_weight > 0 and step % self.options.net_d_reg_every == 0}
        due["gp"] = self.options.gp_weight > 0
        penalties = [name for name, now in due.items() if now]
        terms: dict[str, Tensor] = {}
        other: Tensor | float = 0.0  # the mean output of the other kind, which the relativistic form compares with
        if self.options.relativistic:
            with torch.no_grad(), self.gradients.autocast():
                other = self.network(restored).float().mean()
        for is_real, images in ((True, real), (False, restored)):
            alone = not (last and not is_real and not penalties)
            with self._no_sync() if alone else contextlib.nullcontext():
                with self.gradients.autocast():
                    output = self.parallel(images)
                output = output.float()
                loss = self._judged(output - other, is_real=is_real, is_disc=True)
                if self.options.relativistic:
                    loss, other = loss / 2, output.detach().mean()
                self.gradients.scaled(loss * share).backward()
            terms["d_real" if is_real else "d_fake"] = loss.detach()
            terms["out_d_real" if is_real else "out_d_fake"] = output.detach().mean()
        for name in penalties:
            with contextlib.nullcontext() if last and name == penalties[-1] else self._no_sync():
                terms[name] = self._penalise(name, real, restored, share)
        return terms

    def _penalise(self, name: str, real: Tensor, restored: Tensor, share: float) -> Tensor:
        """Add the gradient of R1, made up for the steps that leave it out, or of WGAN-GP's; return the penalty."""
        outputs: list[Tensor] = []

        def judge(images: Tensor) -> Tensor:  # in float32: a gradient of a gradient has no room in half precision
            outputs.append(self.parallel(images))
            return outputs[-1]

        if name == "r1":
            images = real.clone().requires_grad_(True)
            penalty, factor = r1_penalty(judge(images), images), self.options.r1_reg_weight / 2
            factor *= self.options.net_d_reg_every
        else:
            penalty, factor = gradient_penalty_loss(judge, real, restored), self.options.gp_weight
        # BasicSR's zero times the output: every parameter, the last bias too, takes part in the backward pass.
        self.gradients.scaled((factor * penalty + 0 * outputs[0].sum()) * share).backward()
        return penalty.detach()

    def finish(self) -> Tensor:
        """Complete the gradient; return its norm, which is not finite if a number in it is not."""
        return self.gradients.finish([p.grad for p in self.network.parameters() if p.grad is not None])

    def update(self, skipped: Tensor) -> None:
        """Apply the gradient, unless ``skipped`` (on the device) is 1."""
        self.optimizer.found_inf = skipped  # type: ignore[attr-defined]  # the fused optimisers' own protocol
        self.optimizer.step()

    def _judged(self, output: Tensor, *, is_real: bool, is_disc: bool) -> Tensor:
        loss: Tensor = self.criterion(output, is_real, is_disc=is_disc)
        return loss

    def _no_sync(self) -> contextlib.AbstractContextManager[None]:
        parallel = self.parallel
        return parallel.no_sync() if isinstance(parallel, DistributedDataParallel) else contextlib.nullcontext()

    def weights(self) -> dict[str, Tensor]:
        """Return the discriminator's tensors, for a checkpoint."""
        return {name: value.cpu() for name, value in self.network.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "gradients": self.gradients.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], source: str) -> None:
        fill(self.network, state["network"], source=source)
        own = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(dict(state["optimizer"]))
        for group, settings in zip(self.optimizer.param_groups, own, strict=True):
            group.update(settings)  # the option file's, not the state's
        self.gradients.load_state_dict(state["gradients"])


def _images(batch: Tensor) -> Tensor:
    """Return the frames of clips (b, t, c, h, w) as images (b * t, c, h, w)."""
    return batch.flatten(0, 1) if batch.dim() == 5 else batch


def take_adversary(options: Options, criteria: dict[str, nn.Module], device: torch.device) -> Adversary | None:
    """Take the adversarial loss out of ``criteria`` and build what it needs; None: there is none.

    Raises:
        ValueError: there are several, or one of loss and network_d without the other.
    """
    names = [name for name, criterion in criteria.items() if getattr(criterion, "adversarial", False)]
    if len(names) > 1:
        raise ValueError(f"train.losses: expected one adversarial loss, got {', '.join(names)}. Choose one.")
    if names and options.network_d is None:
        raise ValueError(f"network_d: expected a discriminator for train.losses.{names[0]}, got none. Add it.")
    if not names and options.network_d is not None:
        raise ValueError(
            "train.losses: expected an adversarial loss for network_d, got none. Add gan: {type: GANLoss, ...}."
        )
    return Adversary(options, names[0], criteria.pop(names[0]), device) if names else None
