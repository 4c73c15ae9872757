"""Transposed 1-D convolution on the CPU and on CUDA GPUs."""

from tconv._native import CPU, Error, Plan, version

__all__ = ["CPU", "Error", "Plan", "version"]
