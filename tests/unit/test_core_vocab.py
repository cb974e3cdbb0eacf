"""Ids as text, integers and floats identify the same users and items, and decode to their original type."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from segue.core.messages import arg, name_arguments
from segue.core.vocab import Vocab, id_type_of


def test_integers_and_text_name_the_same_id() -> None:
    vocab = Vocab(["7", "007", "x"])
    codes, known = vocab.encode([7, "7", np.int32(7), 7.0, "007", "x", "8", 8])
    assert codes[:6].tolist() == [0, 0, 0, 0, 1, 2]
    assert known.tolist() == [True] * 6 + [False] * 2


@pytest.mark.parametrize("dtype", [pl.Int8, pl.Int32, pl.Int64, pl.UInt16, pl.UInt64, pl.String])
def test_ids_are_decoded_to_their_type(dtype: type[pl.DataType]) -> None:
    ids = pl.Series("id", ["3", "20", "100"]).cast(dtype)
    vocab = Vocab(ids.cast(pl.String), id_type=id_type_of(ids.dtype))
    actual = vocab.decode_typed(np.array([2, 0]))
    assert actual.dtype == ids.dtype
    assert actual.cast(pl.String).to_list() == vocab.decode(np.array([2, 0])) == ["100", "3"]


def test_large_unsigned_ids_are_exact() -> None:
    vocab = Vocab([str(2**64 - 1)], id_type="uint64")
    assert vocab.decode_typed(np.array([0])).to_list() == [2**64 - 1]
    assert vocab.encode([2**64 - 1])[1].tolist() == [True]


def test_invalid_vocabularies_are_rejected() -> None:
    with pytest.raises(ValueError, match="id_type: got 'float64', expected string, int8"):
        Vocab(["a"], id_type="float64")
    with pytest.raises(ValueError, match="size: missing"):
        Vocab(lambda: pl.Series(["a"]))


def test_errors_name_arguments_as_written_by_the_caller() -> None:
    assert (arg("users"), arg("measure", "cosine")) == ("users=", "measure='cosine'")
    with name_arguments(lambda name: f"--{name}"):
        assert (arg("users"), arg("measure", "cosine")) == ("--users", "--measure cosine")
    assert arg("users") == "users="
