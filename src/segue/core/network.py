"""Define the base class of models that are trained by gradient descent.

All of them share one training loop.

Shapes: M positions with a target, D width, I items, N queries.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from segue.core.model import Model, StateArrays
from segue.core.model_arrays import check_finite
from segue.core.seen_items import SeenItems
from segue.core.types import DataSchema

__all__ = ["Loss", "Network"]

Loss = Callable[[Tensor, Tensor, Tensor | None, Tensor, SeenItems | None], Tensor]
"""``loss(hidden_MD, vectors_ID, bias_I, targets_M, seen)`` returns a scalar: the loss of the scores
``hidden @ vectors.T + bias`` for the targets; ``seen`` items are excluded."""


IN_PLACE, RANDOM = frozenset({"normal_", "pow_", "trunc_normal_", "uniform_"}), frozenset({"rand", "randn"})
"""Functions for initial values: those that change a tensor in place, and those that create one."""


class Network(nn.Module, Model):
    """A torch module with an objective per batch; :mod:`segue.training` trains it."""

    builtin_loss: ClassVar[str | None] = None
    """Name of the model's own loss; ``None``: the objective uses the loss from the training settings."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__()
        self.config = config
        self.schema = schema

    @classmethod
    def schema_for(cls, config: Any, data: Any) -> DataSchema:
        """Return the schema of ``data`` that a network with these settings is built from.

        Args:
            data: a dataset; or examples, if the network reads examples.
        """
        schema: DataSchema = data.schema
        return schema

    @classmethod
    def exceeds_memory(cls, config: Any, schema: DataSchema, max_bytes: int) -> bool:
        """Return whether the parameters of a new network need more than ``max_bytes``.

        The network is built without memory until the limit is reached, so that any number of layers ends soon. A
        network that cannot be built in this way gives false.
        """
        thread, total = threading.get_ident(), 0

        def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
            nonlocal total
            if threading.get_ident() == thread and parameter is not None:
                total += parameter.numel() * parameter.element_size()
                if total > max_bytes:
                    raise RuntimeError("the network needs too much memory")

        hook = register_module_parameter_registration_hook(count)
        try:
            with torch.device("meta"), _WithoutValues():
                cls(config, schema)
        except (RuntimeError, ValueError):  # also a part of another library that reads its own numbers
            pass
        finally:
            hook.remove()
        return total > max_bytes

    def prepare(self, train: Any) -> None:
        """Set buffers that depend on the training data, such as item features.

        Called once on a new network, before a checkpoint is restored. What it sets must be part of :meth:`arrays`.
        """

    def learning_rate_factors(self) -> Mapping[str, float]:
        """Return factors on the learning rate by parameter name; all others have 1.

        A parameter that requires no gradient is not trained.
        """
        return {}

    @abstractmethod
    def batches(self, train: Any, size: int, rng: np.random.Generator) -> tuple[int, Iterator[Any]]:
        """Return the number of batches of one epoch, and the batches.

        Batches have about ``size`` users and come in random order.
        """

    @abstractmethod
    def objective(self, batch: Any, loss: Loss) -> tuple[Tensor, int]:
        """Return the loss of a batch and the number of targets.

        The loss is averaged over the targets.
        """

    def finalize(self) -> None:
        """Compute derived state from the parameters, such as graph-propagated embeddings.

        Called before each validation and after training. What it sets must be part of :meth:`arrays`.
        """

    def arrays(self) -> StateArrays:
        """Return parameters and buffers by their path."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.state_dict().items()}

    def restore(self, arrays: StateArrays) -> None:
        """Load parameters and buffers; names, shapes and types must match this network.

        Buffers that have infinite numbers or NaN before, such as those of missing features, may have them after.

        Raises:
            ValueError: they do not match, or have numbers that are not finite.
        """
        for name, tensor in self.state_dict().items():
            if name not in arrays:
                continue
            expected = torch.empty(0, dtype=tensor.dtype).numpy().dtype
            if arrays[name].dtype != expected:
                raise ValueError(f"array '{name}' in the saved model: got {arrays[name].dtype}, expected {expected}")
            if bool(torch.isfinite(tensor).all()):
                check_finite(name, arrays[name])
        try:
            self.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
        except RuntimeError as error:
            raise ValueError(f"{type(self).__name__}: the arrays do not match this network: {error}") from None
        self.eval()

    @property
    def device(self) -> str:
        """Device of the parameters."""
        return str(cast(Tensor, next(self.parameters())).device)


class _WithoutValues(TorchFunctionMode):
    """Skip the computation of initial values.

    A tensor on the device ``meta`` has none, and torch would import its compiler for these functions, which takes a
    second. It would also do so for arithmetic that is not in place.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in IN_PLACE:
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if name in RANDOM else func)(*args, **(kwargs or {}))
