"""Where half precision would cost accuracy: functions that always compute in full."""

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
    """``function`` outside autocast, its tensors of half precision as float32; the first argument tells the device.

    For sums of exponentials and running sums, where eight bits of mantissa are too few. Gradients come back in the
    precision of what was given.
    """

    @wraps(function)
    def full(*args: P.args, **kwargs: P.kwargs) -> R:
        given: Any = tuple(x.float() if isinstance(x, Tensor) and x.dtype in HALF else x for x in args)
        device = given[0].device.type
        if not torch.is_autocast_enabled(device):
            return function(*given, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*given, **kwargs)

    return full
