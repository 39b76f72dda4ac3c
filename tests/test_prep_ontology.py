import pytest

from data_prep.ontology import read_hpo, read_obo, read_translations
from xsap.errors import DataError

OBO = r"""format-version: 1.2
ontology: hp
synonymtypedef: abbreviation "abbreviation"

[Term]
id: HP:1
name: Fever ! a comment
alt_id: HP:11
def: "Not a name." [HPO:x]
synonym: "High \"body\" temperature\, raised" EXACT [HPO:x "a \"b\""]
synonym: "Pyrexia" RELATED layperson [] {comment="x"}
synonym: "FUO" EXACT abbreviation []
synonym: "Illness" BROAD []
synonym: "  Febrile   state" []
xref: UMLS:C0015967 "Fever"
is_a: HP:0 ! All

[Term]
id: HP:2
name: Cough {source="x"}

[Term]
id: HP:3
name: Old thing
synonym: "Older thing" EXACT []
is_obsolete: true
replaced_by: HP:2

[Term]
id: HP:11
name: obsolete Raised temperature
synonym: "Temperature, raised" EXACT []
xref: UMLS:C0000011
is_obsolete: true

[Typedef]
id: part_of
name: part of
"""

BABELON = """subject_id\tsource_language\ttranslation_language\tpredicate_id\tsource_value\ttranslation_status\ttranslation_value
HP:1\ten\tde\trdfs:label\tFever\tOFFICIAL\tFieber
HP:1\ten\tde\tIAO:0000115\tA definition\tOFFICIAL\tEine Definition
HP:1\ten\tde\toio:hasBroadSynonym\tIllness\tOFFICIAL\tKrankheit
HP:2\ten\tde\trdfs:label\tCoughing\tCANDIDATE\t" ""Husten"", trocken "
HP:3\ten\tde\trdfs:label\tOld thing\tOFFICIAL\tAltes
HP:4\ten\tde\trdfs:label\t"New, other"\tCANDIDATE\tNeues "Zeug"
HP:4\ten\tde\trdfs:label\tNew, other\tNOT_TRANSLATED\tNew, other
HP:5\ten\tde\trdfs:label\tOnly English\tOFFICIAL\tNA
HP:5\ten\tde\toio:hasExactSynonym\t\tOFFICIAL\t"Dies" und "das"
HP:6\ten\tde\trdfs:label\tobsolete Retired later\tOFFICIAL\tSpäter ausgemustert
HP:11\ten\tde\trdfs:label\tobsolete Raised temperature\tOFFICIAL\tErhöhte Temperatur
HP:1\ten\tnna\trdfs:label\tFever\tOFFICIAL\tx
"""

ROBOT = """subject_id\ttranslation_value\tcomment\tStatus
ID\tAL oboInOwl:hasExactSynonym@fr\t\t
HP:1\tfièvre | Pyrexie\tsynonyms of HP:1 (Fever)\tOFFICIAL
HP:1\tquot;chaleur, fortequot;\tOFFICIAL\tCANDIDATE
HP:2\tCough\t\tNOT_TRANSLATED
HP:2\ttoux\t\t
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "hp.obo").write_text(OBO)
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "hp-de.babelon.tsv").write_text(BABELON)
    (tables / "hp-fr.synonyms.tsv").write_text(ROBOT)
    return tmp_path / "hp.obo", tables


def rows(terminology, *columns):
    return {tuple(row[c] for c in columns) for row in terminology.names.to_pylist()}


NAMES = {
    ("HP:1", "en", "Fever", "preferred", "HPO", None),
    ("HP:1", "en", 'High "body" temperature, raised', "synonym", "HPO", None),
    ("HP:1", "en", "Pyrexia", "synonym", "HPO", None),
    ("HP:1", "en", "FUO", "abbreviation", "HPO", None),
    ("HP:1", "en", "Febrile state", "synonym", "HPO", None),
    ("HP:1", "en", "Temperature, raised", "synonym", "HPO", None),
    ("HP:2", "en", "Cough", "preferred", "HPO", None),
}
TRANSLATED = {
    ("HP:1", "de", "Fieber", "preferred", "HPO-translations", "OFFICIAL"),
    ("HP:1", "de", "Erhöhte Temperatur", "preferred", "HPO-translations", "OFFICIAL"),
    ("HP:2", "en", "Coughing", "synonym", "HPO-translations", None),
    ("HP:2", "de", '"Husten", trocken', "preferred", "HPO-translations", "CANDIDATE"),
    ("HP:4", "en", "New, other", "preferred", "HPO-translations", None),
    ("HP:4", "de", 'Neues "Zeug"', "preferred", "HPO-translations", "CANDIDATE"),
    ("HP:5", "en", "Only English", "preferred", "HPO-translations", None),
    ("HP:5", "de", '"Dies" und "das"', "synonym", "HPO-translations", "OFFICIAL"),
    ("HP:1", "fr", "fièvre", "synonym", "HPO-translations", "OFFICIAL"),
    ("HP:1", "fr", "Pyrexie", "synonym", "HPO-translations", "OFFICIAL"),
    ("HP:1", "fr", "chaleur, forte", "synonym", "HPO-translations", "CANDIDATE"),
    ("HP:2", "fr", "toux", "synonym", "HPO-translations", None),
}
COLUMNS = ("concept_id", "language", "name", "kind", "source", "status")


def test_the_names_of_both_and_nothing_else(files):
    terminology, tally = read_hpo(*files)
    assert rows(terminology, *COLUMNS) == NAMES | TRANSLATED
    assert dict(tally.dropped) == {
        # HP:3 and its synonym, HP:11's label; in the tables HP:3 twice, HP:6 twice, HP:11's English label
        "obsolete concept": 8,
        "synonym of scope BROAD": 2,
        "a definition or comment, not a name": 1,
        "no translation": 3,
        "language unknown to xsap: nna": 1,
        "same name of the same concept": 3,  # "Fever" twice, "New, other" once more
    }
    assert tally.kept == len(NAMES | TRANSLATED) == terminology.names.num_rows


def test_an_obo_file_alone(files):
    terminology, tally = read_hpo(files[0])
    assert rows(terminology, *COLUMNS) == NAMES
    concepts = {c["concept_id"]: (c["preferred_name"], c["cross_references"]) for c in terminology.concepts.to_pylist()}
    assert concepts == {"HP:1": ("Fever", ["UMLS:C0000011", "UMLS:C0015967"]), "HP:2": ("Cough", [])}
    assert (tally.rows_in, tally.kept) == (11, 7)


def test_a_status_chooses_among_translations_and_leaves_english_alone(files):
    terminology, tally = read_hpo(*files, statuses={"OFFICIAL"})
    assert rows(terminology, *COLUMNS) == NAMES | {row for row in TRANSLATED if row[1] == "en" or row[5] == "OFFICIAL"}
    assert tally.dropped["translation status not chosen"] == 4
    with pytest.raises(DataError, match="has no translation status 'OFICIAL'; did you mean 'OFFICIAL'?"):
        read_hpo(*files, statuses={"OFICIAL"})


def test_scopes_are_chosen(files):
    terminology, _ = read_hpo(*files, scopes=None)
    assert rows(terminology, *COLUMNS) - NAMES - TRANSLATED == {
        ("HP:1", "en", "Illness", "synonym", "HPO", None),
        ("HP:1", "de", "Krankheit", "synonym", "HPO-translations", "OFFICIAL"),
    }
    exact, _ = read_hpo(files[0], scopes={"EXACT"})
    assert not rows(exact, "name") & {("Pyrexia",), ("Illness",), ("Febrile state",)}
    with pytest.raises(DataError, match="OBO has no synonym scope 'EXAKT'; did you mean 'EXACT'?"):
        read_hpo(*files, scopes={"EXAKT"})


def test_a_template_may_name_its_separator_and_several_columns(tmp_path):
    table = tmp_path / "x.synonyms.tsv"
    table.write_text(
        "subject_id\ta\tb\tkind\nID\tAL oboInOwl:hasExactSynonym@de SPLIT=;\tAL rdfs:label@es\t>AI oio:x\nHP:1\teins;zwei|drei\tuno\tlay\n"
    )
    offers = {(o.language, o.name, o.kind) for o in read_translations(table)}
    assert offers == {("de", "eins", "synonym"), ("de", "zwei|drei", "synonym"), ("es", "uno", "preferred")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[Term]\nname: x\n", ":2: expected one id in this [Term], found 0"),
        ("[Term]\nid: A\nid: B\n", ":2: expected one id in this [Term], found 2"),
        ('[Term]\nid: A\nname: a\nsynonym: "open EXACT []\n', ':4: expected a synonym such as "name" EXACT [], found'),
        ("", ": expected an OBO file with [Term] stanzas, found no living term in it. Is it the right file?"),
        ("[Term]\nid: A\nis_obsolete: true\n", ": expected an OBO file with [Term] stanzas"),
    ],
)
def test_what_is_not_obo_is_refused(tmp_path, text, message):
    (tmp_path / "x.obo").write_text(text)
    with pytest.raises(DataError) as caught:
        read_obo(tmp_path / "x.obo")
    assert str(caught.value).startswith(f"{tmp_path}/x.obo{message}")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.babelon.tsv", "subject_id\tpredicate_id\nHP:1\trdfs:label\n", ":1: expected a header with the column 'source_language'"),
        ("x.babelon.tsv", BABELON + "HP:1\ten\n", ":14: expected 7 fields, found 2"),
        ("x.synonyms.tsv", "subject_id\tx\nHP:1\tfoo\n", ":2: expected a ROBOT template row such as 'ID', "),
        ("x.synonyms.tsv", "subject_id\tx\n", ":2: expected a ROBOT template row"),
    ],
)
def test_what_is_no_translation_table_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        list(read_translations(tmp_path / name))
    assert str(caught.value).startswith(f"{tmp_path / name}{message}")


def test_a_folder_without_tables_is_refused(files, tmp_path):
    with pytest.raises(DataError, match="expected a folder with translation tables .* found none there"):
        read_hpo(files[0], tmp_path)
