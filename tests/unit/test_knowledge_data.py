"""Triples: reading, linking to items, storing, and the predefined split that comes with them."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import segue
from segue.core.knowledge.knowledge import Knowledge
from segue.core.vocab import Vocab
from segue.data import SplitSettings, load, open_dataset, split

real = pytest.mark.skipif(not os.environ.get("SEGUE_ARCHIVES"), reason="SEGUE_ARCHIVES names no folder of archives")
LOG = pl.DataFrame({"user_id": ["a", "a", "b"], "item_id": ["1", "2", "3"]})
TRIPLES = "head,relation,tail\n1,director,Lee\n2,director,Lee\n2,sequel,item:3\nLee,born in,Taipei\n3,year,1\n"


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))


def write(folder: Path, text: str, name: str = "triples.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def facts(knowledge: Knowledge | None) -> set[tuple[str, str, str]]:
    assert knowledge is not None
    ids = knowledge.entities.ids
    return {
        (ids[int(head)], knowledge.relations[relation], ids[int(tail)])
        for head, relation, tail in zip(knowledge.heads, knowledge.relation_codes, knowledge.tails, strict=True)
    }


EXPECTED = {
    ("item:1", "director", "Lee"),
    ("item:2", "director", "Lee"),
    ("item:2", "sequel", "item:3"),
    ("Lee", "born in", "Taipei"),
    ("item:3", "year", "1"),  # a tail is an item only with the prefix
}


@pytest.mark.parametrize("form", ["csv", "tsv", "no header", "recbole", "parquet", "table"])
def test_triples_are_read_from_every_form(tmp_path: Path, form: str) -> None:
    table = pl.read_csv(TRIPLES.encode(), infer_schema=False)
    source: object = table
    if form == "parquet":
        source = tmp_path / "triples.parquet"
        table.write_parquet(source)
    elif form != "table":
        text = TRIPLES if form == "csv" else TRIPLES.replace(",", "\t")
        text = text.partition("\n")[2] if form == "no header" else text
        if form == "recbole":
            text = text.replace("head\trelation\ttail", "head_id:token\trelation_id:token\ttail_id:token")
        source = write(tmp_path, text, f"triples.{'csv' if form == 'csv' else 'tsv'}")
    assert facts(segue.load(LOG, triples=source).knowledge) == EXPECTED


def test_the_graph_is_stored_memory_mapped_and_part_of_the_hash(tmp_path: Path) -> None:
    path = write(tmp_path, TRIPLES)
    with_triples, without = (
        load(LOG, triples=triples, out=tmp_path / name) for triples, name in ((path, "a"), (None, "b"))
    )
    opened = open_dataset(tmp_path / "a")
    assert facts(opened.knowledge) == EXPECTED
    assert opened.knowledge is not None
    base: object = opened.knowledge.heads
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)
    assert opened.header["hash"] == with_triples.header["hash"] != without.header["hash"]
    assert load(LOG, triples=path).header["hash"] == opened.header["hash"]
    other = write(tmp_path, TRIPLES.replace("Taipei", "Rome"), "other.csv")
    assert load(LOG, triples=other).header["hash"] != opened.header["hash"]
    (tmp_path / "a" / "knowledge-tails.npy").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"knowledge-tails\.npy"):
        open_dataset(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("head,relation,tail\n1,director\n", r"triples\.csv, line 2: got 2 columns in '1,director', expected 3"),
        ("head,relation,tail\n1,director,Lee\n2,,Lee\n", r"triples\.csv, line 3: the relation is empty"),
        ("head,relation,tail\n1,sequel,item:9\n", r"triples\.csv, line 2: unknown item '9'"),
        ("head,relation,tail\n8,director,Lee\n", "none of the 3 items occurs in a triple; heads are such as '8'"),
        ("", "empty file"),
        ("head,relation,tail\n", "no triples"),
    ],
)
def test_bad_triples_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(LOG, triples=write(tmp_path, text))


def test_rows_of_triples_are_counted_as_in_other_tables(tmp_path: Path) -> None:
    """The first row is row 1, in a file and in memory; the argument is named once."""
    table = pl.read_csv(TRIPLES.encode(), infer_schema=False)
    empty = table.with_columns(tail=pl.when(pl.int_range(len(table)) == 2).then(pl.lit("")).otherwise("tail"))
    unlinked = table.with_columns(head="z" + pl.col("head"), tail="z" + pl.col("tail"))
    for name, rows, message in (
        ("empty", empty, ", row 3: the tail is empty, expected an id or a name"),
        ("unlinked", unlinked, ": none of the 3 items occurs in a triple"),
        ("lacking", table.drop("tail"), ": no column 'tail'"),
    ):
        path = tmp_path / f"{name}.parquet"
        rows.write_parquet(path)
        for source, where in ((path, str(path)), (rows, "polars table")):
            with pytest.raises(ValueError, match="triples") as error:
                load(LOG, triples=source)
            assert message in str(error.value)
            assert where in str(error.value)
            assert str(error.value).count("triples: ") == 1


def test_what_is_left_out_is_reported(tmp_path: Path) -> None:
    reported: list[str] = []
    log = pl.concat([LOG, LOG.tail(1).with_columns(user_id=pl.lit("c"))])
    text = TRIPLES + "1,director,Lee\n"
    data = load(log, triples=write(tmp_path, text), log=reported.append, filters=segue.data.Filters(min_item_events=2))
    assert "triples: 4 of 6 are about items that are not in the catalog; left out" in reported
    assert facts(data.knowledge) == {("Lee", "born in", "Taipei"), ("item:3", "year", "1")}


def test_statistics_count_links_degrees_and_isolated_entities(tmp_path: Path) -> None:
    data = load(LOG, triples=write(tmp_path, TRIPLES + "Rome,in,Italy\n"))
    assert data.knowledge is not None
    found = data.knowledge.describe()
    assert (found["items_linked"], found["triples"], found["isolated_entities"]) == (3, 6, 2)
    assert found["triples_per_relation"]["director"] == 2
    assert found["triples_per_entity"]["max"] == 3


def test_items_that_share_an_entity_get_its_triples() -> None:
    both = Knowledge(Vocab(["x", "y"]), ("r",), *(np.array(part, np.int32) for part in ([0], [0], [1], [0, 0, -1])))
    graph = both.graph
    assert sorted(zip(graph.heads_T.tolist(), graph.tails_T.tolist(), strict=True)) == [(0, 3), (1, 3)]
    assert graph.entities_V.tolist() == [0, 0, -1, 1]
    with pytest.raises(ValueError, match=r"knowledge\.tails: got codes from 5 to 5, expected 0 to 1"):
        Knowledge(Vocab(["x", "y"]), ("r",), *(np.array(part, np.int32) for part in ([0], [0], [5], [0])))


@real
@pytest.mark.parametrize(
    ("source", "sizes"),
    [
        ("kg-lastfm", (1872, 3846, 15518, 60, 9366, 3846)),
        ("kg-book-crossing", (11017, 9058, 151500, 25, 77903, 9058)),
        ("ml-1m-kg", (6040, 3706, 20782, 7, 7008, 2347)),
        ("ml-100k-kg", (943, 1682, 91631, 24, 34628, 1598)),
    ],
)
def test_public_graphs_have_their_published_sizes(source: str, sizes: tuple[int, ...]) -> None:
    data = load(source)
    assert data.knowledge is not None
    graph = data.knowledge
    linked = int((graph.item_entities >= 0).sum())
    assert (data.n_users, data.n_items, len(graph), len(graph.relations), len(graph.entities), linked) == sizes


@real
def test_the_predefined_split_has_its_own_validation() -> None:
    data = load("kg-lastfm")
    parts = split(data, SplitSettings(strategy="predefined", name="lightkg"))
    assert (parts.train.histories.size, parts.valid.targets.size, parts.test.targets.size) == (17350, 1907, 1916)
    without = split(data, SplitSettings(strategy="predefined", name="lightkg", valid=0))
    assert (without.train.histories.size, without.valid.targets.size) == (17350 + 1907, 0)
