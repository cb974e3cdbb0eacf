"""Compute selected functions in float32 where half precision would lose accuracy."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["full_precision"]

P = ParamSpec("P")
R = TypeVar("R")

HALF = (torch.bfloat16, torch.float16)


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run ``function`` outside autocast, in float32.

    Half-precision tensors are converted to float32. Use it for sums of exponentials and running sums, where an 8-bit
    mantissa is too short. The device is that of the first argument. Gradients have the precision of the inputs.
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        converted: Any = tuple(x.float() if isinstance(x, Tensor) and x.dtype in HALF else x for x in args)
        device = converted[0].device.type
        if not torch.is_autocast_enabled(device):
            return function(*converted, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*converted, **kwargs)

    return wrapped
