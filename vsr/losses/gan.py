"""Losses of adversarial training: of a discriminator's outputs, of its gradient, and where details are artifacts.

They do not compare two images, so the model class gives them to its adversary and does not call them
with (restored, target): it knows the classes by their attribute ``adversarial``.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.losses.base import at_least_float32, checked_pair, checked_weight
from vsr.registry import LOSSES

GanType = Literal["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"]
_GAN_TYPES = ("vanilla", "lsgan", "wgan", "wgan_softplus", "hinge")


@LOSSES.register
class GANLoss(nn.Module):
    """How far a discriminator's outputs are from those for real (or for fake) images.

    ======================  ==========================================================================
    vanilla                 cross entropy of the outputs, which are logits, with the label
    lsgan                   mean squared distance from the label
    wgan                    minus the mean of the outputs for real, plus the mean for fake
    wgan_softplus           mean of softplus(-output) for real, softplus(output) for fake; StyleGAN2's
    hinge                   mean of max(0, 1 - output) for real, max(0, 1 + output) for fake; the
                            generator gets minus the mean of the outputs
    ======================  ==========================================================================

    Sources: Goodfellow et al., NeurIPS 2014; Mao et al., ICCV 2017 (lsgan); Arjovsky et al., ICML 2017
    (wgan); Lim and Ye, 2017 (hinge).

    Args:
        gan_type: vanilla is cross entropy, lsgan the squared distance from the label, wgan_softplus StyleGAN2's.
        real_label_val, fake_label_val: The labels of vanilla and lsgan; the others have none.
        loss_weight: Factor on the generator's loss; the discriminator's has none.
    """

    adversarial = True

    def __init__(
        self,
        *,
        gan_type: GanType,
        real_label_val: float = 1.0,
        fake_label_val: float = 0.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if gan_type not in _GAN_TYPES:
            raise ValueError(f"gan_type: expected one of {', '.join(_GAN_TYPES)}, got {gan_type!r}")
        for name, value in (("real_label_val", real_label_val), ("fake_label_val", fake_label_val)):
            checked_weight(value, name)
            if gan_type == "vanilla" and not 0 <= value <= 1:  # cross entropy would have no minimum
                raise ValueError(f"{name}: expected a probability, 0 to 1, for gan_type vanilla, got {value}")
        self.gan_type, self.loss_weight = gan_type, checked_weight(loss_weight)
        self.real_label_val, self.fake_label_val = real_label_val, fake_label_val

    def forward(
        self,
        input: Tensor,
        target_is_real: bool,
        is_disc: bool = False,
    ) -> Tensor:
        """Return the scalar loss.

        Args:
            input: The discriminator's outputs, of any shape.
            target_is_real: What the outputs shall say. A generator wants real.
            is_disc: It is the discriminator that learns, not the generator.
        """
        loss = self._loss(at_least_float32(input), target_is_real, is_disc)
        return loss if is_disc else self.loss_weight * loss

    def _loss(self, output: Tensor, target_is_real: bool, is_disc: bool) -> Tensor:
        label = self.real_label_val if target_is_real else self.fake_label_val
        sign = -1 if target_is_real else 1
        match self.gan_type:
            case "vanilla":
                return F.binary_cross_entropy_with_logits(output, torch.full_like(output, label))
            case "lsgan":
                return (output - label).square().mean()
            case "wgan":
                return sign * output.mean()
            case "wgan_softplus":
                return F.softplus(sign * output).mean()
            case _:  # hinge
                return (1 + sign * output).relu().mean() if is_disc else -output.mean()


@LOSSES.register
class MultiScaleGANLoss(GANLoss):
    """GANLoss of a discriminator with several outputs: the mean of their losses.

    Source: Wang et al., pix2pixHD, CVPR 2018.

    Args:
        gan_type: vanilla is cross entropy, lsgan the squared distance from the label, wgan_softplus StyleGAN2's.
        real_label_val, fake_label_val: The labels of vanilla and lsgan; the others have none.
        loss_weight: Factor on the generator's loss; the discriminator's has none.
    """

    def forward(
        self,
        input: Tensor | Sequence[Tensor | Sequence[Tensor]],
        target_is_real: bool,
        is_disc: bool = False,
    ) -> Tensor:
        """Return the scalar loss.

        Args:
            input: One output, or a list of them. An entry that is itself a list holds the features of a
                discriminator's layers, of which the last is its output.
            target_is_real, is_disc: As for GANLoss.

        Raises:
            ValueError: a list is empty.
        """
        if isinstance(input, Tensor):
            return super().forward(input, target_is_real, is_disc)
        if not input or any(not isinstance(entry, Tensor) and not entry for entry in input):
            raise ValueError("input: expected the outputs of a discriminator, got an empty list")
        outputs = [entry if isinstance(entry, Tensor) else entry[-1] for entry in input]
        losses = [super(MultiScaleGANLoss, self).forward(output, target_is_real, is_disc) for output in outputs]
        return torch.stack(losses).mean()


def r1_penalty(real_pred: Tensor, real_img: Tensor) -> Tensor:
    """Return the mean over images of the squared norm of a discriminator's gradient at real images.

    Source: Mescheder et al., ICML 2018, equation 9 without its factor gamma / 2.

    Args:
        real_pred: The discriminator's outputs for ``real_img``.
        real_img: Images (b, ...) that required a gradient when the outputs were made.
    """
    if not real_img.requires_grad:
        raise ValueError("real_img: expected images with requires_grad, got images without. Set it before the call.")
    (gradient,) = torch.autograd.grad(real_pred.sum(), real_img, create_graph=True)
    return at_least_float32(gradient).square().flatten(1).sum(1).mean()


def gradient_penalty_loss(
    discriminator: Callable[[Tensor], Tensor], real_data: Tensor, fake_data: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Return how far the norm of a discriminator's gradient is from 1 between real and fake images: WGAN-GP.

    Each pair is mixed in a share drawn from torch's generator. As in BasicSR and mmagic the norm is that
    of a pixel's gradient, over its channels; the paper's is that of the whole image's.
    Source: Gulrajani et al., NeurIPS 2017.

    Args:
        discriminator: A network, or a function of images.
        real_data, fake_data: Images of one shape, (b, c, h, w).
        weight: Factor of each value of the gradient, say the mask of what was made up, of a shape that
            expands to the images'; the result is divided by its mean.
    """
    real, fake = checked_pair(real_data, fake_data)
    share = torch.rand((len(real), *[1] * (real.dim() - 1)), dtype=real.dtype, device=real.device)
    mixed = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(mixed).sum(), mixed, create_graph=True)
    if weight is not None:
        gradient = gradient * weight
    penalty = (gradient.norm(dim=-3) - 1).square().mean()
    return penalty if weight is None else penalty / weight.mean()


def get_refined_artifact_map(img_gt: Tensor, img_output: Tensor, img_ema: Tensor, ksize: int = 7) -> Tensor:
    """Return where the details of ``img_output`` are likely to be artifacts: the weight of LDL's loss.

    It is the variance of the error around each pixel, times that of the image's to the power of 1/5, and 0
    where the output is nearer to the truth than that of the averaged network. Gradients pass through it.
    Source: Liang et al., Details or Artifacts, CVPR 2022.

    Args:
        img_gt, img_output, img_ema: Truth, output, and the averaged network's output: images of one shape,
            (..., c, h, w), in [0, 1].
        ksize: Side of the window around a pixel, odd.

    Returns:
        (..., 1, h, w), to multiply both images with before they are compared.
    """
    if ksize < 3 or ksize % 2 == 0:
        raise ValueError(f"ksize: expected an odd number, 3 or more, got {ksize}")
    gt, output = checked_pair(img_gt, img_output)
    _, average = checked_pair(img_gt, img_ema)
    if min(gt.shape[-2:]) <= ksize // 2:
        raise ValueError(f"img_gt: expected sides over {ksize // 2} for ksize {ksize}, got {tuple(gt.shape)}")
    error = (gt - output).abs().sum(-3, keepdim=True)
    error_of_average = (gt - average).abs().sum(-3, keepdim=True)
    variance = error.var(dim=(-3, -2, -1), keepdim=True)
    tiny = torch.finfo(error.dtype).tiny  # the slope of the root at 0, an infinity times 0, would not be a number
    radius = ksize // 2
    padded = F.pad(error.flatten(0, -4) if error.dim() > 3 else error[None], [radius] * 4, mode="reflect")
    windows = padded.unfold(-2, ksize, 1).unfold(-2, ksize, 1)
    local = windows.var(dim=(-2, -1)).view(error.shape)
    weights = (variance + tiny) ** (1 / 5) * local
    return weights.masked_fill(error < error_of_average, 0)
