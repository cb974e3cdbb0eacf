"""Title search ignores case, accents and punctuation, matches prefixes and ranks the best titles first."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.reference_rules import make_catalog

TITLES = [
    "Aliens (1986)",
    "Alien (1979)",
    "Alien",
    "The Alien Factor",
    "Schindler's List",
    "Amélie",
    "AMELIE 2",
    "Matrix, The",
    "e\u0301te\u0301",
    "Straße",
    "Хороший, плохой",
    "千と千尋の神隠し",
    'a "quoted" AND OR NOT title',
    "!!!",
    "",
    None,
    "x\x00y",
    "List",
]

FILMS = make_catalog({"id": [f"tt-{code:03}" for code in range(len(TITLES))], "title": TITLES})


def found(text: str, most: int = 3) -> list[int]:
    return FILMS.search(text, most).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alien", [2, 1, 0]),  # exact title; starting with the word; starting with the text
        ("ALIEN 1979", [1]),
        ("aliens", [0]),
        ("alien f", [3]),
        ("ali", [0, 1, 2]),
        ("schindlers", [4]),
        ("schindler's list", [4]),
        ("list", [17, 4]),
        ("lis schin", [4]),
        ("amelie", [5, 6]),
        ("AMÉLIE", [5, 6]),
        ("the matrix", [7]),
        ("ÉTÉ", [8]),
        ("straße", [9]),
        ("ХОРОШИЙ", [10]),
        ("千と", [11]),
        ('"quoted"', [12]),
        ("and or not", [12]),
        ("tt-007", [7]),
        ("tt-01", [10, 11, 12]),
        ("zebra", []),
        ("alien zebra", []),
        ("!!!", []),
        ("", [0, 1, 2]),
        ("  \t", [0, 1, 2]),
        ("☃ amelie", [5, 6]),
        ("title:alien", []),
        ("alien*", [2, 1, 0]),
        ("^alien", [2, 1, 0]),
        ("NEAR(alien factor)", []),
        ("x\x00y", [16]),
        ("\ud800amelie", [5, 6]),
        ("\ue000", []),
        ("a" * 10_000, []),
        ("alien " * 10_000, [0, 1, 2]),
    ],
)
def test_search(text: str, expected: list[int]) -> None:
    assert found(text) == expected


def test_limit() -> None:
    assert found("ali", 1) == [0]
    assert found("ali", 0) == []
    assert found("", 0) == []
    assert found("", 100) == list(range(len(TITLES)))


def test_popular_items_come_first() -> None:
    items = make_catalog({"title": ["one a", "one b", "one c"]}, [1.0, 3.0, 2.0])
    assert items.search("one", 2).tolist() == [1, 2]
    assert items.search("", 3).tolist() == [1, 2, 0]


@given(st.text(max_size=30))
def test_any_text_is_a_valid_query(text: str) -> None:
    codes = found(text, 5)
    assert len(set(codes)) == len(codes) <= 5


def test_concurrent_search() -> None:
    items = make_catalog({"title": [f"word{code % 7} film {code}" for code in range(300)]})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: items.search(f"word{n % 7}", 1).tolist(), range(64)))
    assert answers == [[n % 7] for n in range(64)]
