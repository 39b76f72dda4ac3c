"""Names in texts against plain loops over all n-grams; offsets in generated texts of twelve scripts."""

from bisect import bisect_left, bisect_right

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.dictionaries import terminology
from tests.fixtures.examples import examples
from tests.fixtures.notes import LANGUAGES, NAMES, generated_note, note_linker
from xsap.languages import UNKNOWN
from xsap.linking.dictionary import NameSource, build_dictionary
from xsap.text import TextPolicy, look_up_key
from xsap.text_in.spans import SpanFinder, ascii_key, is_mention, known_queries
from xsap.text_in.spellings import NearSpellings, edits_of, near_spellings
from xsap.text_in.words import sentence_at, units_of


def finder_of(*names, **sizes):
    """A finder of names, each a concept, or of (concept_id, language, name)."""
    rows = [name if isinstance(name, tuple) else (f"C{i}", "en", name) for i, name in enumerate(names)]
    return SpanFinder(build_dictionary(NameSource.from_terminology(terminology(*rows)), None, TextPolicy()), **sizes)


def found(finder, text, language="en"):
    return [text[start:end] for start, end in finder.find([text], [language])[0]]


def plain_loop(finder, text, language):
    """Every n-gram from left to right, the longest first, looked up alone."""
    keys, dictionary, unit_keys = finder.dictionary.keys, finder.dictionary, finder.unit_keys(text)
    units, spans, first = unit_keys.units, [], 0
    while first < len(units.starts):
        for stop in range(min(len(units.starts), first + 16), first, -1):
            start, end = units.starts[first], units.ends[stop - 1]
            span = text[start:end]
            breaks = "\n\n" in span.replace("\r\n", "\n").replace(" ", "")
            hits = [] if breaks else keys.find(span, language, dictionary.names, dictionary.concepts)
            if [hit for hit in hits if hit.match != "code"] and is_mention(unit_keys, first, stop, language):
                spans.append((start, end))
                first = stop
                break
        else:
            first += 1
    return spans


@pytest.fixture(scope="module")
def notes_finder():
    return SpanFinder(note_linker().index.dictionary)


def check_note(finder, seed):
    script, text, places = generated_note(seed)
    spans = finder.find([text], [LANGUAGES[script]])[0]
    assert spans == places, (script, text, [text[s:e] for s, e in spans], [text[s:e] for s, e in places])
    names = {look_up_key(name) for name in NAMES[script][0]}
    assert all(look_up_key(text[start:end]) in names for start, end in spans)


def test_every_name_is_found_at_its_place_in_generated_notes(notes_finder):
    for seed in range(300):
        check_note(notes_finder, seed)


@pytest.mark.slow
def test_every_name_is_found_at_its_place_in_ten_thousand_notes(notes_finder):
    for seed in range(10_000):
        check_note(notes_finder, seed)


WORDS = ["renal", "acute", "renal failure", "a", "of the", "failure", "B12", "é", "e\u0301", "ae", "발열", "发热", "熱"]
SEPARATORS = st.sampled_from([" ", "", "-", "  ", "\n", "\r\n\r\n", ", ", "'", "’", "\u200b", "(", ")", "+"])


@given(
    names=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), min_size=1, max_size=8),
    pieces=st.lists(st.tuples(st.sampled_from([*WORDS, "RENAL", "xyz", "Ä", "ß"]), SEPARATORS), max_size=12),
    language=st.sampled_from(["en", UNKNOWN, "tr"]),
)
@settings(max_examples=examples(100))
def test_spans_are_those_of_a_plain_loop(names, pieces, language):
    finder, text = finder_of(*names), "".join(word + separator for word, separator in pieces)
    assert finder.find([text], [language])[0] == plain_loop(finder, text, language)


@given(st.lists(st.text(max_size=30), max_size=5), st.integers(1, 9))
@settings(max_examples=examples(100))
def test_sizes_of_searches_do_not_change_spans(texts, size):
    names = [text.strip() or "fever" for text in texts] or ["fever"]
    texts = [*texts, " ".join(texts), "no fever"]
    languages = ["en"] * len(texts)
    one = finder_of(*names, "fever").find(texts, languages)
    assert finder_of(*names, "fever", ngrams_per_search=size).find(texts, languages) == one


@given(st.text(max_size=80))
@settings(max_examples=examples(100))
def test_units_cover_every_letter_and_their_keys_make_up_the_key_of_the_text(text):
    units = units_of(text)
    assert [text[start:end] for start, end in zip(units.starts, units.ends, strict=True)] == units.words
    covered = {at for start, end in zip(units.starts, units.ends, strict=True) for at in range(start, end)}
    assert [character for at, character in enumerate(text) if character.isalnum() and at not in covered] == []


ASCII = st.characters(max_codepoint=0x7F)


@given(
    st.lists(
        st.one_of(st.sampled_from(["ae", "AEE", "oe", "due", "aaae", "  ", "\r\n", "`", ") ", "-"]), ASCII), max_size=30
    )
)
@settings(max_examples=examples(300))
def test_key_of_an_ascii_text_has_the_keys_of_all_its_parts(pieces):
    text = "".join(pieces)
    units = units_of(text)
    key, starts, ends = ascii_key(text, units.starts, units.ends)
    for first in range(len(starts)):
        for last in range(first, len(ends)):
            span = text[units.starts[first] : units.ends[last]]
            assert key[starts[first] : ends[last]].decode() == look_up_key(span)


@given(st.integers(1, 200), st.lists(st.sampled_from(["renal", "failure", "acute)", "发热", ".", "\n\n"]), max_size=40))
@settings(max_examples=examples(50))
def test_a_text_in_pieces_has_the_spans_of_the_whole(size, pieces):
    names, text = ["renal failure", "failure", "acute)", "发热"], " ".join(pieces)
    whole = finder_of(*names).find([text, "renal failure"], ["en", "en"])
    assert finder_of(*names, ngrams_per_search=size).find([text, "renal failure"], ["en", "en"]) == whole


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("chronic renal failure", ["chronic renal failure"]),  # the longest
        ("chronic renal failures", ["renal"]),  # whole words
        ("suprarenal, renals, renal_1 RENAL", ["RENAL"]),
        ("chronic\r\n renal\u00a0failure.", ["chronic\r\n renal\u00a0failure"]),
        ("renal\n\nfailure", ["renal"]),  # no name goes across an empty line
        ("Crohn’s disease", ["Crohn’s disease"]),
        ("l'hépatite, hepatite", ["hépatite", "hepatite"]),
        ("CD4+ cells, CD4", ["CD4+", "CD4"]),
        ("a) all was well", []),
        ("ALL and MI were seen", ["ALL", "MI"]),  # abbreviations
        ("ALL PATIENTS WELL, MI UNKNOWN", []),  # nothing but capitals
        ("hearing aids, aids", []),  # no abbreviation
        ("AIDS", ["AIDS"]),
        ("12345 and 5", []),
        ("code HP:0001945 or 0001945", ["HP:0001945"]),
        ("😀renal😀", ["renal"]),
        ("", []),
        ("\n\n \t", []),
    ],
)
def test_spans_of_a_text(text, spans):
    names = [
        "renal",
        "chronic renal failure",
        "failure ",
        "Crohn's disease",
        "hépatite",
        "CD4+",
        "CD4",
        "all",
        "ALL",
        "MI",
        "AIDS",
        "was",
        "a",
        "5",
        "12345",
    ]
    finder = finder_of(*names[:2], *names[3:], ("HP:0001945", "en", "pyrexia"))
    assert found(finder, text) == spans


def test_names_with_signs_at_their_ends_are_found_only_with_closing_ones():
    finder = finder_of("Klebsiella spp.", "(R)-warfarin", "CD4+", "pain (chest)")
    assert found(finder, "Klebsiella spp. (R)-warfarin CD4+ pain (chest).") == ["CD4+", "pain (chest)"]


def test_stop_words_are_those_of_the_texts_language():
    finder = finder_of("die", "was", "sin")
    text = "die was sin"
    assert found(finder, text, "en") == ["die", "sin"]
    assert found(finder, text, "de") == ["sin"]
    assert found(finder, text, "es") == ["die", "was"]
    assert found(finder, text, UNKNOWN) == found(finder, text, "cy") == []


@pytest.mark.parametrize(
    ("text", "stop_word", "name", "language"),
    [
        ("発熱する", "する", "発熱", "ja"),
        ("没有发热", "没有", "发热", "zh"),
        ("ที่ไข้สูง", "ที่", "ไข้สูง", "th"),
        ("의 발열", "의", "발열", "ko"),
    ],
)
def test_stop_words_are_none_in_scripts_without_spaces_and_in_korean(text, stop_word, name, language):
    finder = finder_of(stop_word, name)
    assert found(finder, text, language) == found(finder, text, UNKNOWN) == [name]


def test_only_names_that_are_kept_are_found():
    finder = finder_of("acute fever", "fever")
    assert finder.find(["acute fever"], ["en"], lambda span, language: span == "fever") == [[(6, 11)]]


def test_a_further_name_is_found_in_any_letter_case():
    finder = SpanFinder(finder_of("fever").dictionary, ["loss of taste"])
    assert found(finder, "fever, Loss of  taste") == ["fever", "Loss of  taste"]


def test_a_name_of_more_words_than_an_n_gram_has_is_not_found():
    ten = "pain in the left upper arm of one old man"
    assert found(finder_of(ten), f"had {ten} again") == [ten]
    assert found(finder_of(f"{ten} again"), f"had {ten} again") == []


@given(st.lists(st.integers(0, 50)), st.lists(st.integers(0, 50)), st.sampled_from([1, 1 << 47, (1 << 58) + 1]))
def test_known_hashes_are_those_of_a_set(queries, hashes, scale):
    queries, hashes = ([number * scale for number in each] for each in (queries, hashes))
    ordered = sorted(hashes)
    expected = [
        (number, bisect_left(ordered, query), bisect_right(ordered, query))
        for number, query in enumerate(queries)
        if query in ordered
    ]
    found = known_queries(np.array(queries, np.uint64), np.array(ordered, np.uint64))
    assert list(zip(*(each.tolist() for each in found), strict=True)) == expected


def test_a_sentence_ends_at_its_end_and_not_at_an_abbreviation():
    text = "He was well. Dr. Smith saw e.g. a fever!\nNo cough\n\nHome."
    sentence = lambda word: text[slice(*sentence_at(text, text.index(word), text.index(word) + len(word)))]  # noqa: E731
    assert sentence("well") == "He was well."
    assert sentence("fever") == "Dr. Smith saw e.g. a fever!"
    assert sentence("cough") == "No cough"


# Near spellings


def near(names, text, language="en", keep=None):
    return [text[start:end] for start, end in NearSpellings(finder_of(*names)).find([text], [language], keep)[0]]


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("chronic hepatitus again", ["hepatitus"]),
        ("hepatits hpeatitis ehpatitis heppatitis hepattis", ["hepatits", "hpeatitis", "heppatitis", "hepattis"]),
        ("Costal fractures, costal fracture", ["Costal fractures", "costal fracture"]),
        ("costals fractures", ["costals fractures"]),
        ("hepatitis B", []),
        ("xepatitis", []),
        ("fevar of fevers", ["fevers"]),  # not of five letters
        ("renal type 2", []),
        ("hepatitus\n\nhepatitis", ["hepatitus", "hepatitis"]),
    ],
)
def test_near_spellings_in_a_text(text, spans):
    names = ["hepatitis", "costal fracture", "hepatitis A", "renal type 1", "fever"]
    if text == "hepatitis B":
        names.remove("hepatitis")
    assert near(names, text) == spans


def test_a_near_spelling_of_two_names_is_found_if_either_is_kept():
    for kept in ("hepatitas", "hepatitis"):
        assert near(["hepatitas", "hepatitis"], "hepatitus", keep=lambda span, _, kept=kept: span == kept) == [
            "hepatitus"
        ]


def test_only_near_spellings_of_names_that_are_kept_are_found():
    assert near(["hepatitis"], "hepatitus", keep=lambda span, _: span == "hepatitis") == ["hepatitus"]
    assert near(["hepatitis"], "hepatitus", keep=lambda span, _: span != "hepatitis") == []


@given(st.text("abc", min_size=1, max_size=5), st.text("abc", min_size=1, max_size=6))
def test_edits_are_all_words_at_distance_one_with_the_same_first_letter(word, other):
    """Against the recursive definition of the distance with exchanges of neighbors (optimal string alignment)."""

    def distance(a, b):
        if not a or not b:
            return len(a) + len(b)
        best = min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))
        if len(a) > 1 and len(b) > 1 and a[0] == b[1] and a[1] == b[0]:
            best = min(best, distance(a[2:], b[2:]) + 1)
        return best

    if word[0] == other[0]:
        rest = (word[1:], other[1:])
        assert (other in set(edits_of(word, "abc"))) == (distance(*rest) == 1)
    assert all(each[0] == word[0] for each in edits_of(word, "abc"))


def test_near_spellings_are_bounded_and_none_has_another_digit():
    words = ["chronic", "hepatitis", "type2", "failures"]
    keys = list(near_spellings(words, [" "] * 3))
    assert len(keys) < 60 * sum(map(len, words))
    assert all("type2" in key for key in keys)
    assert list(near_spellings(["발열환자분들"], [])) == []
