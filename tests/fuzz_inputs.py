"""What `fuzz_readers.py` damages: for each reader a small valid input, made up in its format, and how it is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep import bitext, lists, omop, ontology, snomed, umls, wikidata
from data_prep.accounting import Rejects
from data_prep.assemble import Assembly
from data_prep.umls import UmlsFiles

Read = Callable[[Path, Assembly, Path], None]


def _lines(*rows: str) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


def _umls(*, announced: bool) -> dict[str, bytes]:
    atoms = [
        ("C1", "ENG", "fever"),
        ("C1", "SPA", "fiebre alta"),
        ("C2", "JPN", "頭痛"),
        ("C2", "ENG", 'so-called "headache"'),
        ("C3", "ENG", "x" * 300),
    ]
    conso = [
        f"{c}|{lat}|P|L{i}|PF|S{i}|Y|A{i}||M1|D1|MSH|PT|D{i}|{name}|0|N|256|" for i, (c, lat, name) in enumerate(atoms)
    ]
    files = {
        "MRCONSO.RRF": _lines(*conso),
        "MRSTY.RRF": _lines("C1|T184|A2.2.2|Sign or Symptom|AT1|256|", "C2|T047|A1|Disease or Syndrome|AT2||"),
        "MRREL.RRF": _lines(
            "C1|A1|SCUI|RO|C2|A2|SCUI|tradename_of|R1||X|X||Y|N||", "C3|A1|SCUI|RO|C2|A2|SCUI|isa|R2||X|X||Y|N||"
        ),
        "MRRANK.RRF": _lines("0002|MSH|PT|N|", "0001|MSH|SY|N|"),
        "MRCUI.RRF": _lines("C8|2019AB|SY|||C1|Y|", "C9|2019AB|DEL|||||"[:-1]),
        "MRSAB.RRF": _lines("|".join(["C1", "C2", "MSH2020", "MSH", *[""] * 17, "Y", "Y", "", "", ""])),
    }
    first = {name: data.splitlines()[0].count(b"|") for name, data in files.items()}
    rows = [f"{name}|x|A|{first[name]}|{len(data.splitlines())}|{len(data)}|" for name, data in files.items()]
    return files | ({"MRFILES.RRF": _lines(*rows)} if announced else {})


_OBO = _lines(
    "format-version: 1.4", "", "[Term]", "id: HP:0000001", "name: Fever ! a comment", 'synonym: "High \\"temp\\"" EXACT layperson [X:1, Y:2] {a="b"}',
    "alt_id: HP:0000009", "xref: UMLS:C1 {source=\"x\"}", "", "[Term]", "id: HP:0000002", "name: obsolete pain", "is_obsolete: true",
    "replaced_by: HP:0000001", "", "[Typedef]", "id: part_of",
)  # fmt: skip
_OWL = b"""<?xml version="1.0"?>
<!DOCTYPE rdf:RDF [ <!ENTITY obo "http://purl.obolibrary.org/obo/"> ]>
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:rdfs="http://www.w3.org/2000/01/rdf-schema#"
 xmlns:owl="http://www.w3.org/2002/07/owl#" xmlns:oboInOwl="http://www.geneontology.org/formats/oboInOwl#">
 <owl:Class rdf:about="&obo;HP_0000001">
  <rdfs:label xml:lang="en">Fever</rdfs:label><oboInOwl:hasExactSynonym xml:lang="de">Fieber &amp; mehr</oboInOwl:hasExactSynonym>
  <oboInOwl:hasDbXref>UMLS:C1</oboInOwl:hasDbXref><oboInOwl:hasAlternativeId>HP:0000009</oboInOwl:hasAlternativeId>
 </owl:Class>
 <owl:Class rdf:about="&obo;HP_0000002"><rdfs:label>obsolete pain</rdfs:label><owl:deprecated>true</owl:deprecated></owl:Class>
</rdf:RDF>
"""
_NODE = {"id": "http://purl.obolibrary.org/obo/HP_0000001", "lbl": "Fever", "type": "CLASS"}
_NODE |= {"meta": {"synonyms": [{"pred": "hasExactSynonym", "val": "Pyrexia"}], "xrefs": [{"val": "UMLS:C1"}]}}  # type: ignore[dict-item]
_GRAPH = json.dumps(
    {
        "graphs": [
            {
                "nodes": [
                    _NODE,
                    {**_NODE, "id": "http://purl.obolibrary.org/obo/HP_0000002", "meta": {"deprecated": True}},
                ]
            }
        ]
    }
).encode()
_BABELON = _lines(
    "source_language\ttranslation_language\tsubject_id\tpredicate_id\tsource_value\ttranslation_value\ttranslation_status",
    "en\tde\tHP:0000001\trdfs:label\tFever\tFieber\tOFFICIAL", 'en\tde\tHP:0000001\tIAO:0000115\t"A ""def"""\tText\tCANDIDATE',
)  # fmt: skip
_ROBOT = _lines(
    "subject_id\tsyn\tStatus", "ID\tAL oboInOwl:hasExactSynonym@es SPLIT=|\t", "HP:0000001\tfiebre|calentura\tOFFICIAL"
)
_TSV = _lines(
    "concept_id\tlanguage\tname\tkind\tsemantic_types", "C1\ten\tfever\tpreferred\tT184|T033", "C1\tes\tfiebre\t\t"
)
_CSV = _lines("concept_id,language,name", 'C1,en,"high ""fever"", or so"', "C1,es,fiebre")
_JSONL = _lines(
    '{"concept_id": "C1", "language": "en", "name": "fever", "semantic_types": ["T184"]}',
    '{"concept_id": "C2", "language": "es", "name": "dolor"}',
)
_SCISPACY = _lines(
    '{"concept_id": "C1", "canonical_name": "Fever", "aliases": ["Pyrexia", "High \\u00e9"], "types": ["T184"], "definition": "x"}'
)
_ENTITY = {
    "type": "item",
    "id": "Q1",
    "labels": {"en": {"language": "en", "value": "fever"}, "zh-hans": {"language": "zh-hans", "value": "发烧"}},
}
_ENTITY |= {"aliases": {"en": [{"language": "en", "value": "pyrexia"}]}}  # type: ignore[dict-item]
_CLAIM: dict[str, Any] = {
    "mainsnak": {"snaktype": "value", "datavalue": {"value": "C0000001", "type": "string"}},
    "rank": "normal",
}
_DUMP = (
    b"[\n"
    + json.dumps({**_ENTITY, "claims": {"P2892": [_CLAIM]}}).encode()
    + b",\n"
    + json.dumps({**_ENTITY, "claims": {}}).encode()
    + b"\n]\n"
)
_SPARQL = json.dumps(
    {
        "head": {"vars": ["item", "cui", "label"]},
        "results": {
            "bindings": [
                {
                    "item": {"type": "uri", "value": "http://www.wikidata.org/entity/Q1"},
                    "cui": {"type": "literal", "value": "C0000001"},
                    "label": {"xml:lang": "de", "type": "literal", "value": "Fieber"},
                }
            ]
        },
    }
).encode()


def _omop() -> dict[str, bytes]:
    concept = "concept_id concept_name domain_id vocabulary_id concept_class_id standard_concept concept_code valid_start_date valid_end_date invalid_reason"
    row = "{}\t{}\t{}\t{}\tX\t{}\t{}\t19700101\t20991231\t"
    rows = [
        (1, "Fever", "Condition", "SNOMED", "S", "386"),
        (2, 'Fever "x"', "Condition", "ICD10", "", "R50"),
        (4182511, "Spanish language", "Language", "Language", "S", "es"),
    ]
    relationship = "concept_id_1 concept_id_2 relationship_id valid_start_date valid_end_date invalid_reason"
    return {
        "CONCEPT.csv": _lines(concept.replace(" ", "\t"), *(row.format(*cells) for cells in rows)),
        "CONCEPT_SYNONYM.csv": _lines(
            "concept_id\tconcept_synonym_name\tlanguage_concept_id", "1\tfiebre\t4182511", "2\tpyrexia\t4180186"
        ),
        "CONCEPT_RELATIONSHIP.csv": _lines(relationship.replace(" ", "\t"), "2\t1\tMaps to\t19700101\t20991231\t"),
        "VOCABULARY.csv": _lines(
            "vocabulary_id\tvocabulary_name\tvocabulary_reference\tvocabulary_version\tvocabulary_concept_id",
            "SNOMED\tx\ty\t2024\t1",
        ),
    }


def _snomed() -> dict[str, bytes]:
    description = "id effectiveTime active moduleId conceptId languageCode typeId term caseSignificanceId".replace(
        " ", "\t"
    )
    rows = [
        "11\t20200101\t1\tM\t386\ten\t900000000000003001\tFever (finding)\tC",
        "12\t20200101\t1\tM\t386\ten\t900000000000013009\tFever\tC",
    ]
    refset = "id effectiveTime active moduleId refsetId referencedComponentId".replace(" ", "\t")
    terminology, sets = "Snapshot/Terminology", "Snapshot/Refset"
    return {
        f"{terminology}/sct2_Concept_Snapshot_INT_20200101.txt": _lines(
            "id\teffectiveTime\tactive\tmoduleId\tdefinitionStatusId", "386\t20200101\t1\tM\tX", "9\t20200101\t0\tM\tX"
        ),
        f"{terminology}/sct2_Description_Snapshot-en_INT_20200101.txt": _lines(description, *rows),
        f"{sets}/Language/der2_cRefset_LanguageSnapshot-en_INT_20200101.txt": _lines(
            f"{refset}\tacceptabilityId", "u\t20200101\t1\tM\t9000\t12\t900000000000548007"
        ),
        f"{sets}/Content/der2_cRefset_AssociationSnapshot_INT_20200101.txt": _lines(
            f"{refset}\ttargetComponentId", "u\t20200101\t1\tM\t900000000000526001\t9\t386"
        ),
    }


def _read_umls(folder: Path, assembly: Assembly, out: Path) -> None:
    with Rejects(out.with_name("rejects.tsv"), 1) as rejects:
        assembly.save(
            out,
            *umls.read_umls(UmlsFiles.find(folder), assembly, umls.RowSelection(suppress=None), tradenames=True, rejects=rejects),
        )


def _ontology(name: str) -> Read:
    def read(folder: Path, _: Assembly, out: Path) -> None:
        tables = folder / "tables"
        ontology.read_hpo(folder / name, tables if tables.exists() else None)[0].save(out)

    return read


def _list(name: str, **options: Any) -> Read:
    return lambda folder, _, out: lists.read_list(folder / name, **options)[0].save(out)


def _wikidata(name: str) -> Read:
    return lambda folder, assembly, out: assembly.save(out, *wikidata.read_wikidata(folder / name, assembly, key="umls")) and None


INPUTS: dict[str, Callable[[], dict[str, bytes]]] = {
    "umls": lambda: _umls(announced=False),
    "umls-announced": lambda: _umls(announced=True),
    "obo": lambda: {"hp.obo": _OBO},
    "owl": lambda: {"hp.owl": _OWL},
    "obographs": lambda: {"hp.json": _GRAPH},
    "babelon": lambda: {"hp.obo": _OBO, "tables/hp-de.babelon.tsv": _BABELON, "tables/hp-es.synonyms.tsv": _ROBOT},
    "tsv": lambda: {"a.tsv": _TSV},
    "csv": lambda: {"a.csv": _CSV},
    "jsonl": lambda: {"a.jsonl": _JSONL},
    "scispacy": lambda: {"a.jsonl": _SCISPACY},
    "id-names": lambda: {"a.txt": _lines("C1||fever", "C1|C2||so called")},
    "bitext": lambda: {"en-de.txt": _lines("fever\tFieber", "heart attack\tHerzinfarkt", "the die")},
    "wikidata": lambda: {"dump.json": _DUMP},
    "sparql": lambda: {"rows.json": _SPARQL},
    "omop": _omop,
    "snomed": _snomed,
}
READERS: dict[str, Read] = {
    "umls": _read_umls,
    "umls-announced": _read_umls,
    "obo": _ontology("hp.obo"),
    "owl": _ontology("hp.owl"),
    "obographs": _ontology("hp.json"),
    "babelon": _ontology("hp.obo"),
    "tsv": _list("a.tsv"),
    "csv": _list("a.csv"),
    "jsonl": _list("a.jsonl"),
    "scispacy": _list("a.jsonl", language="en"),
    "id-names": _list("a.txt"),
    "bitext": lambda folder, assembly, out: (
        assembly.save(out, *bitext.read_bitext([folder / "en-de.txt"], assembly, languages="en,de")) and None
    ),
    "wikidata": _wikidata("dump.json"),
    "sparql": _wikidata("rows.json"),
    "omop": lambda folder, assembly, out: assembly.save(out, *omop.read_omop(folder, assembly)) and None,
    "snomed": lambda folder, assembly, out: assembly.save(out, *snomed.read_snomed([folder], assembly)) and None,
}
