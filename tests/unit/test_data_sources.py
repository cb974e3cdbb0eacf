"""Archives in the official layouts: real ones if available, otherwise small generated ones."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pytest

from segue.data import Filters, SplitSettings, list_sources, load, split

real = pytest.mark.skipif(not os.environ.get("SEGUE_ARCHIVES"), reason="SEGUE_ARCHIVES names no folder of archives")


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture
def archives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Use an empty folder of archives instead of the real one."""
    folder = tmp_path / "archives"
    folder.mkdir()
    monkeypatch.setenv("SEGUE_ARCHIVES", str(folder))
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    return folder


def pack(path: Path, members: Mapping[str, str | bytes]) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, text in members.items():
            file.writestr(name, text)


@real
@pytest.mark.parametrize(
    ("source", "users", "items", "events"),
    [
        ("ml-100k", 943, 1682, 100000),
        ("ml-1m", 6040, 3706, 1000209),
        ("ml-1m-sasrec", 6040, 3416, 999611),
        ("amazon-beauty", 22363, 12101, 198502),
        ("amazon-beauty?variant=bert4rec", 40226, 54542, 353962),
        ("amazon-book-kgat", 70679, 24915, 846434),
        ("diginetica", 202633, 43097, 982961),
    ],
)
def test_sizes_of_public_datasets(source: str, users: int, items: int, events: int) -> None:
    data = load(source)
    assert (data.n_users, data.n_items, data.histories.size) == (users, items, events)
    assert data.header["counts"]["interactions"] == events


@real
def test_100k_movies_and_users() -> None:
    data = load("ml-100k")
    films, users = data.item_features.collect(), data.user_features.collect()
    toy = films.row(0, named=True)
    assert toy["title"] == "Toy Story (1995)"
    assert toy["genres"] == ["Animation", "Children's", "Comedy"]
    assert (toy["year"], toy["released"]) == (1995, date(1995, 1, 1))
    assert films["id"].to_list() == [str(i) for i in range(1, 1683)]
    assert films.row(266, named=True)["title"] == "unknown"
    assert films.row(266, named=True)["genres"] == []
    assert users.row(1, named=True) == {
        "id": "2",
        "age": 53,
        "gender": "F",
        "occupation": "other",
        "zip_code": "94043",
    }


@real
def test_1m_reports_rebuilt_times_and_unrated_movies() -> None:
    messages: list[str] = []
    data = load("ml-1m", log=messages.append, filters=Filters(min_user_events=2))
    films = data.item_features.collect()
    assert films.filter(id="3114")["title"].item() == "Toy Story 2 (1999)"
    assert films["title"].str.contains("é").any(), "the file is Latin-1"
    assert any("177 of 3883 listed ids have no events" in text for text in messages)
    if data.header["warnings"]:
        assert any(text.startswith("warning: ") and "users 1..2999" in text for text in messages)
    again: list[str] = []
    load("ml-1m", log=again.append, filters=Filters(min_user_events=2))
    assert [text for text in messages if text.startswith("warning: ")] == again


def test_sessions_of_diginetica_are_users(archives: Path) -> None:
    train, test = (
        "session\titems\n1\t5 5 9\n2\t7 5\n",
        "row\tsession\tprefix\ttarget\n1\t1\t9 5\t9\n2\t1\t9\t5\n3\t2\t7\t7\n",
    )
    members = {"sessions-diginetica/train.tsv": train, "sessions-diginetica/test.tsv": test}
    pack(archives / "sessions.zip", members)
    data = load("diginetica")
    names = data.items.ids.gather(data.histories.items).to_list()
    offsets = data.histories.offsets.tolist()
    sessions = {user: names[a:b] for user, a, b in zip(data.users.ids, offsets, offsets[1:], strict=False)}
    assert sessions == {"1": ["5", "5", "9"], "2": ["7", "5"], "test-1": ["9", "5", "9"], "test-2": ["7", "7"]}
    for part, text, where in (
        ("train", train.replace("7 5", "7  5"), "train.tsv, line 3, items: got '7  5'"),
        ("train", train.replace("7 5", ""), "train.tsv, line 3, items: got nothing"),
        ("test", test.replace("\t9\n2", "\tx\n2"), "test.tsv, line 2, target: got 'x'"),
    ):
        pack(archives / "sessions.zip", members | {f"sessions-diginetica/{part}.tsv": text})
        with pytest.raises(ValueError, match=where):
            load("diginetica")


def test_10m_layout(archives: Path) -> None:
    pack(
        archives / "some name.zip",
        {
            "ml-10M100K/ratings.dat": "7::122::5::838985046\n7::9::0.5::838983525\n1::122::3.5::838983392\n",
            "ml-10M100K/movies.dat": "9::Star Trek: First::Contact (1996)::Sci-Fi|Action\n"
            "122::Amélie (2001)::(no genres listed)\n5::Unseen (2000)::Drama\n",
            "ml-10M100K/tags.dat": "1::122::Magic::1215184630\n2::122::paris: love::121\n3::122::magic::122\n",
        },
    )
    data = load("ml-10m")
    films = data.item_features.collect()
    assert data.users.ids.to_list() == ["1", "7"]
    assert films["title"].to_list() == ["Star Trek: First::Contact (1996)", "Amélie (2001)"]
    assert films["genres"].to_list() == [["Sci-Fi", "Action"], []]
    assert films["tags"].to_list() == [None, ["magic", "paris: love"]]
    assert films["year"].to_list() == [1996, 2001]
    assert data.histories.items.tolist() == [1, 0, 1]
    assert data.histories.values.tolist() == [3.5, 0.5, 5.0]
    assert data.header["counts"]["items_listed"] == 3


@pytest.mark.parametrize("key", ["ml-20m", "ml-25m", "ml-latest-small"])
def test_csv_layouts(archives: Path, key: str) -> None:
    pack(
        archives / "x.zip",
        {
            f"{key}/ratings.csv": "userId,movieId,rating,timestamp\n1,10,3.5,1112486027\n1,2,4.0,1112484676\n",
            f"{key}/movies.csv": 'movieId,title,genres\n2,"Net, The (1995)",Comedy|Drama\n10,Babylon 5,Sci-Fi\n',
            f"{key}/tags.csv": "userId,movieId,tag,timestamp\n1,2,Épée,1\n2,2,dark,1\n3,2,DARK,1\n",
            f"{key}/links.csv": "movieId,imdbId,tmdbId\n2,0113277,949\n10,0112345,\n",
        },
    )
    data = load(key)
    films = data.item_features.collect().rows(named=True)
    assert [film["title"] for film in films] == ["Net, The (1995)", "Babylon 5"]
    assert [film["year"] for film in films] == [1995, None]
    assert [film["tags"] for film in films] == [["dark", "épée"], None]
    assert films[0]["imdb"] == "0113277"
    assert data.histories.items.tolist() == [0, 1]
    assert data.histories.times.tolist() == [1112484676, 1112486027]


def ml_100k() -> dict[str, str | bytes]:
    ratings = ["1\t1\t5\t30", "1\t2\t3\t20", "2\t1\t4\t10", "2\t3\t1\t40"]
    genres = ["unknown", "Action", "Drama"]
    films = [
        f"{i}|{title}|{day}||url|{flags}"
        for i, title, day, flags in (
            (1, "Café (1994)", "4-Feb-1994", "0|1|1"),
            (2, "unknown", "", "1|0|0"),
            (3, "C (1971)", "01-Jan-1971", "0|0|1"),
        )
    ]
    return {
        "ml-100k/u.data": "\n".join(ratings) + "\n",
        "ml-100k/u.genre": "\n".join(f"{genre}|{n}" for n, genre in enumerate(genres)) + "\n\n",
        "ml-100k/u.item": ("\n".join(films) + "\n").encode("latin-1"),
        "ml-100k/u.user": "1|24|M|technician|85711\n2|53|F|other|T8H1N\n",
        "ml-100k/u1.base": "\n".join(ratings[:3]) + "\n",
        "ml-100k/u1.test": ratings[3] + "\n",
    }


def test_100k_layout(archives: Path) -> None:
    pack(archives / "a.zip", ml_100k())
    data = load("ml-100k")
    films = data.item_features.collect()
    assert films["title"].to_list() == ["Café (1994)", "unknown", "C (1971)"]
    assert films["genres"].to_list() == [["Action", "Drama"], [], ["Drama"]]
    assert films["released"].to_list() == [date(1994, 2, 4), None, date(1971, 1, 1)]
    assert data.user_features.collect()["zip_code"].to_list() == ["85711", "T8H1N"]
    result = split(data, SplitSettings(strategy="predefined", name="u1", valid=0.0))
    assert data.items.decode(result.test.targets.items) == ["3"]


def test_predefined_split_of_other_ratings(archives: Path) -> None:
    pack(archives / "a.zip", ml_100k() | {"ml-100k/u1.test": "2\t9\t1\t40\n"})
    with pytest.raises(ValueError, match=r"u1\.base and u1\.test contain ratings that are not in u\.data"):
        load("ml-100k")


def test_1m_layout_and_rebuilt(archives: Path) -> None:
    pack(
        archives / "b.zip",
        {
            "ml-1m/ratings.dat": "1::2::5::978300760\n",
            "ml-1m/movies.dat": "2::Caf\xe9: Part II (1994)::Drama\n".encode("latin-1"),
            "ml-1m/users.dat": "1::F::1::10::48067-1234\n",
            "ml-1m/REBUILT.txt": "Only\n  a test.\n",
        },
    )
    data = load("ml-1m")
    assert data.header["warnings"] == ["b.zip: Only a test."]
    assert data.item_features.collect()["title"].to_list() == ["Café: Part II (1994)"]
    user = data.user_features.collect().row(0, named=True)
    assert user == {"id": "1", "age": 1, "gender": "F", "occupation": "K-12 student", "zip_code": "48067-1234"}


def test_sasrec_layout(archives: Path) -> None:
    pack(
        archives / "c.zip",
        {
            "ml-1m-sasrec/ml-1m.txt": "1 3\n1 1\n2 3\n",
            "ml-1m-sasrec/sas_to_original_items.txt": "1 1198\n3 356\n",
        },
    )
    data = load("ml-1m-sasrec")
    assert data.histories.times is None
    assert data.histories.items.tolist() == [1, 0, 1]
    assert data.item_features.collect()["movielens_id"].to_list() == ["1198", "356"]


def test_beauty_and_kgat_layouts(archives: Path) -> None:
    pack(
        archives / "d.zip",
        {
            "amazon-beauty/Beauty.s3rec.txt": "1 2 4 2\n2 4\n",
            "amazon-beauty/beauty.bert4rec.txt": "5 1\n5 2\n",
            "amazon-beauty/Beauty_item2attributes.json": '{"4": [1, 2]}',
            "amazon-beauty/datamaps.json": '{"id2user": {"1": "A1", "2": "A2"}, "id2item": {"2": "B2", "4": "B4"}}',
        },
    )
    pack(
        archives / "e.zip",
        {
            "amazon-book-kgat/train.txt": "0 1 2\n1 2\n",
            "amazon-book-kgat/test.txt": "0 3\n1 \n",
            "amazon-book-kgat/user_list.txt": "org_id remap_id\nU 0\nV 1\n",
            "amazon-book-kgat/item_list.txt": "org_id remap_id freebase_id\nX 1 m.1\nY 2 m.2\nZ 3 m.3\n",
        },
    )
    beauty = load("amazon-beauty")
    assert beauty.histories.items.tolist() == [0, 1, 0, 1]
    assert beauty.item_features.collect().rows() == [("2", "B2", None), ("4", "B4", ["1", "2"])]
    assert load("amazon-beauty?variant=bert4rec").items.ids.to_list() == ["1", "2"]
    messages: list[str] = []
    book = load("amazon-book-kgat", log=messages.append)
    assert book.histories.items.tolist() == [0, 1, 2, 1]
    assert any("no times" in text for text in messages)
    result = split(book, SplitSettings(strategy="predefined", name="kgat", valid=0.0))
    assert result.train.histories.items.tolist() == [0, 1, 1]
    assert (result.test.targets.items.tolist(), result.test.queries.users.tolist()) == ([2], [0])


def test_archives_are_found_by_members_and_prepared_again_after_changes(archives: Path) -> None:
    pack(archives / "a.zip", ml_100k())
    first = load("ml-100k")
    assert load("ml-100k").header["folder"] == first.header["folder"]
    pack(archives / "a.zip", ml_100k() | {"ml-100k/u.data": "1\t1\t5\t30\n", "ml-100k/u1.base": "1\t1\t5\t30\n"})
    with pytest.raises(ValueError, match=r"u1\.base"):
        load("ml-100k")
    pack(archives / "a.zip", {**ml_100k(), "ml-100k/u.user": "1|25|M|technician|85711\n2|53|F|other|T8H1N\n"})
    second = load("ml-100k")
    assert second.header["folder"] != first.header["folder"]
    assert second.header["hash"] == first.header["hash"], "the events are the same"
    listed = {key: there for key, _, there in list_sources()}
    assert listed["ml-100k"]
    assert listed["simulated"]
    assert not listed["ml-20m"]


def test_broken_archives(archives: Path) -> None:
    pack(archives / "ml-100k.zip", ml_100k())
    whole = (archives / "ml-100k.zip").read_bytes()
    (archives / "ml-100k.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"ml-100k\.zip: broken or truncated archive"):
        load("ml-100k")
    assert not {key: there for key, _, there in list_sources()}["ml-100k"]
    spot = whole.index(b"technician")
    (archives / "ml-100k.zip").write_bytes(whole[:spot] + b"X" + whole[spot + 1 :])
    with pytest.raises(ValueError, match=r"member ml-100k/u\.user is broken or truncated"):
        load("ml-100k")
    home = Path(os.environ["SEGUE_HOME"])
    assert not home.exists() or not list(home.rglob("*"))


def test_archive_errors_name_member_and_line(archives: Path) -> None:
    pack(archives / "a.zip", ml_100k() | {"ml-100k/u.data": "1\t1\t5\t30\n1\t2\tfive\t20\n"})
    with pytest.raises(ValueError, match=r"a\.zip:u\.data, line 2, column value: got 'five', expected a number"):
        load("ml-100k")


def test_unknown_sources_and_settings() -> None:
    with pytest.raises(ValueError, match=r"unknown source 'ml-100'.*did you mean 'ml-100k'"):
        load("ml-100")
    with pytest.raises(ValueError, match=r"amazon-beauty\?varant: unknown setting, did you mean 'variant'"):
        load("amazon-beauty?varant=bert4rec")
    with pytest.raises(ValueError, match="unknown value, did you mean 'bert4rec'"):
        load("amazon-beauty?variant=bert4rek")
    with pytest.raises(ValueError, match=r"expected ml-1m\?name=value"):
        load("ml-1m?what")
    with pytest.raises(ValueError, match="columns and separator apply to files"):
        load("ml-1m", columns={"user": "x"})
    with pytest.raises(ValueError, match="got int, expected a name"):
        load(3)
