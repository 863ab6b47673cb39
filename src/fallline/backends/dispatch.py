"""The choice of the backend that updates a tensor: fused, foreach, compiled, sharded or reference."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from fallline.backends.bucket import Bucket
from fallline.dtensor import is_sharded
from fallline.rules.update import Update


def bucket_for(
    backend: str, update: Update, param: torch.Tensor, grad: torch.Tensor, state: Mapping[str, Any]
) -> tuple[Any, Callable[[Update], Bucket]]:
    """Return the key and the constructor of the bucket for this parameter.

    If the backend does not support the parameter, the reference backend is used. Backends are imported when they are
    first needed, because importing Numba takes a quarter of a second, and `torch.compile` more.
    """
    if is_sharded(param) and update.rule.whole:  # its operations run on DTensors
        from fallline.backends.reference import ReferenceBucket

        return (update, "reference"), ReferenceBucket
    if is_sharded(param):
        from fallline.backends import sharded

        return sharded.key_of(backend, update, param, grad), partial(
            sharded.ShardedBucket, backend=backend, bucket_for=bucket_for
        )
    if backend == "auto":
        backend = "fused" if param.device.type == "cpu" else "foreach"
    used = [state[key] for key in update.stored]  # a state can hold entries of wrappers and of options that are off
    dtypes = (param.device, param.dtype, *(tensor.dtype for tensor in used))
    if update.rule.whole and backend != "reference":  # kernels and compiled passes see single elements
        if backend == "fused":
            from fallline.backends.fused import whole

            if whole.can_serve(param, grad, used):
                return (update, "whole", dtypes), whole.WholeBucket
        backend = "foreach"
    if backend == "fused":
        from fallline.backends.fused import bucket as fused

        if fused.can_serve(param, grad, used):
            return (update, backend, dtypes, param.is_contiguous()), fused.FusedBucket
    elif backend == "foreach":
        from fallline.backends import foreach

        if foreach.can_serve(param):
            return (update, backend, dtypes), foreach.ForeachBucket
    elif backend == "compile":
        from fallline.backends import compile as compiled

        if compiled.can_serve(param, grad, used):
            return (update, backend, dtypes), compiled.CompiledBucket
    from fallline.backends.reference import ReferenceBucket

    return (update, "reference"), ReferenceBucket
