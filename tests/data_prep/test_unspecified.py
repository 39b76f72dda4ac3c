"""Plain terms: of names that say "unspecified", and of the codes of a classification. Names are those of ICD-10-CM, or made up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.unspecified import plain_term
from tests.fixtures.classifications import (
    claml,
    class_of,
    diag,
    names,
    notes,
    read_text,
    rows,
    rubric,
    seventh,
    tabular,
)

PLAIN = {
    "Pain, unspecified": "Pain",
    "Enteritis NOS": "Enteritis",
    "Unspecified atrial fibrillation": "Atrial fibrillation",
    "Pneumonia, unspecified organism": "Pneumonia",
    "Endocarditis, valve unspecified": "Endocarditis",
    "Urinary tract infection, site not specified": "Urinary tract infection",
    "Bronchitis, not specified as acute or chronic": "Bronchitis",
    "Mental disorder, not otherwise specified": "Mental disorder",
    "Otitis media, unspecified, unspecified ear": "Otitis media",
    "Systemic lupus erythematosus, organ or system involvement unspecified": None,  # nothing is said of the first part
    "Thoracic aortic aneurysm, without rupture, unspecified": "Thoracic aortic aneurysm, without rupture",
    "Unspecified injury of head, initial encounter": "Injury of head, initial encounter",
    "pH of blood, unspecified": "pH of blood",
}
DETAILS = {
    "Crohn's disease, unspecified, with unspecified complications": "Crohn's disease, with unspecified complications",
    "Gout, unspecified shoulder": "Gout, shoulder",
    "Hemiplegia, unspecified affecting right dominant side": "Hemiplegia affecting right dominant side",
    "Alcohol use, unspecified with withdrawal": "Alcohol use with withdrawal",
}
UNCHANGED = [
    "Pain",
    "Other and unspecified abdominal hernia",
    "Fracture of unspecified part of neck of left femur",
    "Sepsis, due to unspecified",
    "Unspecified",
    "NOS",
    "Nosebleed",
    "Glomerulonephritis, types 1 and 3, or NOS",
    "Pain,",
    ", unspecified",
    "Unspecified as acute or delayed",
]
OTHER_LANGUAGES = [
    ("de", "Pneumonie, nicht näher bezeichnet", "Pneumonie"),
    ("de", "Harnwegsinfektion, Lokalisation nicht näher bezeichnet", "Harnwegsinfektion"),
    ("de", "Nicht näher bezeichnete Demenz", "Demenz"),
    ("de", "Enteritis o.n.A.", "Enteritis"),
    ("de", "Sonstige und nicht näher bezeichnete Krankheiten", None),
    ("fr", "Pneumopathie, sans précision", "Pneumopathie"),
    ("fr", "Endocardite, valvule non précisée", "Endocardite"),
    ("fr", "Entérite SAI", "Entérite"),
    ("es", "Dolor, no especificado", "Dolor"),
    ("es", "Neumonía, microorganismo no especificado", "Neumonía"),
    ("es", "Tumor de localización no especificada", None),  # of what it is not specified cannot be seen
    ("it", "Polmonite, non specificata", "Polmonite"),
    ("nl", "Pneumonie, niet gespecificeerd", "Pneumonie"),
    ("nl", "Niet gespecificeerde dementie", "Dementie"),
    ("pt", "Pneumonia, não especificada", "Pneumonia"),
    ("de", "Pain, unspecified", None),
    ("en", "Pneumonie, nicht näher bezeichnet", None),
    ("xx", "Pain, unspecified", None),
]


@pytest.mark.parametrize(("name", "plain"), [*PLAIN.items(), *DETAILS.items(), *((name, None) for name in UNCHANGED)])
def test_plain_term_of_an_english_name(name, plain):
    assert plain_term(name, "en") == plain


@pytest.mark.parametrize(("language", "name", "plain"), OTHER_LANGUAGES)
def test_plain_term_in_other_languages(language, name, plain):
    assert plain_term(name, language) == plain


words = st.lists(st.sampled_from(["Pain", "fever", "of", "left", "arm", "with", "type 2"]), min_size=1, max_size=5)


@given(parts=st.lists(words.map(" ".join), min_size=1, max_size=3))
def test_every_way_to_say_unspecified_gives_the_term_and_the_term_itself_nothing(parts):
    term = ", ".join(parts)
    assert plain_term(term, "en") is None
    for name in (f"{term}, unspecified", f"{term} NOS", f"{term}, not otherwise specified, unspecified site"):
        assert plain_term(name, "en") == term
    assert plain_term(f"Unspecified {term}", "en") == term[0].upper() + term[1:]


def synonyms(terminology):
    return {(code, name) for code, name, kind in names(terminology) if kind == "synonym"}


def test_codes_without_subdivisions_get_plain_terms(tmp_path):
    text = tabular(
        diag(
            "J18",
            "Pneumonia, unspecified organism",
            diag("J18.0", "Bronchopneumonia, unspecified organism"),
            diag("J18.9", "Pneumonia, unspecified organism", notes("inclusionTerm", "Pneumonia NOS")),
        )
        # the title of the code above is the same, and stays beside it
        + diag("R11", "Vomiting", diag("R11.10", "Vomiting, unspecified"))
        + diag("S09", "Unspecified injury of head", seventh(A="initial encounter"))
    )
    terminology, counts = read_text(tmp_path, text)
    assert synonyms(terminology) == {
        ("J18.0", "Bronchopneumonia"),
        ("J18.9", "Pneumonia"),
        ("J18.9", "Pneumonia NOS"),
        ("R11.10", "Vomiting"),
        ("S09.XXXA", "Injury of head, initial encounter"),
    }
    assert '4 plain terms added: "X" for "X, unspecified" and "X NOS"' in terminology.metadata["remarks"]
    assert counts.kept == terminology.names.num_rows == 12  # counts are exact by construction: RowCounts


def test_plain_terms_that_are_not_the_codes_own_are_left_out(tmp_path):
    text = tabular(
        # two codes of the same plain term
        diag("R37", "Sexual dysfunction, unspecified")
        + diag("F52", "Unspecified sexual dysfunction")
        # the title of another code, whatever its case
        + diag("H61", "Unspecified disorders of pinna")
        + diag("H62", "Disorders of Pinna")
        # a synonym of another code is none of its titles
        + diag("G62", "Polyneuropathy, unspecified")
        + diag("A69", "Lyme disease", notes("inclusionTerm", "Polyneuropathy"))
        # the code has it
        + diag("K63", "Polyp of colon NOS", notes("inclusionTerm", "Polyp of colon"))
    )
    terminology, _ = read_text(tmp_path, text)
    assert synonyms(terminology) == {("A69", "Polyneuropathy"), ("G62", "Polyneuropathy"), ("K63", "Polyp of colon")}
    assert {
        "2 plain terms left out: of several codes, or the title of another code",
        '1 plain terms added: "X" for "X, unspecified" and "X NOS"',
    } <= set(terminology.metadata["remarks"])


def test_plain_terms_of_claml_are_in_the_language_of_their_names(tmp_path):
    text = claml(
        class_of("J18", rubric("preferred", "Pneumonie")),
        class_of("J18.9", rubric("preferred", "Pneumonie, nicht näher bezeichnet"), above="J18"),
        class_of("J20", rubric("preferred", "Bronchitis o.n.A.")),
    )
    assert rows(read_text(tmp_path, text)[0]) >= {
        ("J18.9", "de", "Pneumonie", "synonym"),
        ("J20", "de", "Bronchitis", "synonym"),
    }
