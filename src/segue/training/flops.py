"""Count the floating-point operations of one training step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from segue.core.network import Network
from segue.core.run import ResourceMonitor, Run
from segue.training.configured_loss import build_loss
from segue.training.settings import Training

__all__ = ["FlopCount", "count_flops"]


class FlopCount(TorchDispatchMode):
    """Count the operations of matrix products, convolutions and attention.

    The formulas are those of :class:`torch.utils.flop_counter.FlopCounterMode`, two operations per multiply-add. That
    class itself would import torch's compiler, which takes two seconds, and lacks attention on the processor.
    """

    is_complete = True
    """Whether every operation that matters has a formula: recurrent layers of cuDNN and sparse products have none."""

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry

        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self._formulas: dict[Any, Callable[..., int]] = {**flop_registry, **_processor_attention()}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do not import the compiler."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = self._formulas.get(func._overloadpacket)
        is_sparse = any(isinstance(value, torch.Tensor) and value.layout is not torch.strided for value in args)
        if is_sparse or "_rnn" in func._overloadpacket.__name__:
            self.is_complete = False
        elif formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _processor_attention() -> dict[Any, Callable[..., int]]:
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    def forward(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
        return int(sdpa_flop_count(query.shape, key.shape, value.shape))

    def backward(gradient: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
        return int(sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape))

    operations = torch.ops.aten
    return {
        operations._scaled_dot_product_flash_attention_for_cpu: forward,
        operations._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }


def count_flops(model: Network, training: Training, data: Any, run: Run, monitor: ResourceMonitor) -> None:
    """Count and record the operations of one batch, forward and backward.

    The batch is passed through a copy of the model, so training is not affected. Element-wise operations and the
    optimizer do not count. A model that cannot be copied, or has sparse products or recurrent layers of cuDNN, has no
    such figure.
    """
    with torch.random.fork_rng():
        try:
            trial = copy.deepcopy(model).train()
            batch = next(trial.batches(data, training.batch_size, run.rng("flops"))[1])
            with FlopCount() as count:
                loss, n_targets = trial.objective(batch, build_loss(training, data, run.device))
                loss.backward()
        except (AttributeError, NotImplementedError, RuntimeError, StopIteration, TypeError, ValueError):
            return  # training itself reports what is wrong
    if count.is_complete and count.total and n_targets:
        monitor.record_flops(float(count.total * training.gradient_accumulation), count.total / n_targets)
