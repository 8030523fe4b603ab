"""Operations that PyTorch lacks: defined in PyTorch here, with compiled kernels where they are built."""

from vsr.ops.deform_conv import modulated_deform_conv2d

__all__ = ["modulated_deform_conv2d"]
