"""OWL and obographs: hand-written fragments in the published form, and the same ontology in three formats."""

import gzip
import json
import re
import time
import tracemalloc
from functools import partial
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import owl
from data_prep.obo import read_obographs
from data_prep.ontology import read_ontology
from data_prep.owl import read_owl
from data_prep.xml_events import MAX_TEXT_BYTES, xml_events
from tests.fixtures.examples import examples
from tests.fixtures.json_damage import JSON_VALUES, paths_in, replace_at
from xsap.errors import DataError
from xsap.text import TextPolicy, normalize

HEAD = """<?xml version="1.0"?>
<rdf:RDF xmlns="http://purl.obolibrary.org/obo/hp.owl#" xml:base="http://purl.obolibrary.org/obo/hp.owl"
     xmlns:obo="http://purl.obolibrary.org/obo/" xmlns:owl="http://www.w3.org/2002/07/owl#" xmlns:skos="http://www.w3.org/2004/02/skos/core#"
     xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:xml="http://www.w3.org/XML/1998/namespace"
     xmlns:rdfs="http://www.w3.org/2000/01/rdf-schema#" xmlns:oboInOwl="http://www.geneontology.org/formats/oboInOwl#">
"""
OWL = (
    HEAD
    + """
    <owl:Ontology rdf:about="http://purl.obolibrary.org/obo/hp.owl"><rdfs:label>An ontology</rdfs:label></owl:Ontology>
    <owl:AnnotationProperty rdf:about="http://purl.obolibrary.org/obo/IAO_0100001"><rdfs:label>term replaced by</rdfs:label></owl:AnnotationProperty>
    <owl:ObjectProperty rdf:about="http://purl.obolibrary.org/obo/BFO_0000051"><rdfs:label>has part</rdfs:label></owl:ObjectProperty>

    <!-- http://purl.obolibrary.org/obo/HP_0000001 -->
    <owl:Class rdf:about="http://purl.obolibrary.org/obo/HP_0000001">
        <owl:equivalentClass>
            <owl:Restriction>
                <owl:onProperty rdf:resource="http://purl.obolibrary.org/obo/BFO_0000051"/>
                <owl:someValuesFrom>
                    <owl:Class>
                        <rdfs:label>inner label</rdfs:label>
                        <owl:intersectionOf rdf:parseType="Collection"><rdf:Description rdf:about="http://purl.obolibrary.org/obo/PATO_0000001"/></owl:intersectionOf>
                    </owl:Class>
                </owl:someValuesFrom>
            </owl:Restriction>
        </owl:equivalentClass>
        <rdfs:subClassOf rdf:resource="http://purl.obolibrary.org/obo/HP_0000118"/>
        <obo:IAO_0000115 xml:lang="en">Not a name.</obo:IAO_0000115>
        <oboInOwl:hasAlternativeId rdf:datatype="http://www.w3.org/2001/XMLSchema#string">HP:0000011</oboInOwl:hasAlternativeId>
        <oboInOwl:hasBroadSynonym>Illness</oboInOwl:hasBroadSynonym>
        <oboInOwl:hasDbXref rdf:datatype="http://www.w3.org/2001/XMLSchema#string">UMLS:C0000001</oboInOwl:hasDbXref>
        <oboInOwl:hasDbXref rdf:resource="http://purl.obolibrary.org/obo/FMA_7"/>
        <oboInOwl:hasExactSynonym xml:lang="en">High &quot;body&quot; temperature &amp; more</oboInOwl:hasExactSynonym>
        <oboInOwl:hasExactSynonym>FUO</oboInOwl:hasExactSynonym>
        <oboInOwl:hasRelatedSynonym rdf:parseType="Literal">Py<b>rex</b>ia</oboInOwl:hasRelatedSynonym>
        <oboInOwl:hasNarrowSynonym xml:lang="de">Wundfieber</oboInOwl:hasNarrowSynonym>
        <rdfs:label xml:lang="en">Fever</rdfs:label>
        <rdfs:label xml:lang="de">Fieber</rdfs:label>
        <rdfs:label xml:lang="nna">x</rdfs:label>
        <rdfs:label xml:lang=""> Feverish
          state </rdfs:label>
    </owl:Class>
    <owl:Axiom>
        <owl:annotatedTarget>FUO</owl:annotatedTarget>
        <owl:annotatedProperty rdf:resource="http://www.geneontology.org/formats/oboInOwl#hasExactSynonym"/>
        <owl:annotatedSource rdf:resource="http://purl.obolibrary.org/obo/HP_0000001"/>
        <oboInOwl:hasDbXref>PMID:1</oboInOwl:hasDbXref>
        <oboInOwl:hasSynonymType rdf:resource="http://purl.obolibrary.org/obo/OMO_0003000"/>
    </owl:Axiom>
    <owl:Axiom>
        <owl:annotatedSource rdf:resource="http://purl.obolibrary.org/obo/HP_0000001"/>
        <owl:annotatedProperty rdf:resource="http://www.geneontology.org/formats/oboInOwl#hasRelatedSynonym"/>
        <owl:annotatedTarget>Pyrexia</owl:annotatedTarget>
        <oboInOwl:hasSynonymType rdf:resource="http://purl.obolibrary.org/obo/hp#layperson"/>
    </owl:Axiom>
    <owl:Class rdf:about="http://purl.obolibrary.org/obo/HP_0000002">
        <obo:IAO_0000231 rdf:resource="http://purl.obolibrary.org/obo/IAO_0000227"/>
        <obo:IAO_0100001 rdf:resource="http://purl.obolibrary.org/obo/HP_0000001"/>
        <owl:deprecated rdf:datatype="http://www.w3.org/2001/XMLSchema#boolean">true</owl:deprecated>
    </owl:Class>
    <owl:Class rdf:about="http://purl.obolibrary.org/obo/HP_0000003">
        <rdfs:label>Ache</rdfs:label>
        <obo:IAO_0100001>HP:0000001</obo:IAO_0100001>
        <owl:deprecated>1</owl:deprecated>
    </owl:Class>
    <owl:Class rdf:about="#HP_0000004" rdfs:label="Cough" xml:lang="en"><owl:deprecated>false</owl:deprecated></owl:Class>
    <owl:Class rdf:ID="HP_0000005"/>
    <rdf:Description rdf:about="http://purl.obolibrary.org/obo/HP_0000005"><rdfs:label>Sneeze</rdfs:label></rdf:Description>
    <rdf:Description rdf:about="http://purl.obolibrary.org/obo/HP_0000006">
        <rdf:type rdf:resource="http://www.w3.org/2002/07/owl#Class"/>
        <skos:prefLabel xml:lang="es">tos seca</skos:prefLabel>
        <skos:altLabel xml:lang="es-MX">tosecilla</skos:altLabel>
        <skos:hiddenLabel xml:lang="es">toss</skos:hiddenLabel>
    </rdf:Description>
    <skos:Concept rdf:about="http://example.org/thesaurus/sneezing"><skos:prefLabel xml:lang="en">Sneezing</skos:prefLabel></skos:Concept>
    <owl:Class rdf:nodeID="b1"><rdfs:label>nameless node</rdfs:label></owl:Class>
    <owl:NamedIndividual rdf:about="http://purl.obolibrary.org/obo/HP_0000009"><rdfs:label>An individual</rdfs:label></owl:NamedIndividual>
</rdf:RDF>
"""
)
SNEEZING = "http://example.org/thesaurus/sneezing"
NAMES = {
    ("HP:0000001", "en", "Fever", "preferred"),
    ("HP:0000001", "en", "Feverish state", "preferred"),
    ("HP:0000001", "de", "Fieber", "preferred"),
    ("HP:0000001", "de", "Wundfieber", "synonym"),
    ("HP:0000001", "en", 'High "body" temperature & more', "synonym"),
    ("HP:0000001", "en", "FUO", "abbreviation"),
    ("HP:0000001", "en", "Pyrexia", "synonym"),
    ("HP:0000004", "en", "Cough", "preferred"),
    ("HP:0000005", "en", "Sneeze", "preferred"),
    ("HP:0000006", "es", "tos seca", "preferred"),
    ("HP:0000006", "es", "tosecilla", "synonym"),
    ("HP:0000006", "es", "toss", "synonym"),
    (SNEEZING, "en", "Sneezing", "preferred"),
}
GRAPHS = {
    "graphs": [
        {
            "id": "http://purl.obolibrary.org/obo/hp.owl",
            "meta": {"basicPropertyValues": []},
            "nodes": [
                {"id": "http://purl.obolibrary.org/obo/BFO_0000051", "type": "PROPERTY", "lbl": "has part"},
                {"id": "http://purl.obolibrary.org/obo/hp#layperson", "lbl": "layperson term"},
                {
                    "id": "http://purl.obolibrary.org/obo/HP_0000001",
                    "lbl": "Fever",
                    "type": "CLASS",
                    "meta": {
                        "definition": {"val": "Not a name.", "xrefs": ["HPO:x"]},
                        "comments": ["Not a name either."],
                        "xrefs": [{"val": "UMLS:C0000001"}, {"val": "http://purl.obolibrary.org/obo/FMA_7"}],
                        "synonyms": [
                            {
                                "pred": "hasExactSynonym",
                                "val": "FUO",
                                "synonymType": "http://purl.obolibrary.org/obo/hp#abbreviation",
                            },
                            {
                                "pred": "hasRelatedSynonym",
                                "val": "Pyrexia",
                                "xrefs": [],
                                "synonymType": "http://purl.obolibrary.org/obo/hp#layperson",
                            },
                            {"pred": "hasBroadSynonym", "val": "Illness"},
                            {
                                "pred": "http://www.geneontology.org/formats/oboInOwl#hasNarrowSynonym",
                                "val": "Wound fever",
                            },
                            {"pred": "hasOtherSynonym", "val": "Heat"},
                        ],
                        "basicPropertyValues": [
                            {
                                "pred": "http://www.geneontology.org/formats/oboInOwl#hasAlternativeId",
                                "val": "HP:0000011",
                            },
                            {"pred": "http://www.w3.org/2004/02/skos/core#altLabel", "val": "Feverishness"},
                        ],
                    },
                },
                {
                    "id": "http://purl.obolibrary.org/obo/HP_0000002",
                    "type": "CLASS",
                    "meta": {
                        "deprecated": True,
                        "basicPropertyValues": [
                            {
                                "pred": "http://purl.obolibrary.org/obo/IAO_0100001",
                                "val": "http://purl.obolibrary.org/obo/HP_0000001",
                            }
                        ],
                    },
                },
                {"id": "HP:0000003", "lbl": "obsolete Ache", "type": "CLASS", "meta": {"deprecated": True}},
            ],
            "edges": [
                {
                    "sub": "http://purl.obolibrary.org/obo/HP_0000001",
                    "pred": "is_a",
                    "obj": "http://purl.obolibrary.org/obo/HP_0000118",
                }
            ],
        }
    ]
}


def rows(terminology):
    return {(row["concept_id"], row["language"], row["name"], row["kind"]) for row in terminology.names.to_pylist()}


def retired(terminology):
    return {tuple(row.values()) for row in terminology.retired.to_pylist()}


def refusal(read, path):
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)[len(str(path)) :]


def test_published_owl_is_read(tmp_path):
    (tmp_path / "hp.owl").write_text(OWL)
    terminology, counts = read_ontology(tmp_path / "hp.owl")
    assert rows(terminology) == NAMES
    assert dict(counts.dropped) == {
        "language unknown to xsap: nna": 1,
        "synonym of scope BROAD": 1,
        "obsolete concept": 1,
    }
    assert retired(terminology) == {
        ("HP:0000011", "HP:0000001", "same"),
        ("HP:0000002", "HP:0000001", "same"),
        ("HP:0000003", "HP:0000001", "same"),
    }
    references = dict(
        zip(*(terminology.concepts[column].to_pylist() for column in ("concept_id", "cross_references")), strict=True)
    )
    assert references == {
        "HP:0000001": ["FMA:7", "UMLS:C0000001"],
        "HP:0000004": [],
        "HP:0000005": [],
        "HP:0000006": [],
        SNEEZING: [],
    }


def test_owl_namespaces_may_be_entities(tmp_path):
    entities = {"obo": "http://purl.obolibrary.org/obo/", "rdfs": "http://www.w3.org/2000/01/rdf-schema#"}
    dtd = "<!DOCTYPE rdf:RDF [\n" + "".join(f'  <!ENTITY {name} "{iri}" >\n' for name, iri in entities.items()) + "]>\n"
    text = OWL.replace('xmlns:rdfs="http://www.w3.org/2000/01/rdf-schema#"', 'xmlns:rdfs="&rdfs;"').replace(
        '"http://purl.obolibrary.org/obo/HP', '"&obo;HP'
    )
    assert text.count("&obo;") > 5
    (tmp_path / "old.owl.gz").write_bytes(gzip.compress(text.replace("<rdf:RDF", dtd + "<rdf:RDF", 1).encode()))
    assert rows(read_ontology(tmp_path / "old.owl.gz")[0]) == NAMES


def test_owl_language_is_inherited(tmp_path):
    text = HEAD.replace("<rdf:RDF", '<rdf:RDF xml:lang="fr"', 1)
    text += '<owl:Class rdf:about="#X_1"><rdfs:label>toux</rdfs:label></owl:Class><owl:Class rdf:about="#X_2" xml:lang="de"><rdfs:label>Husten</rdfs:label>'
    (tmp_path / "x.owl").write_text(text + '<rdfs:label xml:lang="es">tos</rdfs:label></owl:Class></rdf:RDF>')
    assert {row[:3] for row in rows(read_ontology(tmp_path / "x.owl")[0])} == {
        ("X:1", "fr", "toux"),
        ("X:2", "de", "Husten"),
        ("X:2", "es", "tos"),
    }


def test_published_obographs_are_read(tmp_path):
    (tmp_path / "hp.json").write_text(json.dumps(GRAPHS, indent=1))
    terminology, counts = read_ontology(tmp_path / "hp.json", prefixes={"HP"})
    assert rows(terminology) == {
        ("HP:0000001", "en", "Fever", "preferred"),
        ("HP:0000001", "en", "FUO", "abbreviation"),
        ("HP:0000001", "en", "Pyrexia", "synonym"),
        ("HP:0000001", "en", "Wound fever", "synonym"),
        ("HP:0000001", "en", "Feverishness", "synonym"),
    }
    assert dict(counts.dropped) == {
        "synonym of scope BROAD": 1,
        "synonym of unknown scope hasOtherSynonym": 1,
        "obsolete concept": 1,
    }
    assert retired(terminology) == {
        ("HP:0000011", "HP:0000001", "same"),
        ("HP:0000002", "HP:0000001", "same"),
        ("HP:0000003", None, "deleted"),
    }
    assert terminology.concepts["cross_references"].to_pylist() == [["FMA:7", "UMLS:C0000001"]]


# The same ontology in three formats, and a naive reading of it

IDS = [f"X:{i:07}" for i in range(6)]
texts = (
    st.text(st.sampled_from("ab \"'\\!{}[]()<>&;:,.#%\té热́\u2028"), min_size=1, max_size=10).map(str.strip).filter(bool)
)
synonyms = st.lists(
    st.tuples(
        texts,
        st.sampled_from(["EXACT", "NARROW", "RELATED", "BROAD"]),
        st.sampled_from(["", "abbreviation", "layperson"]),
    ),
    max_size=4,
    unique_by=lambda synonym: synonym[0],
)
terms = st.fixed_dictionaries(
    {
        "name": st.none() | texts | texts.map("obsolete {}".format),
        "synonyms": synonyms,
        "xrefs": st.lists(st.sampled_from(["UMLS:C1", "MSH:D1", "FMA:7"]), max_size=2),
        "alt": st.lists(st.sampled_from(["X:0000101", "X:0000102"]), max_size=1),
        "obsolete": st.booleans(),
        "replaced_by": st.lists(st.sampled_from([*IDS, "Y:1"]), max_size=2, unique=True),
    }
)
ontologies = st.lists(terms, min_size=1, max_size=len(IDS)).filter(
    lambda found: not all(one["obsolete"] for one in found)
)


def as_obo(ontology):
    def plain(text):
        return re.sub(r"[\\!{]", r"\\\g<0>", text).replace("\t", r"\t")

    lines = ["format-version: 1.4", ""]
    for identifier, one in zip(IDS, ontology, strict=False):
        lines += ["[Term]", f"id: {identifier}"]
        lines += [f"name: {plain(one['name'])}"] if one["name"] else []
        lines += [f"alt_id: {alt}" for alt in one["alt"]]
        lines += [
            'synonym: "' + text.replace("\\", "\\\\").replace('"', '\\"') + f'" {scope} {kind} []'
            for text, scope, kind in one["synonyms"]
        ]
        lines += [f'xref: {xref} "described"' for xref in one["xrefs"]]
        lines += ["is_obsolete: true"] if one["obsolete"] else []
        lines += [f"replaced_by: {other} ! some name" for other in one["replaced_by"]] + [""]
    return "\n".join(lines)


def iri(identifier):
    return "http://purl.obolibrary.org/obo/" + identifier.replace(":", "_")


def as_owl(ontology):
    out = [
        HEAD,
        '<owl:ObjectProperty rdf:about="http://purl.obolibrary.org/obo/RO_1"><rdfs:label>has part</rdfs:label></owl:ObjectProperty>',
    ]
    for identifier, one in zip(IDS, ontology, strict=False):
        out.append(
            f"<owl:Class rdf:about={quoteattr(iri(identifier))}>\n  <rdfs:subClassOf><owl:Restriction/></rdfs:subClassOf>"
        )
        out += [f"<rdfs:label>{escape(one['name'])}</rdfs:label>"] if one["name"] else []
        out += [f"<oboInOwl:hasAlternativeId>{alt}</oboInOwl:hasAlternativeId>" for alt in one["alt"]]
        for text, scope, _ in one["synonyms"]:
            out.append(
                f'<oboInOwl:has{scope.title()}Synonym xml:lang="en">{escape(text)}</oboInOwl:has{scope.title()}Synonym>'
            )
        out += [f"<oboInOwl:hasDbXref>{xref}</oboInOwl:hasDbXref>" for xref in one["xrefs"]]
        out += ["<owl:deprecated>true</owl:deprecated>"] if one["obsolete"] else []
        out += [f"<obo:IAO_0100001 rdf:resource={quoteattr(iri(other))}/>" for other in one["replaced_by"]] + [
            "</owl:Class>"
        ]
        for text, scope, kind in one["synonyms"]:
            if kind:
                out.append(
                    f"<owl:Axiom><owl:annotatedSource rdf:resource={quoteattr(iri(identifier))}/><owl:annotatedTarget>{escape(text)}</owl:annotatedTarget>"
                )
                out.append(
                    f'<owl:annotatedProperty rdf:resource="http://www.geneontology.org/formats/oboInOwl#has{scope.title()}Synonym"/>'
                )
                out.append(
                    f'<oboInOwl:hasSynonymType rdf:resource="http://purl.obolibrary.org/obo/hp#{kind}"/></owl:Axiom>'
                )
    return "\n".join([*out, "</rdf:RDF>"])


def as_obographs(ontology):
    def of_property(name, values):
        return [{"pred": name, "val": value} for value in values]

    nodes = []
    for identifier, one in zip(IDS, ontology, strict=False):
        other = of_property("http://www.geneontology.org/formats/oboInOwl#hasAlternativeId", one["alt"])
        other += of_property("http://purl.obolibrary.org/obo/IAO_0100001", map(iri, one["replaced_by"]))
        named = [
            {"pred": f"has{scope.title()}Synonym", "val": text}
            | ({"synonymType": f"http://purl.obolibrary.org/obo/hp#{kind}"} if kind else {})
            for text, scope, kind in one["synonyms"]
        ]
        meta = {"synonyms": named, "xrefs": [{"val": xref} for xref in one["xrefs"]], "basicPropertyValues": other}
        node = {
            "id": iri(identifier),
            "type": "CLASS",
            "meta": meta | ({"deprecated": True} if one["obsolete"] else {}),
        }
        nodes.append(node | ({"lbl": one["name"]} if one["name"] else {}))
    return json.dumps({"graphs": [{"nodes": nodes}]})


def naive(ontology):
    """names, retired: what the three must come to, by plain rules on the terms themselves."""
    terms = dict(zip(IDS, ontology, strict=False))
    merged = {alt: identifier for identifier, one in terms.items() for alt in one["alt"]}
    gone = {
        identifier
        for identifier, one in terms.items()
        if one["obsolete"] or (one["name"] or "").startswith("obsolete ")
    }
    best = {}
    for identifier, one in terms.items():
        offered = [(one["name"], "", "preferred")] if one["name"] else []
        offered += [
            (text, scope, "abbreviation" if kind == "abbreviation" else "synonym")
            for text, scope, kind in one["synonyms"]
        ]
        for text, scope, kind in offered:
            if identifier not in gone and scope != "BROAD":
                key = (identifier, "en", normalize(text, TextPolicy()))
                best.setdefault(key, []).append(kind)
    order = ["preferred", "synonym", "abbreviation"]
    names = {(*key, min(kinds, key=order.index)) for key, kinds in best.items() if key[2]}

    def heirs(identifier, seen):
        if identifier in seen:
            return set()
        following = (
            [merged[identifier]]
            if identifier in merged
            else terms[identifier]["replaced_by"]
            if identifier in gone
            else None
        )
        return (
            {identifier}
            if following is None
            else set().union(*(heirs(other, seen | {identifier}) for other in following))
        )

    out = set()
    for old in merged.keys() | gone:
        found = heirs(old, frozenset())
        out |= {(old, heir, "same" if len(found) == 1 else "related") for heir in found} or {(old, None, "deleted")}
    return names, out


@settings(max_examples=examples(120), deadline=None)
@given(ontology=ontologies)
def test_obo_owl_and_obographs_match_naive_reader(tmp_path_factory, ontology):
    folder = tmp_path_factory.mktemp("same")
    written = {"x.obo": as_obo(ontology), "x.owl": as_owl(ontology), "x.json": as_obographs(ontology)}
    read = []
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
        read.append(read_ontology(folder / name))
    (obo, counts), *others = read
    assert (rows(obo), retired(obo)) == naive(ontology)
    for other, its_tally in others:
        assert (other.names, other.concepts, other.retired, its_tally) == (obo.names, obo.concepts, obo.retired, counts)


# What is not OWL

BOMB = (
    "<!DOCTYPE rdf:RDF ["
    + '<!ENTITY a0 "lol">'
    + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    + "]>"
)
CLASS = '<owl:Class rdf:about="#X_1"><rdfs:label>{}</rdfs:label></owl:Class></rdf:RDF>'


def with_dtd(dtd, label):
    return HEAD.replace("<rdf:RDF", f"{dtd}\n<rdf:RDF", 1) + CLASS.format(label)


HOSTILE = {
    "nested": (with_dtd(BOMB, "&a11;"), "'a1'"),
    "nested by number": (with_dtd('<!DOCTYPE x [<!ENTITY a "&#38;b;"><!ENTITY b "&#38;a;">]>', "&a;"), "'a'"),
    "long": (with_dtd(f'<!DOCTYPE x [<!ENTITY a "{"x" * 100_000}">]>', "&a;" * 100_000), "'a'"),
    "outside": (with_dtd('<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>', "&a;"), "'a'"),
    "parameter": (with_dtd("<!DOCTYPE x [<!ENTITY % a '<!ENTITY b \"x\">'> %a;]>", "&b;"), "'a'"),
    "parameter outside": (with_dtd('<!DOCTYPE x [<!ENTITY % a SYSTEM "http://127.0.0.1:9/x.dtd"> %a;]>', "x"), "'a'"),
    "attribute": (
        with_dtd(f'<!DOCTYPE x [<!ATTLIST a b CDATA "{"x" * 100_000}">]>', "<a/>" * 100_000),
        "attribute 'b' of a",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_dtd_that_could_expand_is_refused(tmp_path, kind):
    text, what = HOSTILE[kind]
    (tmp_path / "x.owl").write_text(text)
    tracemalloc.start()
    start = time.process_time()
    message = refusal(read_owl, tmp_path / "x.owl")
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message.startswith(":2: expected a DTD of short texts such as namespaces, found the ")
    assert what in message
    assert (seconds < 2, peak < 20_000_000) == (True, True)


def test_repeated_short_entities_need_limited_memory(tmp_path):
    (tmp_path / "x.owl").write_text(with_dtd(f'<!DOCTYPE x [<!ENTITY a "{"x" * 200}">]>', "&a;" * 1000))
    ((_, _, name, _),) = rows(read_ontology(tmp_path / "x.owl")[0])
    assert name == "x" * 200_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"",
            ":1: expected OWL as RDF/XML: no element found: line 1, column 0. Is the file cut short, or of another syntax?",
        ),
        (b"Ontology: <http://x>\n", ":1: expected OWL as RDF/XML: syntax error: line 1, column 0."),
        (
            b'<Ontology xmlns="http://www.w3.org/2002/07/owl#"/>',
            ": expected OWL as RDF/XML, within rdf:RDF, found Ontology; convert it: robot",
        ),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', ": expected OWL as RDF/XML: unknown encoding"),
        (HEAD.encode() + b"<a>fi\xe8vre</a></rdf:RDF>", ":6: expected OWL as RDF/XML: not well-formed (invalid token)"),
        (
            HEAD.encode() + b"</rdf:RDF>",
            ": expected an OWL file with classes, found none that is not obsolete. Is it the right file?",
        ),
        (HEAD.encode() + b"&owl;</rdf:RDF>", ":6: expected OWL as RDF/XML: undefined entity"),
        (
            HEAD.encode() + b"<a>" * 100_000,
            ": expected OWL as RDF/XML, found elements nested 1,001 deep. Is it the right file?",
        ),
    ],
)
def test_invalid_owl_is_refused(tmp_path, content, message):
    (tmp_path / "x.owl").write_bytes(content)
    assert refusal(read_owl, tmp_path / "x.owl").startswith(message)


def test_truncated_owl_is_refused(tmp_path):
    content = OWL.encode().rstrip()
    for at in range(0, len(content), 97):
        (tmp_path / "x.owl").write_bytes(content[:at])
        assert refusal(read_owl, tmp_path / "x.owl").startswith(":")
    packed = gzip.compress(content)
    for at in range(0, len(packed), 97):
        (tmp_path / "x.owl.gz").write_bytes(packed[:at])
        refusal(read_owl, tmp_path / "x.owl.gz")


COMMENT = "<rdfs:comment>" + "words " * 500 + "</rdfs:comment>\n"
LARGE = {
    "many nodes": "".join(
        f'<owl:Class rdf:about="#X_{i}">{COMMENT}<rdfs:label>n</rdfs:label></owl:Class>' for i in range(4000)
    ),
    "one node of many properties": '<owl:Class rdf:about="#X_1">' + COMMENT * 4000 + "</owl:Class>",
    "many small nodes": '<owl:Class rdf:about="#X_1"/>' + "<x/>" * 50_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LARGE)
def test_owl_memory_does_not_grow_with_the_file(tmp_path, kind):
    (tmp_path / "x.owl").write_text(HEAD + LARGE[kind] + "</rdf:RDF>")
    tracemalloc.start()
    ontology = read_owl(tmp_path / "x.owl")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(ontology.living) == (4000 if kind == "many nodes" else 1)
    assert peak < 6_000_000  # the tree takes more than twice as much


# What are no obographs


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ": expected an obographs document: Expecting value: line 1 column 1 (char 0)"),
        ("[]", ": $: expected an object, found a list"),
        ("3", ": $: expected an object, found 3"),
        ("{}", ": expected an obographs document with 'graphs', found nothing in it"),
        ('{"a": 1, "b": 2}', ": expected an obographs document with 'graphs', found a, b in it"),
        ('{"graphs": {}}', ": $.graphs: expected a list, found an object"),
        ('{"graphs": [1]}', ": $.graphs[0]: expected an object, found 1"),
        ('{"graphs": [{"nodes": [null]}]}', ": $.graphs[0].nodes[0]: expected an object, found nothing"),
        ('{"graphs": [{"nodes": [{"type": "CLASS"}]}]}', ": $.graphs[0].nodes[0]: expected an id, found none"),
        (
            '{"graphs": [{"nodes": [{"type": "CLASS", "id": "A:1", "lbl": 7}]}]}',
            ": $.graphs[0].nodes[0].lbl: expected a text, found 7",
        ),
        (
            '{"graphs": [{"nodes": [{"type": "CLASS", "id": "A:1", "lbl": ["x"]}]}]}',
            ": $.graphs[0].nodes[0].lbl: expected a text, found a list",
        ),
        (
            '{"graphs": [{"nodes": [{"type": "CLASS", "id": "A:1", "meta": {"deprecated": "true"}}]}]}',
            ": $.graphs[0].nodes[0].deprecated: expected true or",
        ),
        (
            '{"graphs": [{"nodes": [{"type": "CLASS", "id": "A:1", "meta": {"synonyms": [[]]}}]}]}',
            ": $.graphs[0].nodes[0].synonyms[0]: expected an object",
        ),
        (
            '{"graphs": [{"nodes": [{"id": "A:1", "lbl": "x"}]}]}',
            ": expected an obographs document with nodes of type CLASS, found none that is not obsolete",
        ),
        ("[" * 100_000, ": expected an obographs document, found one that is nested too deeply to be read"),
        (
            '{"graphs": [{"nodes": [{"type": "CLASS", "id": "A:1", "lbl": ' + "[" * 900 + "]" * 900 + "}]}]}",
            ": $.graphs[0].nodes[0].lbl: expected a text",
        ),
        (
            '{"graphs": [{"nodes": [{"type": "CLASS", "id": "A:1", "lbl": "\\ud83d"}]}]}',
            ": expected an obographs document, found half of a surrogate pair",
        ),
    ],
)
def test_invalid_obographs_are_refused(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    assert refusal(read_obographs, tmp_path / "x.json").startswith(message)


def test_json_surrogate_pair_is_a_character(tmp_path):
    (tmp_path / "x.json").write_text(
        json.dumps({"graphs": [{"nodes": [{"type": "CLASS", "id": "A:1", "lbl": "\U0001f600"}]}]})
    )
    assert rows(read_ontology(tmp_path / "x.json")[0]) == {("A:1", "en", "\U0001f600", "preferred")}


def test_truncated_obographs_are_refused(tmp_path):
    content = json.dumps(GRAPHS)
    for at in range(0, len(content), 31):
        (tmp_path / "x.json").write_text(content[:at])
        refusal(read_obographs, tmp_path / "x.json")


@settings(max_examples=examples(200), deadline=None)
@given(place=st.sampled_from(sorted(paths_in(GRAPHS), key=str)), new=JSON_VALUES)
def test_obographs_value_of_wrong_type_is_read_or_refused(tmp_path_factory, place, new):
    file = tmp_path_factory.mktemp("kinds") / "x.json"
    file.write_text(json.dumps(replace_at(GRAPHS, place, new)))
    message = str(file)
    try:
        read_ontology(file)
    except DataError as error:
        message = str(error)
    assert message.startswith(str(file))


BOMBS = {
    "text": b"<owl:Class rdf:about='http://x.org/A_1'><rdfs:label>%s</rdfs:label></owl:Class>",
    "attribute": b"<owl:Class rdf:about='%s'/>",
    "comment": b"<!-- %s -->",
    "before the root": b"",
}


@pytest.mark.parametrize(
    ("place", "limit"),
    [
        ("text", 1 << 24),
        *((place, 1 << 20) for place in BOMBS if place != "text"),
        *(pytest.param(place, 1 << 24, marks=pytest.mark.slow) for place in BOMBS if place != "text"),
    ],
)
def test_text_without_an_end_is_refused_in_bounded_memory(tmp_path, monkeypatch, place, limit):
    """The limit is 16 MB unless this test says that it is 1: the time of a comment grows with its square."""
    if limit != MAX_TEXT_BYTES:
        monkeypatch.setattr(owl, "xml_events", partial(xml_events, max_text_bytes=limit))
    size = 4 * limit
    root = (
        b"<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#' xmlns:owl='http://www.w3.org/2002/07/owl#' "
    )
    root += b"xmlns:rdfs='http://www.w3.org/2000/01/rdf-schema#'>%s</rdf:RDF>"
    before = b"<!-- %s -->" % (b"a" * size) if place == "before the root" else b""
    path = tmp_path / "x.owl.gz"
    path.write_bytes(gzip.compress(before + root % BOMBS[place].replace(b"%s", b"a" * size), 1))
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            read_owl(path)
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()
    assert str(caught.value) == (
        f"{path}: expected XML, found over {limit:,} bytes in which no element begins or ends. Is it the right file?"
    )
