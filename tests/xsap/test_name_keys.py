"""Exact look-up against a plain loop over all names: tiers, ties, languages, codes, and marks inside names."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.dictionaries import TERM_NAMES, terminology_of_rows
from tests.fixtures.examples import examples
from xsap.languages import UNKNOWN
from xsap.linking.dictionary import NameSource, build_dictionary
from xsap.linking.name_keys import ACCENTS, CASE, CODE, EXACT
from xsap.terms.terminology import NAMES_SCHEMA, Terminology
from xsap.text import AS_WRITTEN, TextPolicy, expand_umlauts, fold_accents, fold_case, normalize

POLICIES = [TextPolicy(), TextPolicy("lower", "NFKC"), TextPolicy("cased", "none")]
LETTERS = st.text(st.sampled_from("aAäÄeoöuüßsSSiIıİéÉσςΣø \u00ad-–'’"), min_size=1, max_size=5).filter(
    lambda name: normalize(name, AS_WRITTEN) != ""
)
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["C1", "C2", "C3", "D"]),
        st.sampled_from(["en", "de", "tr"]),
        LETTERS | st.sampled_from([name for name in TERM_NAMES if normalize(name, AS_WRITTEN)]),
        st.sampled_from(["AAA", "B"]),
        st.sampled_from([None, "I10", "12345", "7"]),
    ),
    min_size=1,
    max_size=25,
)


def build(terminology, policy=POLICIES[1], languages=None, **options):
    return build_dictionary(NameSource.from_terminology(terminology), languages, policy, **options)


def find(dictionary, mention, language=UNKNOWN):
    """(concept id, match), best first."""
    ids = dictionary.concepts["concept_id"].to_pylist()
    hits = dictionary.keys.find(mention, language, dictionary.names, dictionary.concepts)
    return [(ids[hit.concept], hit.match) for hit in hits]


def named(*rows, kind="preferred"):
    """A terminology of (concept, preferred name, synonyms)."""
    names = [
        {"concept_id": concept, "language": "en", "name": name, "kind": kind if i == 0 else "synonym", "source": "T"}
        | {"code": None, "status": None}
        for concept, preferred, synonyms in rows
        for i, name in enumerate([preferred, *synonyms])
    ]
    import pyarrow as pa

    return Terminology.build(pa.Table.from_pylist(names, NAMES_SCHEMA))[0]


@settings(max_examples=examples(150))
@given(
    rows=ROWS, mention=LETTERS | st.sampled_from(TERM_NAMES), policy=st.sampled_from(POLICIES), batch=st.integers(1, 9)
)
def test_names_that_are_found_are_those_of_a_plain_loop(rows, mention, policy, batch):
    terminology = terminology_of_rows(rows)
    kinds: dict[str, int] = {}
    for row in terminology.names.to_pylist():
        if not normalize(row["name"], policy):
            continue
        forms = [
            [normalize(text, AS_WRITTEN), fold_case(text), fold_accents(text), expand_umlauts(text)]
            for text in (row["name"], mention)
        ]
        if not forms[1][1]:
            continue
        equal = [own == other for own, other in zip(*forms, strict=True)]
        if any(equal):
            kinds[row["concept_id"]] = min(kinds.get(row["concept_id"], 9), min(equal.index(True), 2))
    found = find(build(terminology, policy, rows_per_batch=batch), mention)
    assert {concept: match for concept, match in found if match != CODE} == {
        concept: (EXACT, CASE, ACCENTS)[kind] for concept, kind in kinds.items()
    }
    assert [match for _, match in found] == sorted(
        (match for _, match in found), key=(EXACT, CASE, CODE, ACCENTS).index
    )


def test_of_equal_names_the_same_spelling_then_the_preferred_name_then_the_identifier_comes_first():
    terminology = named(
        ("A:1", "gum bleeding", ["oral bleeding", "Cold"]),
        ("A:2", "oral bleeding", []),
        ("A:3", "COLD", []),
        ("A:4", "rhinitis", ["cold"]),
        ("A:5", "common cold", ["cold"]),
    )
    for policy in POLICIES:
        dictionary = build(terminology, policy)
        assert [concept for concept, _ in find(dictionary, "oral bleeding")] == ["A:2", "A:1"]
        assert find(dictionary, "COLD") == [("A:3", EXACT), ("A:1", CASE), ("A:4", CASE), ("A:5", CASE)]
        assert find(dictionary, "cold")[:2] == [("A:4", EXACT), ("A:5", EXACT)]
        assert find(dictionary, "Cold")[0] == ("A:1", EXACT)
        assert [concept for concept, _ in find(dictionary, "cOLD")] == ["A:3", "A:1", "A:4", "A:5"]


@settings(max_examples=examples(60))
@given(st.data())
def test_a_label_gives_its_own_concept_first_whatever_else_has_it_as_a_synonym(data):
    labels = data.draw(
        st.lists(
            st.text("abAB ", min_size=1, max_size=3).map(str.strip).filter(bool), min_size=2, max_size=8, unique=True
        )
    )
    rows = [
        (f"C{i}", label, data.draw(st.lists(st.sampled_from(labels), max_size=3))) for i, label in enumerate(labels)
    ]
    dictionary = build(named(*rows), data.draw(st.sampled_from(POLICIES)))
    for concept, label, _ in rows:
        assert find(dictionary, label)[0] == (concept, EXACT)


@pytest.mark.parametrize(
    ("name", "language", "variants"),
    [
        ("göğüs ağrısı", "tr", ["GÖĞÜS AĞRISI", "Göğüs Ağrısı", "göğüs ağrisi", "GÖĞÜS AĞRISI".lower()]),
        ("dispne", "tr", ["DİSPNE", "Dispne", "DISPNE", "dıspne"]),
        ("Fußschmerz", "de", ["FUSSSCHMERZ", "FUẞSCHMERZ", "fussschmerz"]),
        ("πυρετός", "el", ["ΠΥΡΕΤΟΣ", "ΠΥΡΕΤΌΣ", "Πυρετός", "πυρετόσ"]),
        ("αϋπνία", "el", ["ΑΫΠΝΙΑ", "ΑΥΠΝΙΑ"]),
        ("ìšdavystė", "lt", ["ÌŠDAVYSTĖ", "i\u0307\u0300šdavystė"]),
        ("COVID-19", "en", ["ＣＯＶＩＤ－１９", "covid–19", "COVID‑19", "covid\u00ad‐19"]),
        ("Crohn's disease", "en", ["Crohn’s disease", "CROHN´S\u00a0DISEASE", "crohn`s  disease"]),
        ("fibrosis", "en", ["ﬁbrosis"]),
        ("می\u200cخواهم", "fa", ["میخواهم"]),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_names_are_found_in_any_case_width_and_punctuation(name, language, variants, known):
    dictionary = build(terminology_of_rows([("C1", language, name, "T", None), ("C2", "en", "other", "T", None)]))
    for variant in variants:
        for form in ("NFC", "NFD"):
            mention = unicodedata.normalize(form, variant)
            assert find(dictionary, mention, language if known else UNKNOWN) == [("C1", CASE)], ascii(mention)


def test_the_language_decides_between_i_and_dotless_i():
    rows = [("C1", "tr", "kiz", "T", None), ("C2", "tr", "kız", "T", None), ("C3", "en", "KIZ.", "T", None)]
    dictionary = build(terminology_of_rows(rows))
    assert find(dictionary, "KIZ", "tr")[0] == ("C2", CASE)
    assert find(dictionary, "KİZ", "tr")[0] == ("C1", CASE)
    assert find(dictionary, "KIZ", "en")[0] == ("C1", CASE)


def test_names_in_the_language_of_the_mention_come_first():
    dictionary = build(terminology_of_rows([("C1", "en", "Gift", "T", None), ("C2", "de", "Gift", "T", None)]))
    assert [concept for concept, _ in find(dictionary, "Gift", "de")] == ["C2", "C1"]
    assert [concept for concept, _ in find(dictionary, "Gift", "en")] == ["C1", "C2"]
    assert [concept for concept, _ in find(dictionary, "Gift")] == ["C1", "C2"]


@pytest.mark.parametrize(
    ("name", "mentions"),
    [
        ("Hépatomégalie", ["hepatomegalie", "HEPATOMEGALIE"]),
        ("Ödem", ["Odem", "Oedem", "OEDEM"]),
        ("Oedem", ["Ödem"]),
        ("smørepålæg", ["smorepalaeg", "smoerepaalaeg"]),
        ("łuszczyca", ["luszczyca"]),
        ("ёлка", ["елка"]),
    ],
)
def test_names_are_found_without_accents_after_all_others(name, mentions):
    dictionary = build(terminology_of_rows([("C1", "en", name, "T", None)]))
    both = build(terminology_of_rows([("C1", "en", name, "T", None), ("C2", "en", mentions[0], "T", None)]))
    for mention in mentions:
        assert find(dictionary, mention) == [("C1", ACCENTS)]
    assert find(both, mentions[0]) == [("C2", EXACT), ("C1", ACCENTS)]
    assert find(dictionary, "odom") == []


def test_marks_of_kana_and_vowel_signs_of_indic_scripts_are_no_accents():
    dictionary = build(terminology_of_rows([("C1", "ja", "がん", "T", None), ("C2", "hi", "सिर", "T", None)]))
    assert find(dictionary, "かん") == []
    assert find(dictionary, "सर") == []


MARKS = "\u202a\u202c\u2066\u2069\u200e\u200f\u061c\u200b\u200c\u200d\ufeff\u00ad\ufe0f\u2060"


@given(name=st.sampled_from(["fever", "Ödem", "胸痛", "chest pain"]), data=st.data())
def test_invisible_marks_do_not_part_a_mention_from_its_name(name, data):
    dictionary = build(terminology_of_rows([("C1", "en", name, "T", None)]))
    mention = "".join(data.draw(st.text(MARKS, max_size=2)) + character for character in name) + data.draw(
        st.text(MARKS)
    )
    assert find(dictionary, mention) == [("C1", EXACT)]


def test_codes_of_the_terminology_are_found_in_any_case_and_those_of_others_are_not():
    rows = [
        ("HP:0001945", "en", "fever", "ICD10CM", "R50.9"),
        ("HP:2", "en", "I10", "T", "7"),
        ("HP:3", "en", "x", "T", "I10"),
    ]
    dictionary = build(terminology_of_rows(rows, references=[("HP:2", "UMLS:C0015967")]), languages=("en",))
    for mention in ("HP:0001945", "hp:0001945", "R50.9", "r50.9", "ICD10CM:R50.9"):
        assert find(dictionary, mention) == [("HP:0001945", CODE)], mention
    assert find(dictionary, "I10") == [("HP:2", EXACT), ("HP:3", CODE)]
    for mention in ("7", "C0015967", "UMLS:C0015967", "R50", "T:R50.9", "ICD10CM:", ":R50.9"):
        assert find(dictionary, mention) == [], mention


@pytest.mark.parametrize("mention", ["\ud800", "", " ", "\u200e", "\u0301"])
def test_what_is_no_text_matches_no_name(mention):
    assert find(build(terminology_of_rows([("C1", "en", "a", "T", None)])), mention) == []
