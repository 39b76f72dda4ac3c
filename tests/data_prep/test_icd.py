"""ICD-10-CM's tabular list and ClaML: generated classifications read by plain functions too, and what files have that is special."""

import gzip
import hashlib
import itertools
import json
import re
import zipfile
from collections import Counter
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.icd import read_icd
from tests.fixtures.classifications import (
    claml,
    class_of,
    diag,
    label,
    modified_by,
    modifier,
    names,
    notes,
    read_text,
    rows,
    rubric,
    seventh,
    tabular,
)
from tests.fixtures.examples import examples
from xsap.errors import DataError

# ICD-10-CM


ENCOUNTERS = {"A": "initial encounter", "D": "subsequent encounter", "S": "sequela"}


def test_published_tabular_list_is_read(tmp_path):
    text = tabular(
        diag(
            "A00",
            "Fracture &amp; more",
            notes("includes", "an example"),
            notes("excludes1", "another (B00)", "a third"),
            notes("sevenChrNote", "The appropriate 7th character is to be added to each code from category A00"),
            seventh(**ENCOUNTERS).replace("</sevenChrDef>", "<note>Fall from stool</note></sevenChrDef>"),
            diag("A00.0", "Fracture of toe", notes("inclusionTerm", " Toe \n broken ", "Fracture of\ttoe")),
            f'<diag placeholder="true"><name>A00.1X</name><desc>Of foot</desc>{diag("A00.1X1", "Of foot, right")}</diag>',
            diag("A00.2", "Own characters", seventh(_0="stage 0"), diag("A00.21", "Below")),
        )
        + diag("A01", "Whole"),
        chapter_notes=notes("includes", "chapter's") + notes("notes", "more"),
    )
    terminology, counts = read_text(tmp_path, text)
    assert names(terminology) == {
        ("A00", "Fracture & more", "preferred"),
        ("A00.0", "Fracture of toe", "preferred"),
        ("A00.0", "Toe broken", "synonym"),
        ("A00.0XXA", "Fracture of toe, initial encounter", "preferred"),
        ("A00.0XXD", "Fracture of toe, subsequent encounter", "preferred"),
        ("A00.0XXS", "Fracture of toe, sequela", "preferred"),
        ("A00.1X", "Of foot", "preferred"),
        ("A00.1X1", "Of foot, right", "preferred"),
        ("A00.1X1A", "Of foot, right, initial encounter", "preferred"),
        ("A00.1X1D", "Of foot, right, subsequent encounter", "preferred"),
        ("A00.1X1S", "Of foot, right, sequela", "preferred"),
        ("A00.2", "Own characters", "preferred"),
        ("A00.21", "Below", "preferred"),
        ("A00.21X0", "Below, stage 0", "preferred"),
        ("A01", "Whole", "preferred"),
    }
    assert {row[1] for row in rows(terminology)} == {"en"}
    assert dict(counts.dropped) == {
        "chapter, no code": 3,
        "section, no code": 1,
        "includes note": 1,
        "excludes1 note": 2,
        "sevenChrNote note": 1,
        "note of a seventh character": 1,
        "same name of the same concept": 1,
    }
    assert terminology.metadata["remarks"] == [
        "7 codes in the file",
        "1 sections left out",
        "1 chapters left out",
        "7 codes with a seventh character",
    ]
    assert set(terminology.names["source"].to_pylist()) == {"ICD10CM"}


letters = (
    st.text(st.sampled_from("ab <&\"'é热"), min_size=1, max_size=8)
    .map(lambda text: " ".join(text.split()))
    .filter(bool)
)
definitions = st.dictionaries(st.sampled_from("ADS0123"), letters, max_size=3)


@st.composite
def code_trees(draw, parent="", depth=0):
    """(code, title, inclusion terms, seventh characters, codes below)."""
    flat = parent or draw(st.sampled_from(["A00", "B1A", "S02"]))
    below = []
    if depth < 3:
        characters = draw(st.lists(st.sampled_from("019X"), unique=True, max_size=2 if depth else 3))
        below = [draw(code_trees(parent=flat + character, depth=depth + 1)) for character in characters]
    return flat, draw(letters), draw(st.lists(letters, max_size=2)), draw(definitions), below


def with_dot(flat):
    return flat[:3] + ("." + flat[3:] if flat[3:] else "")


def as_diag(tree):
    flat, title, terms, characters, below = tree
    inside = [notes("inclusionTerm", *map(escape, terms))] if terms else []
    if characters:
        inside.append(seventh(**{f"_{key}": escape(text) for key, text in characters.items()}))
    return diag(with_dot(flat), escape(title), *inside, *map(as_diag, below))


def expected_codes(tree, inherited=()):
    """The plain reading: every code with its names, by recursion."""
    flat, title, terms, characters, below = tree
    found = {with_dot(flat): {title, *terms}}
    applied = characters or dict(inherited)
    for each in below:
        found |= expected_codes(each, applied)
    if not below:
        for character, meaning in applied.items():
            found[with_dot(flat + "X" * (6 - len(flat)) + character)] = {f"{title}, {meaning}"}
    return found


@settings(max_examples=examples(60), deadline=None)
@given(tree=code_trees())
def test_tabular_list_is_what_a_recursive_reading_finds(tree, tmp_path_factory):
    terminology, counts = read_text(tmp_path_factory.mktemp("icd"), tabular(as_diag(tree)))
    found = {}
    for concept_id, name, _ in names(terminology):
        found.setdefault(concept_id, set()).add(name)
    expected = expected_codes(tree)
    assert found == expected
    assert counts.kept == sum(map(len, expected.values()))


@pytest.mark.parametrize(
    ("note", "excluded"),
    [
        (
            "7th characters D and S do not apply to codes in category A00 with 6th character 7 - death due to injury prior "
            "to regaining consciousness, or 8 - death due to other cause.",
            {"A00.1X7D", "A00.1X7S", "A00.1X8D", "A00.1X8S"},
        ),
        ("7th character S does not apply to codes in subcategory A00.1 with 6th character 9", {"A00.1X9S"}),
        ("7th characters A, D, and S do not apply to codes in category B99 with 6th character 7", set()),
    ],
)
def test_seventh_characters_that_a_note_excludes_are_left_out(tmp_path, note, excluded):
    codes = [diag(f"A00.1X{sixth}", f"Of kind {sixth}") for sixth in "789"]
    text = tabular(diag("A00", "All", notes("notes", note), seventh(**ENCOUNTERS), diag("A00.1", "Some", *codes)))
    terminology, counts = read_text(tmp_path, text)
    every = {f"A00.1X{sixth}{character}" for sixth in "789" for character in "ADS"}
    found = {row[0] for row in names(terminology)}
    assert every - found == excluded
    assert counts.dropped.get("seventh character that a note excludes", 0) == len(excluded)


def test_inclusion_terms_after_a_colon_continue_it(tmp_path):
    text = tabular(
        diag("A00", "Angiostrongyliasis", notes("inclusionTerm", "Of gut", "Infection due to:", "A. one", "A. two"))
        + diag("A01", "Other", notes("inclusionTerm", "Alone"))
    )
    terminology, counts = read_text(tmp_path, text)
    assert {name for _, name, kind in names(terminology) if kind == "synonym"} == {
        "Of gut",
        "Infection due to A. one",
        "Infection due to A. two",
        "Alone",
    }
    assert dict(counts.dropped) == {
        "beginning of inclusion terms": 1, "chapter, no code": 1, "section, no code": 1
    }  # fmt: skip


def test_repeated_and_explicit_codes_are_merged_and_counted(tmp_path):
    text = tabular(
        diag("A00", "First", seventh(A="initial"), diag("A00.123", "Listed", diag("A00.123A", "Listed itself")))
        + diag("A00.123", "Again", seventh(A="initial", D="later"))
    )
    terminology, counts = read_text(tmp_path, text)
    preferred = dict(
        zip(*(terminology.concepts[name].to_pylist() for name in ("concept_id", "preferred_name")), strict=True)
    )
    assert preferred == {
        "A00": "First",
        "A00.123": "Listed",
        "A00.123A": "Listed itself",
        "A00.123D": "Again, later",
    }
    assert ("A00.123", "Again", "synonym") in names(terminology)
    assert counts.dropped["seventh character whose code the file lists itself"] == 1
    assert "1 codes that the file lists twice" in terminology.metadata["remarks"]


# ClaML


def test_published_claml_is_read(tmp_path):
    text = claml(
        '<Meta name="TopLevelSort" value="I"/>',
        class_of("I", rubric("preferred", "Kapitel"), kind="chapter"),
        class_of("A00-A09", rubric("preferred", "Gruppe"), rubric("inclusion", "Ein Teil"), kind="block", above="I"),
        class_of(
            "A00",
            '<SubClass code="A00.0"/><SubClass code="A00.9"/>',
            rubric("preferred", "Cholera", label("Cholera asiatica", "la-x"), label("choléra", "fr")),
            rubric("exclusion", 'Ruhr (<Reference code="A03">A03</Reference>)'),
            rubric("note", "<Para>Ein Hinweis</Para>"),
            above="A00-A09",
        ),
        class_of(
            "A00.0",
            rubric("preferred", "Klassisch"),
            rubric("preferredLong", "Klassische\n Cholera"),
            rubric("inclusion", 'Eltor (<Reference class="in brackets" code="G01" usage="aster">G01</Reference>)'),
            rubric(
                "inclusion", '<Fragment type="item">Infektion durch:</Fragment> <Fragment type="list">Vibrio</Fragment>'
            ),
            rubric("inclusion", 'Vitamin-B<Term class="subscript">12</Term>-Mangel [<Reference>D51†</Reference>, ]'),
            rubric("coding-hint", "Schlüssel!"),
            above="A00",
            usage="dagger",
        ),
        class_of("A00.9†", rubric("preferred", "Sonstige (G01*, G02.1*)"), above="A00"),
    )
    terminology, counts = read_text(tmp_path, text)
    assert rows(terminology) == {
        ("A00", "de", "Cholera", "preferred"),
        ("A00", "fr", "choléra", "preferred"),
        ("A00.0", "de", "Klassische Cholera", "preferred"),
        ("A00.0", "de", "Eltor", "synonym"),
        ("A00.0", "de", "Infektion durch Vibrio", "synonym"),
        ("A00.0", "de", "Vitamin-B12-Mangel", "synonym"),
        ("A00.9", "de", "Sonstige", "preferred"),
    }
    assert dict(counts.dropped) == {
        "language unknown to xsap: la-x": 1,
        "chapter, no code": 1,
        "block, no code": 2,
        "rubric of kind exclusion": 1,
        "rubric of kind note": 1,
        "rubric of kind coding-hint": 1,
        "title below that of the class above, beside a full title": 1,
    }
    assert set(terminology.names["source"].to_pylist()) == {"ICD-10-XX"}


DIABETES = {".0": "Mit Koma", ".1": "Mit Ketoazidose", ".9": "Ohne Komplikation"}
CONTROL = {"0": "Nicht entgleist", "1": "Entgleist"}


def test_modifiers_apply_one_after_another(tmp_path):
    text = claml(
        class_of(
            "E10",
            modified_by("S04E10_5"),  # the position, not the order in the file, decides
            modified_by("S04E10_4"),
            rubric("preferred", "Diabetes, Typ 1"),
        ),
        modifier("S04E10_4", DIABETES),
        modifier("S04E10_5", CONTROL, {"0": "S04E10_4 .1"}),
    )
    terminology, counts = read_text(tmp_path, text)
    assert {row[:2] for row in names(terminology)} == {
        ("E10", "Diabetes, Typ 1"),
        ("E10.0", "Diabetes, Typ 1: Mit Koma"),
        ("E10.00", "Diabetes, Typ 1: Mit Koma: Nicht entgleist"),
        ("E10.01", "Diabetes, Typ 1: Mit Koma: Entgleist"),
        ("E10.1", "Diabetes, Typ 1: Mit Ketoazidose"),
        ("E10.11", "Diabetes, Typ 1: Mit Ketoazidose: Entgleist"),
        ("E10.9", "Diabetes, Typ 1: Ohne Komplikation"),
        ("E10.90", "Diabetes, Typ 1: Ohne Komplikation: Nicht entgleist"),
        ("E10.91", "Diabetes, Typ 1: Ohne Komplikation: Entgleist"),
    }
    assert dict(counts.dropped) == {"modifier class excluded after an earlier modifier": 1}


@pytest.mark.parametrize(
    ("elements", "codes"),
    [
        # at a class with subdivisions: for each of them
        ([class_of("I70", modified_by("M_5")), class_of("I70.0", above="I70")], ["I70.00", "I70.01"]),
        # of a class without subdivisions, and bare: the fourth character, or the fifth after a filler
        ([class_of("W00", modified_by("M_4"))], ["W00.0", "W00.1"]),
        ([class_of("M45", modified_by("M_5"))], ["M45.X0", "M45.X1"]),
        ([class_of("M45", modified_by("M", position="5"))], ["M45.X0", "M45.X1"]),
        ([class_of("5-433.3", modified_by("M"))], ["5-433.30", "5-433.31"]),
        # of a block, and inherited but for one class
        (
            [
                class_of("S00-S09", modified_by("M_5"), kind="block"),
                class_of("S02", above="S00-S09"),
                class_of("S02.0", above="S02"),
                class_of("S02.1", '<ExcludeModifier code="M_5"/>', above="S02"),
            ],
            ["S02.00", "S02.01"],
        ),
        # a subdivision stated by the class above only
        ([class_of("I70", modified_by("M_5"), '<SubClass code="I70.2"/>'), class_of("I70.2")], []),
        # a subdivision that the file does not have is none
        ([class_of("I70.0", modified_by("M_5"), '<SubClass code="I70.00"/><SubClass code="I70.09"/>')], ["I70.00", "I70.01"]),
        # without positions, that of the class above is first
        (
            [class_of("S02", modified_by("M")), class_of("S02.0", modified_by("O"), above="S02")],
            ["S02.00", "S02.00a", "S02.01", "S02.01a"],
        ),
        # only valid ones; `all` is said, or the list says it
        ([class_of("M00.0", modified_by("M_5", valid=["1"]))], ["M00.01"]),
        ([class_of("M00.0", modified_by("M_5", valid=["1"], all_="false"))], ["M00.01"]),
        ([class_of("M00.0", modified_by("M_5", valid=["1"], all_="true"))], ["M00.00", "M00.01"]),
        ([class_of("M00.0", modified_by("M_5", all_="false"))], []),
        # the nearest statement about a modifier has precedence
        (
            [class_of("M00", modified_by("M_5")), class_of("M00.0", modified_by("M_5", valid=["0"]), above="M00")],
            ["M00.00"],
        ),
        # a listed code stays as it is listed
        (
            [class_of("I70", modified_by("M_5")), class_of("I70.0", above="I70"), class_of("I70.00")],
            ["I70.01"],
        ),
        # a link in place of ModifiedBy, and an unknown modifier
        ([class_of("M13.0", '<Rubric kind="modifierlink"><Label xml:lang="de"><Reference code="M_5">s</Reference></Label></Rubric>')], ["M13.00", "M13.01"]),
        ([class_of("M13.0", modified_by("unknown"))], []),
        # classes above one another in a circle
        ([class_of("A00", above="A01"), class_of("A01", modified_by("M_5"), above="A00"), class_of("A02", above="A00")], ["A02.X0", "A02.X1"]),
        # a modifier with a dot is of the fourth character, which the code may have already
        ([class_of("E10", modified_by("D_4")), class_of("E10.0", above="E10")], []),
    ],
)  # fmt: skip
def test_modifier_makes_codes(tmp_path, elements, codes):
    modifiers = [modifier(name, {"0": "null", "1": "eins"}) for name in ("M", "M_4", "M_5")]
    given_codes = re.findall(r'<Class code="([^"]+)" kind="category"', "".join(elements))
    titled = [re.sub(r"(<Class [^>]*>)", rf"\1{rubric('preferred', 'Titel')}", one) for one in elements]
    terminology, counts = read_text(
        tmp_path, claml(*titled, *modifiers, modifier("D_4", DIABETES), modifier("O", {"a": "offen"}))
    )
    found = dict(zip(terminology.concepts["concept_id"].to_pylist(), terminology.concepts["preferred_name"].to_pylist(), strict=True))  # fmt: skip
    assert sorted(found.keys() - set(given_codes)) == codes
    assert {found[code] for code in codes} <= {
        f"Titel: {one}{two}" for one in ("null", "eins") for two in ("", ": offen")
    }
    assert all(found[code] == "Titel" for code in given_codes)
    assert counts.rows_in == counts.kept + sum(counts.dropped.values())


def test_modifier_names_are_in_the_languages_of_both(tmp_path):
    parts = rubric("preferred", label("offen", "de"), label("open", "nl")) + rubric(
        "inclusion", label("klaffend", "de")
    )
    text = claml(
        class_of("S02.0", modified_by("M"), rubric("preferred", label("Bruch"), label("Fracture", "en"))),
        f'<Modifier code="M">{rubric("preferred", "Offen oder nicht")}</Modifier>',
        f'<ModifierClass modifier="M" code="1">{parts}{rubric("note", "x")}</ModifierClass>',
    )
    terminology, counts = read_text(tmp_path, text)
    assert rows(terminology) == {
        ("S02.0", "de", "Bruch", "preferred"),
        ("S02.0", "en", "Fracture", "preferred"),
        ("S02.01", "de", "Bruch: offen", "preferred"),
        ("S02.01", "de", "Bruch: klaffend", "synonym"),
    }
    assert dict(counts.dropped) == {
        "modifier, no code": 1,
        "modifier class in a language without a title of the code": 1,
        "rubric of kind note": 1,
    }


choice = st.lists(st.sampled_from("0123"), unique=True, min_size=1, max_size=3)


@settings(max_examples=examples(60), deadline=None)
@given(
    first=choice,
    second=choice,
    valid=st.none() | choice,
    excluded=st.dictionaries(st.sampled_from("0123"), st.sampled_from("0123")),
    listed=st.lists(st.sampled_from(["A00.0", "A00.1", "A00.12"]), unique=True),
)
def test_modifiers_are_what_a_product_of_characters_gives(first, second, valid, excluded, listed, tmp_path_factory):
    text = claml(
        class_of("A00", modified_by("M_4", valid), modified_by("N_5"), rubric("preferred", "t")),
        *(class_of(code, rubric("preferred", "listed")) for code in listed),
        modifier("M_4", {one: f"m{one}" for one in first}),
        modifier("N_5", {one: f"n{one}" for one in second}, {one: f"M_4 {of}" for one, of in excluded.items()}),
    )
    terminology, counts = read_text(tmp_path_factory.mktemp("claml"), text)
    expected = {"A00": "t"} | dict.fromkeys(listed, "listed")
    fourth = [one for one in first if valid is None or one in valid]
    made = [one for one in fourth if f"A00.{one}" not in listed]
    for one in made:
        expected[f"A00.{one}"] = f"t: m{one}"
    for one, two in itertools.product(made, second):
        if excluded.get(two) != one:
            expected.setdefault(f"A00.{one}{two}", f"t: m{one}: n{two}")
    if not made:
        for two in second:
            expected.setdefault(f"A00.X{two}", f"t: n{two}")
    concepts = (terminology.concepts[name].to_pylist() for name in ("concept_id", "preferred_name"))
    assert dict(zip(*concepts, strict=True)) == expected
    assert counts.kept == len(expected)


def test_language_is_inherited_or_given(tmp_path):
    plain = class_of("A00", '<Rubric kind="preferred"><Label>Choléra</Label></Rubric>')
    for root, meta, options in (
        (' xml:lang="fr"', "", {}),
        ("", '<Meta name="lang" value="fr"/>', {}),
        ("", "", {"language": "French"}),
        (' xml:lang="fr"', '<Meta name="lang" value="de"/>', {"language": "es"}),
    ):
        terminology, _ = read_text(tmp_path, claml(meta, plain, root=root), **options)
        assert {row[:3] for row in rows(terminology)} == {("A00", "fr", "Choléra")}
    with pytest.raises(DataError, match="expected xml:lang at the labels, found none at A00; state it: --language"):
        read_text(tmp_path, claml(plain))
    terminology, counts = read_text(tmp_path, claml(class_of("A00", rubric("preferred", label("x", "qqq"), "y"))))
    assert (terminology.names.num_rows, dict(counts.dropped)) == (1, {"language unknown to xsap: qqq": 1})


# What is neither

BOMB = '<!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b "' + "&a;" * 10 + '">]>'
GOOD = {
    "tabular": tabular(diag("A00", "Fever", notes("inclusionTerm", "Hot"), seventh(**ENCOUNTERS))),
    "claml": claml(class_of("A00", modified_by("M"), rubric("preferred", "Fieber")), modifier("M", CONTROL)),
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: expected ICD-10-CM's tabular list (ICD10CM.tabular) or ClaML, as XML: no element found"),
        ("A00 Cholera\n", ":1: expected ICD-10-CM's tabular list (ICD10CM.tabular) or ClaML, as XML: syntax error"),
        ("<ICD10PCS.tabular/>", ": expected ICD-10-CM's tabular list (ICD10CM.tabular) or ClaML, as XML, found ICD10PCS.tabular"),
        ("<ICD10CM.tabular/>", ": expected codes (diag) in ICD10CM.tabular, found none. Is the file whole?"),
        ("<ClaML><Class code='I' kind='chapter'/></ClaML>", ": expected classes of the kind category, found none."),
        ("<ClaML><Class kind='category'/></ClaML>", ": expected a code at every Class, found none after the beginning"),
        ("<ClaML><Class code='A'/><Class code='A'/></ClaML>", ": expected each code once, found two classes A; remove one"),
        (tabular(diag("A00", "x") + "<diag><desc>y</desc></diag>"), ": expected a code in <name> of every <diag>, found none after A00"),
        (BOMB + "<ICD10CM.tabular>&b;</ICD10CM.tabular>", ":1: expected a DTD of short texts such as namespaces, found the entity 'b'"),
        (BOMB + "<ClaML>&b;</ClaML>", ":1: expected a DTD of short texts such as namespaces, found the entity 'b'"),
        (tabular("<diag>" * 5000), ": expected ICD-10-CM's tabular list as XML, found elements nested 101 deep."),
        ("<ClaML><Class>" + "<Label>" * 5000, ": expected ClaML, found elements nested 101 deep."),
    ],
)  # fmt: skip
def test_other_files_are_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(DataError) as caught:
        read_text(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'x.xml'}{message}")
    assert "\n" not in str(caught.value)


# Zips, as published


def zipped(tmp_path, name="icd.zip", **files):
    """A zip of these files: `a__b` is b.xml in the folder a."""
    with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, text in files.items():
            archive.writestr(file.replace("__", "/") + ("" if "." in file else ".xml"), text)
    return tmp_path / name


def names_or_error(path):
    try:
        return rows(read_icd(path)[0])
    except DataError as error:
        return str(error)


INDEX = "<ICD10CM.index><title>A</title></ICD10CM.index>"


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize(
    "beside", [{}, {"index": INDEX, "x__ClaML.dtd": "<!ELEMENT", "__MACOSX/._x.xml": GOOD["claml"]}]
)
def test_zip_gives_what_its_only_classification_gives(tmp_path, kind, beside):
    file = zipped(tmp_path, **beside, Data__x=GOOD[kind])
    terminology, counts = read_icd(file)
    expected, same = read_text(tmp_path, GOOD[kind])
    assert counts == same
    for table in ("names", "concepts", "definitions", "relations"):
        assert getattr(terminology, table).equals(getattr(expected, table)), table
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    of_file = {key: value for key, value in expected.metadata.items() if key != "files"}
    assert terminology.metadata == of_file | {"files": {"icd.zip": sha256}, "members": {"icd.zip": "Data/x.xml"}}
    assert "members" not in expected.metadata


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"b": GOOD["claml"], "a": GOOD["tabular"], "c": INDEX}, r"found 2: .*icd\.zip/a\.xml, .*icd\.zip/b\.xml\. Unpack it, and give one of them$"),
        ({"a\n\x1b": INDEX, "b": INDEX}, r"found others: .*icd\.zip/a\?\?\.xml, .*/b\.xml\. Is it the right zip\? .* unpack it and give the file$"),
        ({str(n): INDEX for n in range(9)}, r"/4\.xml, …\. Is it the right zip"),
        ({"a": INDEX, "b": "<a", "c": BOMB + GOOD["claml"]}, r"found none, and 2 that can't be read; the first is .*/b\.xml:1: expected .* as XML: unclosed token"),
        ({"a": "<x/>"}, r"icd\.zip/a\.xml: expected ICD-10-CM's tabular list \(ICD10CM\.tabular\) or ClaML, as XML, found x$"),
        ({"a": GOOD["tabular"][:-9]}, r"icd\.zip/a\.xml:\d+: expected ICD-10-CM's tabular list as XML: unclosed token"),
        ({"a": BOMB + "<ClaML>&b;</ClaML>"}, r"icd\.zip/a\.xml:1: expected a DTD of short texts"),
        ({"a.txt": "x", "b.zip": "x", "c.xml.gz": "x"}, r"found no \.xml file\. Is it in another zip in this one\?"),
        ({}, r"found no \.xml file"),
    ],
)  # fmt: skip
def test_zip_without_exactly_one_classification_is_refused_in_one_line(tmp_path, files, message):
    with pytest.raises(DataError, match=message) as caught:
        read_icd(zipped(tmp_path, **files))
    assert str(caught.value).startswith(str(tmp_path / "icd.zip"))
    assert str(caught.value).isprintable()


def test_hostile_and_damaged_zips_are_refused_in_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("x.xml", b" " * (80 << 20))
    with pytest.raises(
        DataError, match=r"x\.zip/x\.xml: expected at most 400 times the compressed size, found 83,886,080 bytes"
    ):
        read_icd(tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "y.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.xml", GOOD["claml"])
    with pytest.raises(
        DataError, match=r"y\.zip/x\.xml: expected a deflated file in the zip, found one in LZMA; unpack it"
    ):
        read_icd(tmp_path / "y.zip")
    whole = zipped(tmp_path, x=GOOD["claml"]).read_bytes()
    encrypted = bytearray(whole)
    encrypted[whole.rindex(b"PK\x01\x02") + 8] |= 1
    for content, message in (
        (encrypted, "expected a zip without a password, found an encrypted one; unpack it"),
        (b"PK\x03\x04...", "expected a zip file, found: File is not a zip file. Is it damaged"),
    ):
        (tmp_path / "z.zip").write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_icd(tmp_path / "z.zip")
    expected = rows(read_icd(tmp_path / "icd.zip")[0])
    for at in range(0, len(whole), 7):
        (tmp_path / "z.zip").write_bytes(whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :])
        found = names_or_error(tmp_path / "z.zip")
        assert found == expected or (isinstance(found, str) and found.isprintable())


@pytest.mark.parametrize("kind", GOOD)
def test_truncated_file_is_refused_and_compressed_one_is_read(tmp_path, kind):
    content = GOOD[kind].encode()
    (tmp_path / "x.xml.gz").write_bytes(gzip.compress(content))
    expected = Counter(rows(read_icd(tmp_path / "x.xml.gz")[0]))
    assert Counter(rows(read_text(tmp_path, GOOD[kind])[0])) == expected
    for at in range(0, len(content), 23):
        (tmp_path / "x.xml").write_bytes(content[:at])
        with pytest.raises(DataError):
            read_icd(tmp_path / "x.xml")


def test_command_writes_a_terminology_and_reports_it(prepare, tmp_path):
    (tmp_path / "x.xml").write_text(GOOD["tabular"])
    code, out, err = prepare("icd", tmp_path / "x.xml", "--out", tmp_path / "out", "--source", "CM")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{tmp_path / 'out'}: 4 concepts"
    assert {"1 codes in the file", "3 codes with a seventh character"} <= set(lines)
    assert [line.split() for line in lines if line.startswith(("names in", "kept", "dropped"))] == [
        ["names", "in", "7"],
        ["kept", "5"],
        ["dropped", "2"],
        ["kept", "3"],  # relations: each code with a seventh character to that without
        ["dropped", "0"],
    ]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "icd" in json.dumps(manifest)
    assert prepare("icd", tmp_path / "gone.xml", "--out", tmp_path / "other")[0] == 2
