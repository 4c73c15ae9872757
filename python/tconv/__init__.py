"""Transposed 1-D convolution on the CPU and on CUDA GPUs. tconv.torch is the drop-in for PyTorch."""

from tconv._native import CPU, Error, Plan, version
from tconv._numpy import conv_transpose1d

__all__ = ["CPU", "Error", "Plan", "conv_transpose1d", "version"]
