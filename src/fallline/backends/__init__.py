"""The backends that run an update over tensors."""

from fallline.backends.dispatch import bucket_for
from fallline.backends.fused import openmp  # noqa: F401 -- before a fork: it records the process that has the threads

BACKENDS = ("auto", "fused", "foreach", "compile", "reference")

__all__ = ["BACKENDS", "bucket_for"]
