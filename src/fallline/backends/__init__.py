"""The backends that run an update over tensors, and the choice between them."""

from collections.abc import Mapping
from typing import Any

import torch

from fallline.backends.bucket import Bucket
from fallline.rule import Update

BACKENDS = ("auto", "fused", "reference")


def bucket_for(
    backend: str, update: Update, param: torch.Tensor, grad: torch.Tensor, state: Mapping[str, Any]
) -> tuple[Any, type[Bucket]]:
    """Return the key and the class of the bucket that this parameter belongs into.

    Backends are imported when first needed: Numba takes a quarter of a second.
    """
    if backend != "reference" and param.device.type == "cpu":
        from fallline.backends.fused import FusedBucket, can_serve

        if can_serve(param, grad, state):
            dtypes = tuple(state[key].dtype for key in update.state)
            return (update, param.dtype, dtypes, param.is_contiguous()), FusedBucket
    from fallline.backends.reference import ReferenceBucket

    return (update, "reference"), ReferenceBucket
