"""Wikidata: entities and rows in the published form, a naive second reader, and files that are not what they should be."""

import bz2
import gzip
import json
import tracemalloc
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.assemble import Assembly
from data_prep.wikidata import read_wikidata
from tests.fixtures.examples import examples
from tests.fixtures.json_damage import JSON_VALUES, paths_in, replace_at
from xsap.errors import DataError
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy, normalize


class Collected:
    """Stands in for an Assembly: keeps what it is given."""

    def __init__(self):
        self.rows = []

    def add_names(self, rows: pa.Table):
        self.rows += rows.to_pylist()


def read(path, **options):
    collected = Collected()
    counts, metadata = read_wikidata(path, collected, **{"key": "umls", **options})
    assert counts.kept == len(collected.rows)
    return collected.rows, counts, metadata


def short(rows):
    return Counter((row["concept_id"], row["language"], row["name"], row["code"], row["precedence"]) for row in rows)


def statement(value, prop="P2892", rank="normal", snaktype="value"):
    snak = {"snaktype": snaktype, "property": prop, "datatype": "external-id"}
    if snaktype == "value":
        snak["datavalue"] = {"value": value, "type": "string"}
    return {"mainsnak": snak, "type": "statement", "id": "Q1$0", "rank": rank, "references": [{"snaks": {"P248": []}}]}


def entity(item, labels, aliases, statements):
    claims = {}
    for one in statements:
        claims.setdefault(one["mainsnak"]["property"], []).append(one)
    return {
        "type": "item",
        "id": item,
        "labels": {code: {"language": code, "value": name} for code, name in labels.items()} or [],
        "descriptions": {"en": {"language": "en", "value": "not a name"}},
        "aliases": {code: [{"language": code, "value": name} for name in names] for code, names in aliases.items()}
        or [],
        "claims": claims or [],
        "sitelinks": {},
        "lastrevid": 1,
    }


ENTITIES = [
    {
        "type": "property",
        "id": "P2892",
        "datatype": "external-id",
        "labels": {"en": {"language": "en", "value": "UMLS CUI"}},
        "claims": [],
    },
    entity(
        "Q101",
        {
            "en": "made-up fever",
            "zh-hans": "编造的发烧",
            "zh-hant": "編造的發燒",
            "pt-br": "febre inventada",
            "sr-el": "groznica",
            "mul": "fever x",
        },
        {"en": ["invented fever", "made-up  fever"], "de-at": ["Fieber"], "nds": ["Fever"]},
        [statement("C9000001"), statement("HP:9000001", "P3841"), statement("D900001", "P486")],
    ),
    entity(
        "Q102",
        {"en": "cough", "nb": "hoste"},
        {},
        [statement("C9000002", rank="preferred"), statement("C9000003"), statement("C9000004", rank="deprecated")],
    ),
    entity("Q103", {"en": "sneeze"}, {}, [statement("C9000005", rank="deprecated"), statement("C9000005")]),
    entity(
        "Q104", {"en": "no value"}, {}, [statement(None, snaktype="novalue"), statement(None, snaktype="somevalue")]
    ),
    entity("Q105", {"fr": "fausse"}, {}, [statement("9000006")]),
    entity("Q106", {}, {}, [statement("C9000007")]),
    entity("Q107", {"en": "P2892 in a name"}, {}, []),
    {
        "type": "lexeme",
        "id": "L1",
        "lemmas": {"en": {"language": "en", "value": "cough"}},
        "forms": [],
        "claims": {"P2892": []},
    },
]
UMLS = [
    ("C9000001", "en", "made-up fever", "Q101", 1),
    ("C9000001", "zh", "编造的发烧", "Q101", 1),
    ("C9000001", "zh", "編造的發燒", "Q101", 1),
    ("C9000001", "pt", "febre inventada", "Q101", 1),
    ("C9000001", "sr", "groznica", "Q101", 1),
    ("C9000001", "mul", "fever x", "Q101", 1),
    ("C9000001", "en", "invented fever", "Q101", 0),
    ("C9000001", "en", "made-up fever", "Q101", 0),
    ("C9000001", "de", "Fieber", "Q101", 0),
    ("C9000002", "en", "cough", "Q102", 1),
    ("C9000002", "no", "hoste", "Q102", 1),
    ("C9000003", "en", "cough", "Q102", 1),
    ("C9000003", "no", "hoste", "Q102", 1),
    ("C9000005", "en", "sneeze", "Q103", 1),
]
DROPPED = {"language unknown to xsap: nds": 1, "deprecated statement": 2, "not an identifier of umls": 1}


def dump(entities):
    return "[\n" + ",\n".join(json.dumps(one) for one in entities) + "\n]\n"


FORMS = {
    "latest-all.json": dump(ENTITIES).encode(),
    "latest-all.json.gz": gzip.compress(dump(ENTITIES).encode()),
    "latest-all.json.bz2": bz2.compress(dump(ENTITIES).encode()),
    "lines.jsonl": "\n".join(json.dumps(one, ensure_ascii=False) for one in ENTITIES).encode(),
    "windows.json": dump(ENTITIES).replace("\n", "\r\n").encode() + b"\r\n",
    "pretty.json": json.dumps(ENTITIES, indent=1).encode(),
}


@pytest.mark.parametrize("name", FORMS)
def test_wikidata_dump_is_read(tmp_path, name):
    (tmp_path / name).write_bytes(FORMS[name])
    rows, counts, metadata = read(tmp_path / name)
    assert short(rows) == Counter(UMLS)
    assert (counts.rows_in, dict(counts.dropped)) == (len(UMLS) + 4, DROPPED)
    assert {(row["kind"], row["source"], row["status"]) for row in rows} == {("synonym", "Wikidata", None)}
    assert (metadata["property"], metadata["languages"], metadata["unknown_languages"]) == (
        "P2892",
        None,
        {"nds": 1},
    )
    assert metadata["in_all_languages"] == {"mul": 1}
    assert list(metadata["files"]) == [name]


def test_wikidata_keys_and_languages(tmp_path):
    (tmp_path / "d.json").write_bytes(FORMS["latest-all.json"])
    rows, counts, metadata = read(tmp_path / "d.json", key="hpo", languages={"de", "pt"})
    assert {(row["concept_id"], row["name"]) for row in rows} == {
        ("HP:9000001", "Fieber"),
        ("HP:9000001", "febre inventada"),
        ("HP:9000001", "fever x"),
    }
    assert dict(counts.dropped) == {"language unknown to xsap: nds": 1, "language not chosen": 6}
    assert metadata["languages"] == ["de", "pt"]
    rows, _, _ = read(tmp_path / "d.json", key="mesh", languages={"de"})
    assert {(row["concept_id"], row["name"]) for row in rows} == {("D900001", "Fieber"), ("D900001", "fever x")}


def with_label_for_all(*labels):
    return dump([entity("Q1", dict(zip(labels, labels, strict=True)), {"mul": ["alias"]}, [statement("C9000001")])])


@pytest.mark.parametrize(
    ("labels", "chosen", "languages"),
    [
        (("mul",), None, {"mul": "en", "alias": "en"}),
        (("mul", "de"), None, {"mul": "en", "alias": "en", "de": "de"}),
        (("mul", "en"), None, {"mul": "mul", "alias": "mul", "en": "en"}),
        (("en-gb", "mul"), None, {"mul": "mul", "alias": "mul", "en-gb": "en"}),
        (("mul", "de"), {"en"}, {"mul": "en", "alias": "en"}),
        (("mul", "en"), {"es"}, {"mul": "mul", "alias": "mul"}),
        (("mul",), {"es"}, {"mul": "mul", "alias": "mul"}),
        (("de",), {"de"}, {"alias": "mul", "de": "de"}),
    ],
)
def test_names_for_all_languages_are_english_where_no_english_label_is(tmp_path, labels, chosen, languages):
    (tmp_path / "d.json").write_text(with_label_for_all(*labels))
    rows, counts, metadata = read(tmp_path / "d.json", languages=chosen)
    assert {row["name"]: row["language"] for row in rows} == languages
    assert sum(metadata["in_all_languages"].values()) == len({"mul", "alias"} & languages.keys())
    assert counts.rows_in == len(labels) + 1


def test_report_says_which_languages_are_unknown(tmp_path):
    codes = {f"x{number:02}": f"name {number}" for number in range(12)}
    (tmp_path / "d.json").write_text(dump([entity("Q1", codes | {"en": "a"}, {"x11": ["b"]}, [statement("C9000001")])]))
    _, counts, metadata = read(tmp_path / "d.json")
    shown = "x11, x00, x01, x02, x03, x04, x05, x06 and 4 more"
    assert dict(counts.dropped) == {f"language unknown to xsap: {shown}": 13}
    assert metadata["unknown_languages"] == dict.fromkeys(codes, 1) | {"x11": 2}


# A query's result

FIELDS = ["item", "cui", "label", "alias"]


def uri(item):
    return {"type": "uri", "value": f"http://www.wikidata.org/entity/{item}"}


def literal(text, language=None):
    return {"type": "literal", "value": text} | ({"xml:lang": language} if language else {})


BINDINGS = [
    {
        "item": uri("Q101"),
        "cui": literal("C9000001"),
        "label": literal("made-up fever", "en"),
        "alias": literal("invented fever", "en"),
    },
    {"item": uri("Q101"), "cui": literal("C9000001"), "alias": literal("Fieber", "de-at")},
    {"item": uri("Q102"), "cui": literal("X1"), "label": literal("cough", "en")},
    {"item": uri("Q103"), "label": literal("sneeze", "en")},
    {"item": uri("Q104"), "cui": literal("C9000004"), "label": literal("Q104")},
    {"item": uri("Q105"), "cui": literal("C9000005"), "label": literal("x", "nds")},
    {"item": uri("Q106"), "cui": literal("C9000006")},
]
FLAT = [
    {
        field: value["value"] if field != "item" or i % 2 else value["value"].rpartition("/")[2]
        for field, value in row.items()
        if field not in ("label", "alias")
    }
    | ({name: row[name]["value"], "lang": row[name].get("xml:lang", "")})
    for i, row in enumerate(BINDINGS)
    for name in ("label", "alias")
    if name in row
]
ROWS = [
    ("C9000001", "en", "made-up fever", "Q101", 1),
    ("C9000001", "en", "invented fever", "Q101", 0),
    ("C9000001", "de", "Fieber", "Q101", 0),
]
ROWS_DROPPED = {
    "no identifier": 1,
    "not an identifier of umls": 1,
    "an item's number, not a name": 1,
    "language unknown to xsap: nds": 1,
}
RESULT = {"head": {"vars": FIELDS}, "results": {"bindings": BINDINGS}}
# As the servers write it: Blazegraph pretty, Virtuoso with a head on the first line.
VIRTUOSO = (
    '{ "head": '
    + json.dumps(RESULT["head"])
    + ',\n"results": { "bindings": [\n'
    + ",\n".join(map(json.dumps, BINDINGS))
    + "] } }"
)
RESULTS = {
    "result.json": json.dumps(RESULT),
    "pretty.json": json.dumps(RESULT, indent=2),
    "virtuoso.json": VIRTUOSO,
    "bindings.jsonl": "\n".join(map(json.dumps, BINDINGS)),
    "flat.jsonl": "\n\n".join(map(json.dumps, FLAT)) + "\n",
    "flat.json": json.dumps(FLAT),
    "lines.json": "[" + ",\n".join(map(json.dumps, FLAT)) + "]",
    "array.json": "[\n" + ",\n".join(map(json.dumps, FLAT)) + "\n]",
    "pretty-array.json": json.dumps(FLAT, indent=1),
}


@pytest.mark.parametrize("name", RESULTS)
def test_wikidata_query_result_is_read(tmp_path, name):
    (tmp_path / name).write_text(RESULTS[name])
    rows, counts, _ = read(tmp_path / name)
    assert short(rows) == Counter(ROWS)
    assert dict(counts.dropped) == ROWS_DROPPED


def test_wikidata_query_fields_may_have_other_names(tmp_path):
    (tmp_path / "x.jsonl").write_text(
        '{"qid": "Q1", "meshID": "D900001", "altLabel": "tos", "language": "spa"}\n{"P486": "D900002", "name": "x", "lang": "en"}'
    )
    rows, _, _ = read(tmp_path / "x.jsonl", key="mesh")
    assert [tuple(row.values())[:3] + (row["code"],) for row in rows] == [
        ("D900001", "es", "tos", "Q1"),
        ("D900002", "en", "x", None),
    ]


# A naive second reader

names = st.text(st.sampled_from('ab \té热\u200b"\\{}[],P2892'), max_size=6)
codes = st.sampled_from(["en", "de", "zh-hans", "zh-hant", "pt-br", "sr-el", "nb", "nds", "mul", "simple", "x"])
ISO = {"en": "en", "de": "de", "zh-hans": "zh", "zh-hant": "zh", "pt-br": "pt", "sr-el": "sr", "nb": "no"}
statements = st.builds(
    statement,
    st.sampled_from(["C9000001", "C9000002", "C900", "HP:9000001", "c9000001"]),
    st.sampled_from(["P2892", "P3841", "P31"]),
    st.sampled_from(["normal", "preferred", "deprecated"]),
    st.sampled_from(["value", "value", "novalue"]),
)
entities = st.builds(
    entity,
    st.integers(1, 9).map("Q{}".format),
    st.dictionaries(codes, names, max_size=3),
    st.dictionaries(codes, st.lists(names, max_size=3), max_size=3),
    st.lists(statements, max_size=3),
)


def naive(found):
    rows, dropped = Counter(), Counter()
    for one in found:
        values = {}
        for claim in (one["claims"] or {}).get("P2892", []):
            snak = claim["mainsnak"]
            if snak["snaktype"] == "value":
                values.setdefault(snak["datavalue"]["value"], []).append(claim["rank"])
        offered = [(code, value["value"], 1) for code, value in (one["labels"] or {}).items()]
        offered += [(code, value["value"], 0) for code, several in (one["aliases"] or {}).items() for value in several]
        for value, ranks in values.items():
            for code, name, precedence in offered:
                good = len(value) == 8 and value[0] == "C" and value[1:].isdigit()
                if set(ranks) == {"deprecated"}:
                    dropped["deprecated statement"] += 1
                elif not good:
                    dropped["malformed"] += 1
                elif code not in ISO and code != "mul":
                    dropped["language"] += 1
                else:
                    language = ISO.get(code, "mul" if "en" in (one["labels"] or {}) else "en")
                    rows[value, language, normalize(name, TextPolicy()), one["id"], precedence] += 1
    return rows, dropped


@settings(max_examples=examples(150), deadline=None)
@given(found=st.lists(entities, min_size=1, max_size=5), as_lines=st.booleans())
@example(
    found=[
        entity("Q1", {"en": "a"}, {}, [statement("C900", "P2892", rank, "value") for rank in ("normal", "deprecated")])
    ],
    as_lines=False,
)
def test_wikidata_dump_matches_naive_reader(tmp_path_factory, found, as_lines):
    file = tmp_path_factory.mktemp("dump") / "x.json"
    file.write_text("\n".join(json.dumps(one, ensure_ascii=False) for one in found) if as_lines else dump(found))
    rows, counts, _ = read(file)
    expected, dropped = naive(found)
    assert short(rows) == expected
    assert counts.dropped.get("deprecated statement", 0) == dropped["deprecated statement"]
    assert counts.rows_in - counts.kept == dropped.total()


# What is not Wikidata's

GOOD = json.dumps(ENTITIES[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ": expected Wikidata's entities or the rows of a query, found an empty file"),
        ("item\tlabel\n", ":1: expected JSON, either Wikidata's entities or the rows of a query, found other text"),
        (f"[\n{GOOD},\n", ": expected the array to end in a line ], found none. Is the file cut short?"),
        (f"[\n{GOOD}\n]\n{GOOD}", ":4: expected nothing after the end of the array, found more. Is it one file?"),
        (f"[\n{GOOD},\n{GOOD[:-20]}", ":3: expected one JSON object per line: "),
        (
            f'[\n{GOOD},\n{{"id": "Q1", "labels',
            ":3: expected one JSON object per line, found a part of one. Is the file cut short?",
        ),
        (f'[\n{GOOD},\n"P2892"\n]', ":3: expected an object, found P2892"),
        (
            "[\n" + "[" * 100_000 + "\n]",
            ":2: expected one JSON object per line, found one that is nested too deeply to be read",
        ),
        ("{" * 100_000, ": expected the rows of a query"),
        (
            '{"labels": ' + "[" * 100_000 + "P2892}",
            ": expected the rows of a query, found one that is nested too deeply to be read",
        ),
        (
            f'[\n{GOOD},\n{{"P2892": ' + "[" * 100_000 + "}\n]",
            ":3: expected one JSON object per line, found one that is nested too deeply",
        ),
        (
            GOOD.replace("made-up fever", "\\ud800"),
            ":1: expected one JSON object per line, found half of a surrogate pair in it",
        ),
        (
            GOOD.replace('"value": "C9000001"', '"value": 7'),
            ":1: $.claims.P2892.datavalue.value: expected a text, found 7",
        ),
        (GOOD.replace('"Q101"', "null"), ":1: $.id: expected a text, found nothing"),
        (GOOD.replace('"labels": {', '"labels": [], "labels_": {'), None),
        (GOOD.replace('"labels": {', '"labels": 3, "labels_": {'), ":1: $.labels: expected an object, found 3"),
        (
            '{"item": "Q1", "cui": "C9000001", "label": "x"}',
            ":1: $: expected the language of 'x' as its xml:lang, or in lang or language; found none",
        ),
        (
            '{"item": "Q1", "cui": "C9000001", "label": ["x"], "lang": "en"}',
            ":1: $.label: expected a text, found a list",
        ),
        ('{"item": "Q1", "cui": 7, "label": "x", "lang": "en"}', ":1: $.cui: expected a text, found 7"),
        (
            '{"item": "Q1", "cui": "C9000001", "title": "x", "lang": "en"}',
            ": expected rows with one of label, itemLabel, name, alias, altLabel; found cui, item,",
        ),
        (
            '{"item": "Q1", "kui": "C9000001", "label": "x", "lang": "en"}',
            ": expected rows with one of cui, umls, identifier, concept_id, id; found item, kui,",
        ),
        ('{"head": {}, "results": []}', ":1: $.results: expected an object, found a list"),
        ('{"head": {}, "results": {}}', ":1: $.results.bindings: expected a list, found nothing"),
        ('{"head": {}, "results": {"bindings": [3]}}', ":1: $.results.bindings[0]: expected an object, found 3"),
        ('{"head": {},\n "results": {"bindings": [{"cui": ', ": expected the rows of a query: "),
        ("{\n}", ": $.results: expected an object, found nothing"),
        ("[3]", ": $[0]: expected an object, found 3"),
    ],
)
def test_invalid_wikidata_file_is_refused(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    if message is None:
        read(tmp_path / "x.json")
        return
    with pytest.raises(DataError) as caught:
        read(tmp_path / "x.json")
    assert str(caught.value).startswith(f"{tmp_path / 'x.json'}{message}")


def test_truncated_wikidata_dump_is_refused(tmp_path):
    content = dump(ENTITIES[:4]).encode().rstrip()
    for at in range(0, len(content), 41):
        (tmp_path / "x.json").write_bytes(content[:at])
        with pytest.raises(DataError, match=r"x\.json:?\d*: expected"):
            read(tmp_path / "x.json")
    for name, pack in (("x.json.gz", gzip.compress), ("x.json.bz2", bz2.compress)):
        packed = pack(content)
        for at in range(0, len(packed), 41):
            (tmp_path / name).write_bytes(packed[:at])
            with pytest.raises(DataError):
                read(tmp_path / name)
    (tmp_path / "x.json.bz2").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json\.bz2: expected a \.bz2 file: Invalid data stream"):
        read(tmp_path / "x.json.bz2")


whole = st.sampled_from([ENTITIES[1], RESULT, BINDINGS, FLAT])
hurt = whole.flatmap(lambda value: st.tuples(st.just(value), st.sampled_from(list(paths_in(value))), JSON_VALUES)).map(
    lambda parts: replace_at(*parts)
)


@settings(max_examples=examples(200), deadline=None)
@given(value=hurt)
def test_wikidata_value_of_wrong_type_is_read_or_refused(tmp_path_factory, value):
    file = tmp_path_factory.mktemp("kinds") / "x.json"
    file.write_text(json.dumps(value))
    message = str(file)
    try:
        read(file)
    except DataError as error:
        message = str(error)
    assert message.startswith(str(file))


def test_wikidata_dump_needs_memory_for_one_line(tmp_path):
    with gzip.open(tmp_path / "x.json.gz", "wt", compresslevel=1) as stream:
        stream.write("[\n" + GOOD)
        for i in range(3000):
            stream.write(",\n" + json.dumps(entity(f"Q{i}", {"en": "words " * 1000}, {}, [])))
        stream.write("\n]\n")
    tracemalloc.start()
    rows, _, _ = read(tmp_path / "x.json.gz")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 9
    assert peak < 3_000_000  # of 18 million bytes


def test_wikidata_command(tmp_path, prepare):
    (tmp_path / "latest-all.json.bz2").write_bytes(FORMS["latest-all.json.bz2"])
    words = ["wikidata", tmp_path / "latest-all.json.bz2"]
    code, out, err = prepare(*words, "--key", "umls", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert out.splitlines()[:9] == [
        f"{tmp_path}/out: 4 concepts",
        "names for all languages (mul): 1 kept as Multiple languages",
        "",
        "names in                         18",
        "kept                             13",
        "dropped                           5",
        "  deprecated statement            2",
        "  language unknown to xsap: nds   1",
        "  not an identifier of umls       1",
    ]
    saved = Terminology.load(tmp_path / "out")
    called = dict(zip(*(saved.concepts[c].to_pylist() for c in ("concept_id", "preferred_name")), strict=True))
    assert called == {"C9000001": "made-up fever", "C9000002": "cough", "C9000003": "cough", "C9000005": "sneeze"}
    message = "error: xsap-prepare wikidata has no key 'ulms'; did you mean 'umls'?\n"
    assert prepare(*words, "--key", "ulms", "--out", tmp_path / "other") == (2, "", message)


def test_wikidata_concept_without_english_name(tmp_path):
    (tmp_path / "d.json").write_bytes(FORMS["latest-all.json"])
    with Assembly() as assembly:
        counts, metadata = read_wikidata(tmp_path / "d.json", assembly, key="umls", languages={"pt", "de"})
        summary, after = assembly.save(tmp_path / "out", counts, metadata)
    assert (summary.names, summary.concepts, after.rows_in) == (3, 1, 18)
    assert Terminology.load(tmp_path / "out").concepts["preferred_name"].to_pylist() == [
        "fever x"
    ]  # a name for all languages


def test_dump_is_read_in_batches(tmp_path):
    (tmp_path / "d.json").write_bytes(FORMS["latest-all.json"])
    assert short(read(tmp_path / "d.json")[0]) == Counter(UMLS)
