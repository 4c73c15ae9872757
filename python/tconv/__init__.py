"""Transposed 1-D convolution on a CUDA GPU."""

from tconv._native import Error, Plan, version

__all__ = ["Error", "Plan", "version"]
