"""Convolutions over sequences, such as words of a text or items of a history.

Kim 2014, arXiv:1408.5882. Filters of several widths read neighboring elements of a sequence, and the maximum of each
filter over all positions is an input of the tower, next to the embeddings of the other fields:

    c_s = relu(max_t (W_s [v_t, ..., v_{t + s - 1}] + b_s))
    logit(x) = tower([v_1, ..., v_F, dropout(c_2), dropout(c_3), ...])

A sequence that is shorter than a filter is followed by zeros.

Shapes: B examples, F fields, D width of an embedding, L length of the longest sequence, C filters of a width, P
positions of a filter.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Len, Lt
from torch import Tensor, nn

from segue.core.examples.fields import Field, fields_of_kind
from segue.core.types import DataSchema
from segue.nn.ctr.click_network import ClickNetwork, TowerSettings
from segue.nn.ctr.field_embeddings import ExampleBatch
from segue.nn.ctr.layers import TowerDropout

__all__ = ["TextCNN"]


class TextCNN(ClickNetwork):
    """Convolutions and a tower."""

    class Config(TowerSettings):
        """Settings of ``text_cnn``."""

        filter_widths: Annotated[tuple[Annotated[int, Gt(0)], ...], Len(1)] = (2, 3, 4)
        """Numbers of neighboring elements that filters read."""
        num_filters: Annotated[int, Gt(0)] = 32
        """Number of filters of each width."""
        filter_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
        """Dropout of the maxima of the filters."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.sequences = fields_of_kind(self.fields, "sequence")
        others = [one for one in self.fields if one not in self.sequences]
        self.embed = self.embeddings(fields=others, unpooled=self.sequences)
        dim, count = config.embedding_dim, config.num_filters
        self.filters = nn.ModuleList(
            nn.ModuleList(nn.Conv1d(dim, count, width) for width in config.filter_widths) for _ in self.sequences
        )
        self.filter_dropout = TowerDropout(config.filter_dropout)
        self.deep = self.tower(len(others) * dim + len(self.sequences) * len(config.filter_widths) * count)
        if not self.sequences:
            self.training_notes = ("text_cnn: no field is a sequence, so the model has no convolutions",)

    def logits(self, batch: ExampleBatch) -> Tensor:
        """Return the logit of each example, ``(B,)``."""
        parts = [self.embed(batch).flatten(1)] if self.embed.fields else []
        for one, filters in zip(self.sequences, self.filters, strict=True):
            parts.append(self.filter_dropout(self.maxima(batch, one, filters)))
        logits_B: Tensor = self.deep(torch.cat(parts, 1))[:, 0]
        return logits_B

    def maxima(self, batch: ExampleBatch, sequence: Field, filters: Any) -> Tensor:
        """Return the maximum of each filter over a sequence, ``(B, C)``.

        That of an empty one is 0.
        """
        lengths_B1 = batch.lists[sequence.name][1].diff()[:, None]
        longest = max(int(lengths_B1.max()), *self.config.filter_widths)
        is_element_BL = torch.arange(longest, device=lengths_B1.device) < lengths_B1
        elements = self.embed.rows_of_list(batch, sequence)
        x_BLD = elements.new_zeros(*is_element_BL.shape, elements.shape[1])
        x_BDL = x_BLD.masked_scatter(is_element_BL[:, :, None], elements).transpose(1, 2)
        found = []
        for layer in filters:
            y_BCP = layer(x_BDL)
            last_B1 = (lengths_B1 - layer.kernel_size[0]).clamp(min=0)
            is_inside_BP = torch.arange(y_BCP.shape[2], device=y_BCP.device) <= last_B1
            found.append(y_BCP.masked_fill(~is_inside_BP[:, None], -torch.inf).amax(2).relu())
        return torch.cat(found, 1) * (lengths_B1 > 0)
