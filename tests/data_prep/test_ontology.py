import gzip
import time
from itertools import pairwise

import pytest

from data_prep.ontology import read_hpo, read_obo, read_ontology, read_translations
from data_prep.ontology_model import identifier
from xsap.errors import DataError
from xsap.terms.terminology import Terminology

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


def test_hpo_names_are_those_of_ontology_and_translations(files):
    terminology, counts = read_hpo(*files)
    assert rows(terminology, *COLUMNS) == NAMES | TRANSLATED
    assert dict(counts.dropped) == {
        # HP:3 and its synonym, HP:11's label; in the tables HP:3 twice, HP:6 twice, HP:11's English label
        "obsolete concept": 8,
        "synonym of scope BROAD": 2,
        "no translation": 3,
        "language unknown to xsap: nna": 1,
        "same name of the same concept": 3,  # "Fever" twice, "New, other" once more
    }
    assert counts.kept == len(NAMES | TRANSLATED) == terminology.names.num_rows


def test_obo_without_translations(files):
    terminology, counts = read_hpo(files[0])
    assert rows(terminology, *COLUMNS) == NAMES
    concepts = {c["concept_id"]: (c["preferred_name"], c["cross_references"]) for c in terminology.concepts.to_pylist()}
    assert concepts == {"HP:1": ("Fever", ["UMLS:C0000011", "UMLS:C0015967"]), "HP:2": ("Cough", [])}
    assert (counts.rows_in, counts.kept) == (11, 7)


def test_status_selects_translations_but_not_english(files):
    terminology, counts = read_hpo(*files, statuses={"OFFICIAL"})
    assert rows(terminology, *COLUMNS) == NAMES | {row for row in TRANSLATED if row[1] == "en" or row[5] == "OFFICIAL"}
    assert counts.dropped["translation status not chosen"] == 4
    with pytest.raises(DataError, match="has no translation status 'OFICIAL'; did you mean 'OFFICIAL'?"):
        read_hpo(*files, statuses={"OFICIAL"})


def test_scopes_select_synonyms(files):
    terminology, _ = read_hpo(*files, scopes=None)
    assert rows(terminology, *COLUMNS) - NAMES - TRANSLATED == {
        ("HP:1", "en", "Illness", "synonym", "HPO", None),
        ("HP:1", "de", "Krankheit", "synonym", "HPO-translations", "OFFICIAL"),
    }
    exact, _ = read_hpo(files[0], scopes={"EXACT"})
    assert not rows(exact, "name") & {("Pyrexia",), ("Illness",), ("Febrile state",)}
    with pytest.raises(DataError, match="OBO has no synonym scope 'EXAKT'; did you mean 'EXACT'?"):
        read_hpo(*files, scopes={"EXAKT"})


def test_robot_template_separator_and_columns(tmp_path):
    table = tmp_path / "x.synonyms.tsv"
    table.write_text(
        "subject_id\ta\tb\tkind\nID\tAL oboInOwl:hasExactSynonym@de SPLIT=;\tAL rdfs:label@es\t>AI oio:x\nHP:1\teins;zwei|drei\tuno\tlay\n"
    )
    names = {(o.language, o.name, o.kind) for o in read_translations(table)}
    assert names == {("de", "eins", "synonym"), ("de", "zwei|drei", "synonym"), ("es", "uno", "preferred")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[Term]\nname: x\n", ":1: expected one id in this [Term], found 0"),
        ("[Term]\nid: A\nid: B\n", ":1: expected one id in this [Term], found 2"),
        ('[Term]\nid: A\nname: a\nsynonym: "open EXACT []\n', ':4: expected a synonym such as "name" EXACT [], found'),
        ("", ": expected an OBO file with [Term] stanzas, found none that is not obsolete. Is it the right file?"),
        ("[Term]\nid: A\nis_obsolete: true\n", ": expected an OBO file with [Term] stanzas"),
    ],
)
def test_invalid_obo_is_refused(tmp_path, text, message):
    (tmp_path / "x.obo").write_text(text)
    with pytest.raises(DataError) as caught:
        read_obo(tmp_path / "x.obo")
    assert str(caught.value).startswith(f"{tmp_path}/x.obo{message}")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "x.babelon.tsv",
            "subject_id\tpredicate_id\nHP:1\trdfs:label\n",
            ":1: expected a header with the column 'source_language'",
        ),
        ("x.babelon.tsv", BABELON + "HP:1\ten\n", ":14: expected 7 field(s) as in the header, found 2"),
        ("x.synonyms.tsv", "subject_id\tx\nHP:1\tfoo\n", ":2: expected a ROBOT template row such as 'ID', "),
        ("x.synonyms.tsv", "subject_id\tx\n", ":2: expected a ROBOT template row"),
    ],
)
def test_invalid_translation_table_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        list(read_translations(tmp_path / name))
    assert str(caught.value).startswith(f"{tmp_path / name}{message}")


def test_folder_without_translation_tables_is_refused(files, tmp_path):
    with pytest.raises(DataError, match="expected a folder with translation tables .* found none there"):
        read_hpo(files[0], tmp_path)


# What became of identifiers


def retired(terminology):
    return {(row["retired_id"], row["concept_id"], row["relation"]) for row in terminology.retired.to_pylist()}


def term(identifier, *tags):
    return "\n".join(["[Term]", f"id: {identifier}", f"name: Name of {identifier}", *tags, "\n"])


def test_merged_and_obsolete_identifiers_are_in_retired_table(files):
    terminology, _ = read_hpo(*files)
    assert retired(terminology) == {("HP:11", "HP:1", "same"), ("HP:3", "HP:2", "same"), ("HP:6", None, "deleted")}
    alone, _ = read_hpo(files[0])
    assert retired(alone) == {("HP:11", "HP:1", "same"), ("HP:3", "HP:2", "same")}


def test_chain_of_replacements_is_followed_to_its_end(tmp_path):
    gone = "is_obsolete: true"
    (tmp_path / "x.obo").write_text(
        term("X:1", "alt_id: X:10", "alt_id: X:1", "alt_id:")
        + term("X:2", gone, "replaced_by: X:3")
        + term("X:3", gone, "replaced_by: X:10")
        + term("X:4", gone, "replaced_by: X:5")
        + term("X:5", gone)
        + term("X:6", gone, "replaced_by: X:7")
        + term("X:7", gone, "replaced_by: X:6")
        + term("X:8", gone, "replaced_by: X:1", "replaced_by: Y:1")
        + term("X:9", "alt_id: X:20")
        + term("X:21", "alt_id: X:9")
        + term("X:30", "alt_id: X:31", "replaced_by: X:1")
        + term("X:31", "alt_id: X:30")
    )
    terminology, _ = read_ontology(tmp_path / "x.obo")
    assert retired(terminology) == {
        ("X:10", "X:1", "same"),
        ("X:2", "X:1", "same"),
        ("X:3", "X:1", "same"),
        ("X:4", None, "deleted"),
        ("X:5", None, "deleted"),
        ("X:6", None, "deleted"),  # in a circle with X:7
        ("X:7", None, "deleted"),
        ("X:8", "X:1", "related"),
        ("X:8", "Y:1", "related"),
        ("X:9", "X:21", "same"),
        ("X:20", "X:21", "same"),
    }
    assert set(terminology.concepts["concept_id"].to_pylist()) == {
        "X:1",
        "X:21",
        "X:30",
        "X:31",
    }  # each keeps to itself in a circle


def test_label_in_ontology_stays_preferred_name(tmp_path):
    (tmp_path / "x.obo").write_text("[Term]\nid: X:1\nname: B\nalt_id: X:2\n\n[Term]\nid: X:2\nname: A\n")
    terminology, _ = read_ontology(tmp_path / "x.obo")
    assert rows(terminology, "concept_id", "name", "kind") == {("X:1", "A", "synonym"), ("X:1", "B", "preferred")}
    assert terminology.concepts["preferred_name"].to_pylist() == ["B"]


@pytest.mark.parametrize("tag", ["replaced_by", "alt_id"])
def test_too_long_chain_of_replacements_is_refused(tmp_path, tag):
    ids = [f"X:{i}" for i in range(5000)]
    one = term("X:living", "alt_id: X:0") if tag == "alt_id" else term("X:living")
    many = [
        term(a, *([f"alt_id: {b}"] if tag == "alt_id" else ["is_obsolete: true", f"replaced_by: {b}"]))
        for a, b in pairwise(ids)
    ]
    (tmp_path / "x.obo").write_text(one + "".join(many))
    with pytest.raises(
        DataError, match=r"x\.obo: expected at most 100 identifiers to be replaced one by another, found more from X:"
    ):
        read_ontology(tmp_path / "x.obo")


def test_prefixes_select_ontologies_in_one_file(tmp_path):
    borrowed = term("UBERON:1", "alt_id: UBERON:2", "xref: FMA:1") + term("UBERON:3", "is_obsolete: true")
    (tmp_path / "mondo.base.obo").write_text(term("MONDO:1", "alt_id: MONDO:2", "xref: EFO:1") + borrowed)
    everything, _ = read_ontology(tmp_path / "mondo.base.obo")
    assert rows(everything, "concept_id", "source") == {("MONDO:1", "mondo"), ("UBERON:1", "mondo")}
    own, counts = read_ontology(tmp_path / "mondo.base.obo", source="Mondo", prefixes={"MONDO"})
    assert rows(own, "concept_id", "source") == {("MONDO:1", "Mondo")}
    assert retired(own) == {("MONDO:2", "MONDO:1", "same")}
    assert dict(counts.dropped) == {"concept of another ontology": 1, "obsolete concept": 1}
    with pytest.raises(
        DataError, match=r"mondo\.base\.obo has no identifiers that begin with 'HP'; it has MONDO, UBERON"
    ):
        read_hpo(tmp_path / "mondo.base.obo")


def test_source_name_is_used_for_translations(files, tmp_path):
    terminology, _ = read_ontology(files[0], files[1], source="mine", scopes=None)
    assert set(terminology.names["source"].to_pylist()) == {"mine", "mine-translations"}
    assert terminology.metadata["source"] == "mine"
    assert set(terminology.metadata["files"]) == {"hp.obo", "hp-de.babelon.tsv", "hp-fr.synonyms.tsv"}


def test_compressed_ontology_gives_the_same_terminology(files, tmp_path):
    (tmp_path / "HP.OBO.gz").write_bytes(gzip.compress(files[0].read_bytes()))
    packed, plain = read_hpo(tmp_path / "HP.OBO.gz")[0], read_hpo(files[0])[0]
    assert (packed.names, packed.concepts, packed.retired) == (plain.names, plain.concepts, plain.retired)
    (tmp_path / "cut.obo.gz").write_bytes((tmp_path / "HP.OBO.gz").read_bytes()[:-20])
    with pytest.raises(
        DataError,
        match=r"cut\.obo\.gz: expected a whole compressed file, found its end too early. Is the file cut short",
    ):
        read_hpo(tmp_path / "cut.obo.gz")
    (tmp_path / "not.obo.gz").write_text(OBO)
    with pytest.raises(
        DataError,
        match=r"not\.obo\.gz: expected a \.gz file: Not a gzipped file .*Is it damaged, or not compressed at all",
    ):
        read_hpo(tmp_path / "not.obo.gz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.txt",
            b"",
            "x.txt: expected an ontology as .obo, .owl, .json or one of them with .gz, found the ending '.txt'",
        ),
        ("x.obo", None, "x.obo: expected a file, found nothing there. Is the path right?"),
        (
            "x.obo",
            b"[Term]\nid: A\nname: fi\xe8vre\n",
            "x.obo:3: expected UTF-8, found byte 0xe8 at column 9 of the line; convert the file to UTF-8",
        ),
        ("x.obo", b"[Term]\nid: \nname: x\n", "x.obo:1: expected one id in this [Term], found 0"),
    ],
)
def test_unknown_ontology_format_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_ontology(tmp_path / name)
    assert str(caught.value) == f"{tmp_path}/{message}"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("Fever", "Fever"),
        ("Fever  ! a {comment}", "Fever"),
        ('Fever {source="x", y="}"} ! z', "Fever"),
        ("Fever {a} {b}", "Fever"),
        ("Fever {not closed", "Fever {not closed"),
        ("Fever {closed} early", "Fever {closed} early"),
        (r"Fever \! \{really\} high\\", "Fever ! {really} high\\"),
        ("Fever!", "Fever!"),
    ],
)
def test_obo_modifiers_and_comments_are_removed_from_names(tmp_path, value, name):
    (tmp_path / "x.obo").write_text(f"[Term]\nid: X:1\nname: {value}\n")
    assert read_obo(tmp_path / "x.obo").names[0].name == name


@pytest.mark.parametrize("value", [" {" * 100_000, "{ " * 100_000 + "}x", "} " * 100_000, '"' + '\\"' * 100_000])
def test_obo_line_with_many_escapes_is_read_in_linear_time(tmp_path, value):
    (tmp_path / "x.obo").write_text(f"[Term]\nid: X:1\nname: x{value}\n")
    start = time.process_time()
    assert read_obo(tmp_path / "x.obo").living == {"X:1"}
    assert time.process_time() - start < 2


def test_empty_cross_reference_is_ignored(tmp_path):
    (tmp_path / "x.obo").write_text(
        term("X:1", "xref:", 'xref: UMLS:C1 "text"', "xref: http://purl.obolibrary.org/obo/FMA_7")
    )
    terminology, _ = read_ontology(tmp_path / "x.obo")
    assert terminology.concepts["cross_references"].to_pylist() == [["FMA:7", "UMLS:C1"]]
    (tmp_path / "y.obo").write_text(term("X:1", "xref:"))
    assert read_ontology(tmp_path / "y.obo")[0].concepts["cross_references"].to_pylist() == [[]]


def test_ontology_command_reads_any_ontology(files, tmp_path, prepare):
    words = ["ontology", files[0], "--translations", files[1], "--source", "mine"]
    code, out, err = prepare(*words, "--out", tmp_path / "out", "--scopes", "all", "--prefixes", "HP")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"{tmp_path}/out: 4 concepts"
    saved = Terminology.load(tmp_path / "out")
    expected, _ = read_ontology(*files, source="mine", scopes=None, prefixes={"HP"})
    assert (saved.names, saved.concepts, saved.retired) == (expected.names, expected.concepts, expected.retired)
    assert saved.retired.num_rows == 3
    message = f"error: {files[0]} has no identifiers that begin with 'MP'; did you mean 'HP'?\n"
    assert prepare(*words, "--out", tmp_path / "out2", "--prefixes", "MP") == (2, "", message)


@pytest.mark.parametrize(
    "iri",
    [
        "http://purl.obolibrary.org/obo/HP_0000118",
        "http://x.org/HP_0000118",
        "http://x.org/a#HP_0000118",
        "#HP_0000118",
    ],
)
def test_an_iri_becomes_an_identifier(iri):
    assert identifier(f" {iri}\n") == "HP:0000118"


@pytest.mark.parametrize(
    "text",
    [
        "HP:0000118",
        "http://x.org/a#part_of",
        "http://x.org/_1",
        "http://x.org/a_b_",
        "Wikipedia:A/B_1",
        "",
        "http://x/1_2",
    ],
)
def test_what_is_no_such_iri_stays(text):
    assert identifier(text) == text
