"""Sources with text of their items: small archives in the official layouts, and the real ones if available."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from segue.data import Filters, list_sources, load
from segue.data.archives import find_archive
from segue.data.sources import frappe, ml_1m_text

real = pytest.mark.skipif(not os.environ.get("SEGUE_ARCHIVES"), reason="SEGUE_ARCHIVES names no folder of archives")

ML_1M = {
    "ml-1m/ratings.dat": "1::2::5::978300760\n1::7::3::978300761\n2::9::4::978300762\n",
    "ml-1m/movies.dat": "2::Jumanji (1995)::Adventure\n7::Sabrina (1995)::Comedy\n9::Sudden Death (1995)::Action\n",
    "ml-1m/users.dat": "1::F::1::10::48067-1234\n2::M::25::1::12345\n",
}
TEXT = {
    "ml-1m-text/movies_extrainfos.dat": (
        "2::Jumanji::1995::PG::15 Dec 1995::Adventure, Family::Joe Johnston, Ann Ray(co-director)::Jonathan Hensleigh "
        '(screenplay "One, Two"), Jim Strain (screenplay), Jim Strain (story)::Robin Williams, Kirsten Dunst::"Two" '
        "children; a board game.::https://x/a.jpg\r\n"
        "7::Sabrina::1995::N/A::N/A::N/A::N/A::N/A::N/A::N/A::N/A\r\n"
        "11::Amélie::2001::R::01 Nov 2001::Comedy::J.-P. Jeunet::J.-P. Jeunet::A. Tautou::Rosée.::https://x/b.jpg\r\n"
    ),
    "ml-1m-text/dbpedia_abstracts.json": '{"2": "Jumanji is a film.", "9": "Sudden Death is a film.", "99": "?"}',
}
FRAPPE = {
    "frappe/frappe.csv": (
        "user\titem\tcnt\tdaytime\tweekday\tisweekend\thomework\tcost\tweather\tcountry\tcity\n"
        "0\t0\t1\tmorning\tsunday\tweekend\tunknown\tfree\tsunny\tUnited States\t0\n"
        "0\t1\t7\tnight\tmonday\tworkday\thome\tpaid\tunknown\tunknown\t369\n"
        "1\t0\t2\tnoon\tmonday\tworkday\twork\tfree\tcloudy\tSpain\t369\n"
    ),
    "frappe/meta.csv": (
        "item\tpackage\tcategory\tdownloads\tdeveloper\ticon\tlanguage\tdescription\tname\tprice\trating\tshort desc\n"
        '0\tcom.a\tTools\t1,000,000 - 5,000,000\tA & B\thttp://i/a.png\ten\t"Say ""hi"" to A"\tA\t$2.99\t4.5\t\n'
        "1" + "\tunknown" * 11 + "\n"
    ),
}


@pytest.fixture
def archives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Use an empty folder of archives instead of the real one."""
    folder = tmp_path / "archives"
    folder.mkdir()
    monkeypatch.setenv("SEGUE_ARCHIVES", str(folder))
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    return folder


def pack(path: Path, members: Mapping[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, text in members.items():
            file.writestr(name, text)


def rows(source: str) -> dict[str, dict[str, Any]]:
    features = load(source).item_features
    assert features is not None
    return {row.pop("id"): row for row in features.collect().to_dicts()}


def test_1m_with_text(archives: Path) -> None:
    pack(archives / "text.zip", TEXT)
    assert not {key: is_local for key, _, is_local in list_sources()}["ml-1m-text"]
    pack(archives / "ratings.zip", ML_1M)
    assert {key: is_local for key, _, is_local in list_sources()}["ml-1m-text"]
    films = rows("ml-1m-text")
    assert films["2"] == {
        "title": "Jumanji (1995)",
        "genres": ["Adventure"],
        "year": 1995,
        "plot": '"Two" children; a board game.',
        "directors": ["Joe Johnston", "Ann Ray"],
        "writers": ["Jonathan Hensleigh", "Jim Strain"],
        "actors": ["Robin Williams", "Kirsten Dunst"],
        "rated": "PG",
        "released": date(1995, 12, 15),
        "poster": "https://x/a.jpg",
        "abstract": "Jumanji is a film.",
    }
    assert {name for name, value in films["7"].items() if value is not None} == {"title", "genres", "year"}
    assert films["9"]["abstract"] == "Sudden Death is a film."
    assert films.keys() == {"2", "7", "9"}


def test_1m_with_text_is_prepared_again_after_either_archive_changes(archives: Path) -> None:
    pack(archives / "text.zip", TEXT)
    pack(archives / "ratings.zip", ML_1M)
    before = load("ml-1m-text")
    assert [one["name"] for one in before.header["used_archives"]] == ["ratings.zip"]
    pack(archives / "ratings.zip", {**ML_1M, "ml-1m/ratings.dat": "1::2::5::978300760\n1::9::5::978300770\n"})
    assert load("ml-1m-text").histories.size == 2
    pack(archives / "text.zip", {**TEXT, "ml-1m-text/dbpedia_abstracts.json": '{"9": "New."}'})
    assert rows("ml-1m-text")["9"]["abstract"] == "New."


@pytest.mark.parametrize("text", ["[1]", '{"2": ["a"]}', "{"])
def test_abstracts_that_are_no_texts_by_id(archives: Path, text: str) -> None:
    pack(archives / "text.zip", {**TEXT, "ml-1m-text/dbpedia_abstracts.json": text})
    pack(archives / "ratings.zip", ML_1M)
    with pytest.raises(ValueError, match=r"text\.zip:dbpedia_abstracts\.json: expected a JSON object of texts by film"):
        load("ml-1m-text")


def test_frappe_layout(archives: Path) -> None:
    pack(archives / "apps.zip", FRAPPE)
    data = load("frappe")
    assert data.histories.times is None
    assert data.histories.values is not None
    assert data.histories.values.tolist() == [1.0, 7.0, 2.0]
    assert rows("frappe")["0"] == {
        "title": "A",
        "description": 'Say "hi" to A',
        "short_description": None,
        "category": "Tools",
        "developer": "A & B",
        "language": "en",
        "downloads": 1_000_000,
        "price": 2.99,
        "rating": 4.5,
        "package": "com.a",
        "icon": "http://i/a.png",
    }
    assert set(rows("frappe")["1"].values()) == {None}
    archive = find_archive(frappe.ARCHIVE.members, "frappe")
    assert archive is not None
    log = frappe.read_log(archive).select(frappe.CONTEXT).to_dicts()
    assert log[0] == {
        "daytime": "morning",
        "weekday": "sunday",
        "isweekend": "weekend",
        "homework": None,
        "cost": "free",
        "weather": "sunny",
        "country": "United States",
        "city": None,
    }
    assert (log[1]["weather"], log[1]["country"], log[1]["city"]) == (None, None, "369")


@real
def test_frappe_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    data = load("frappe", filters=Filters(duplicates="first"))
    assert (data.n_users, data.n_items, data.histories.size) == (957, 4082, 18842)
    assert data.item_features is not None
    apps = data.item_features.collect()
    assert (apps["title"].null_count(), apps["short_description"].count()) == (550, 2597)
    assert (apps["price"] == 0).sum() == 3281


@real
def test_texts_of_1m() -> None:
    archive = find_archive(ml_1m_text.ARCHIVE.members, "ml-1m-text")
    assert archive is not None
    info, abstracts = ml_1m_text.read_info(archive), ml_1m_text._read_abstracts(archive)
    assert (len(info), info["plot"].null_count(), len(abstracts)) == (3881, 36, 3301)
    assert info.row(0, named=True)["actors"] == ["Tom Hanks", "Tim Allen", "Don Rickles", "Jim Varney"]
    assert all("(" not in name for column in ml_1m_text.CREW for name in info[column].explode().drop_nulls())
