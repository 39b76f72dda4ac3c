"""The linking files of DisTEMIST, SympTEMIST and MedProcNER: fragments in their published layouts, against a naive reader, and wrong ones."""

import zipfile

import pytest

from benchmarks.corpora.spanish import read_distemist, read_medprocner, read_symptemist, read_symptemist_multilingual
from xsap.errors import DataError
from xsap.terms.mentions import SCHEMA

TEXT = 'Refiere tos seca y fiebre.\n\nTras la  punción, "dolor" leve en ambos pies.\n'


def _span(words):
    return f"{TEXT.index(words)}\t{TEXT.index(words) + len(words)}"


DISTEMIST = (
    "filename\tmark\tlabel\toff0\toff1\tspan\tcode\tsemantic_rel\n"
    f"es-S1\tT1\tENFERMEDAD\t{_span('tos seca')}\ttos seca\t111111\tEXACT\n"
    f"es-S1\tT2\tENFERMEDAD\t{_span('fiebre')}\tfiebre\t222222+333333\tEXACT+NARROW\n"
    f"es-S1\tT3\tENFERMEDAD\t{_span('tos')}\ttos\tNOMAP\tNOMAP\n"
    "es-S2\tT1\tENFERMEDAD\t0\t5\tasma.\t444444\tEXACT\n"  # no such text
)
SYMPTEMIST = (
    "filename\tlabel\tspan_ini\tspan_end\ttext\tcode\tsem_rel\tis_abbrev\tis_composite\tneed_context\r\n"
    f'S1\tSINTOMA\t{TEXT.index(chr(34))}\t{TEXT.index(" leve")}\t"""dolor"""\t555555\tEXACT\tFalse\tFalse\tFalse\r\n'
    f"S1\tSINTOMA\t{_span('leve en ambos pies')}\tleve en ambos pies\t1.66753E+16\tEXACT\tFalse\tFalse\tFalse\r\n"
    f"S1\tSINTOMA\t{_span('fiebre')}\tfiebre\tN+O\tEXACT\tFalse\tFalse\tFalse\r\n"
    f"S1\tSINTOMA\t{_span('fiebre')}\tfiebre\tNO_CODE\tNO_CODE\tFalse\tFalse\tTrue\r\n"
    f"S1\tSINTOMA\t{_span('fiebre')}\tfriebre\t666666 + 666666+1.65511910001191E+016\tEXACT\tFalse\tTrue\tFalse\r\n"  # other words than the text's
)
MEDPROCNER = (
    '"filename"\t"label"\t"start_span"\t"end_span"\t"text"\t"code"\n'
    f'"S1"\t"PROCEDIMIENTO"\t{_span("la  punción")}\t"la  punción"\t777777\n'
    f'"S1"\t"PROCEDIMIENTO"\t{_span("punción")}\t"punción"\t""\n'
    f'"S1"\t"OTRO"\t{_span("punción")}\t"punción"\t"NO_CODE"\n'
)
PLACES = {
    "DisTEMIST": ("distemist_zenodo/test_annotated/subtrack2_linking/distemist_subtrack2_test_linking.tsv", "distemist_zenodo/test_annotated/text_files/es-S1.txt"),
    "SympTEMIST": ("symptemist-complete/symptemist_test/subtask2-linking/symptemist_tsv_test_subtask2.tsv", "symptemist-complete/symptemist_test/subtask1-ner/txt/S1.txt"),
    "MedProcNER": ("medprocner/medprocner_test/tsv/medprocner_tsv_test_subtask2.tsv", "medprocner/medprocner_test/txt/S1.txt"),
}  # fmt: skip
READERS = {
    "DisTEMIST": (read_distemist, DISTEMIST),
    "SympTEMIST": (read_symptemist, SYMPTEMIST),
    "MedProcNER": (read_medprocner, MEDPROCNER),
}


def _publish(folder, corpus, tsv=None, text=TEXT):
    """The folder, the zip and the TSV file of a corpus."""
    name, document = PLACES[corpus]
    files = {
        name: READERS[corpus][1] if tsv is None else tsv,
        name.replace("test_", "train_").replace("_test", "_train"): "train",
    }
    files |= {} if text is None else {document: text}
    with zipfile.ZipFile(folder / f"{corpus}.zip", "w") as archive:
        for file, content_hash in files.items():
            archive.writestr(file, content_hash.encode())
    with zipfile.ZipFile(folder / f"{corpus}.zip") as archive:
        archive.extractall(folder / corpus)
    return folder / corpus, folder / f"{corpus}.zip", folder / corpus / name


def _seen(table):
    keys = ("mention", "concept_ids", "groups", "document_id", "start", "end")
    return [tuple(row[key] for key in keys) for row in table.to_pylist()]


CONTEXT = " ".join(TEXT.split())


def _at(words):
    return CONTEXT.index(words), CONTEXT.index(words) + len(words)


EXPECTED = {
    "DisTEMIST": [
        ("tos seca", ["111111"], ["DISO"], "es-S1", *_at("tos seca")),
        ("fiebre", ["222222", "333333"], ["DISO"], "es-S1", *_at("fiebre")),
        ("tos", [], ["DISO"], "es-S1", *_at("tos")),
        ("asma.", ["444444"], ["DISO"], "es-S2", None, None),
    ],
    "SympTEMIST": [
        ('"dolor"', ["555555"], ["DISO"], "S1", *_at('"dolor"')),
        ("leve en ambos pies", [], ["DISO"], "S1", *_at("leve en ambos pies")),
        ("fiebre", [], ["DISO"], "S1", *_at("fiebre")),
        ("fiebre", [], ["DISO"], "S1", *_at("fiebre")),
        ("friebre", ["666666"], ["DISO"], "S1", None, None),
    ],
    "MedProcNER": [
        ("la punción", ["777777"], ["PROC"], "S1", *_at("la punción")),
        ("punción", [], ["PROC"], "S1", *_at("punción")),
        ("punción", [], [], "S1", *_at("punción")),
    ],
}


@pytest.mark.parametrize("corpus", READERS)
def test_folder_zip_and_file_give_the_same_mentions_with_their_places(tmp_path, corpus):
    read = READERS[corpus][0]
    tables = [read(path) for path in _publish(tmp_path, corpus)]
    assert tables[0].schema.names == [*SCHEMA.names, "groups"]
    assert [_seen(table) for table in tables] == [EXPECTED[corpus]] * 3
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    assert [row["context"] for row in tables[0].to_pylist()] == [
        CONTEXT if row[3] != "es-S2" else None for row in EXPECTED[corpus]
    ]
    assert set(tables[0]["language"].to_pylist()) == {"es"}


@pytest.mark.parametrize("corpus", READERS)
def test_without_texts_there_are_neither_contexts_nor_places(tmp_path, corpus):
    table = READERS[corpus][0](_publish(tmp_path, corpus, text=None)[1])
    assert _seen(table) == [(*row[:4], None, None) for row in EXPECTED[corpus]]
    assert table["context"].null_count == table.num_rows


def test_line_ends_that_became_two_characters_move_no_place(tmp_path):
    table = read_distemist(_publish(tmp_path, "DisTEMIST", text=TEXT.replace("\n", "\r\n"))[0])
    assert _seen(table) == EXPECTED["DisTEMIST"]


HEADER, FIRST = DISTEMIST.splitlines(keepends=True)[:2]


@pytest.mark.parametrize(
    ("tsv", "message"),
    [
        (
            "",
            r"linking\.tsv:1: expected a header with filename, label, off0/span_ini/start_span, .*found an empty file",
        ),
        (
            "filename\tlabel\tspan_ini\tspan_end\ttext\n",
            r":1: expected a header .*found filename, label, span_ini, span_end, text",
        ),
        (HEADER.replace("mark", "text") + FIRST, r":1: expected a header"),
        (HEADER + FIRST + "es-S1\tT2\n", r":3: expected 8 tab-separated cells, found 2"),
        (
            HEADER + FIRST.replace("111111", "J18.9"),
            r":2: expected SNOMED CT identifiers joined by \+, NO_CODE or NOMAP; found 'J18\.9'",
        ),
        (HEADER + FIRST.replace("111111", "111111|222222"), "found '111111|222222'"),
        (HEADER + FIRST.replace("tos seca\t", " \t"), r":2: expected two offsets and a mention"),
        (HEADER + FIRST.replace("\t8\t", "\t8.0\t"), r":2: expected two offsets and a mention; found '8\.0'"),
        (HEADER + FIRST.replace("tos seca", '"tos seca'), r":2: expected tab-separated cells, their quotes closed"),
        (HEADER + FIRST.replace("111111", "NO_CODE"), "with SNOMED CT codes; found 1 mentions and no such concept"),
        (HEADER + FIRST.replace("\t8\t", "\t9\t"), "stand at their offsets; found 0 of 1"),
        (HEADER, "found 0 mentions"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, tsv, message):
    for path in _publish(tmp_path, "DisTEMIST", tsv):
        with pytest.raises(DataError, match=message):
            read_distemist(path)


def test_another_corpus_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"expected medprocner_tsv_test_subtask2\.tsv, and the texts in txt; found no files called"
    ):
        read_medprocner(_publish(tmp_path, "DisTEMIST")[0])


def _multilingual(folder, names):
    path = folder / "multilingual.zip"
    head, first = SYMPTEMIST.split("\r\n")[:2]
    with zipfile.ZipFile(path, "w") as archive:
        for name, mention in names.items():
            cells = first.split("\t")
            cells[4] = mention
            archive.writestr(f"c/{name}", f"{head}\n" + "\t".join(cells) + "\n")
    return path


def test_translated_mentions_have_the_language_of_their_file(tmp_path):
    names = {
        "symptemist_test/subtask3-experimental_multilingual/symptemist_task3_fr_test.tsv": "douleur",
        "symptemist_test/subtask3-experimental_multilingual/symptemist_test_subtask3-pt.tsv": "dor",
        "symptemist_train/subtask3-experimental_multilingual/symptemist_task3_en.tsv": "pain",
        "symptemist_test/subtask2-linking/symptemist_tsv_test_subtask2.tsv": "dolor",
    }
    path = _multilingual(tmp_path, names)
    table = read_symptemist_multilingual(path)
    assert list(zip(table["mention"].to_pylist(), table["language"].to_pylist(), strict=True)) == [
        ("douleur", "fr"),
        ("dor", "pt"),
    ]
    assert {row[key] for row in table.to_pylist() for key in ("context", "start", "end")} == {None}
    assert table["concept_ids"].to_pylist() == [["555555"]] * 2
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "out")
    file = tmp_path / "out" / "c" / list(names)[2]
    assert read_symptemist_multilingual(file)["language"].to_pylist() == ["en"]
    with pytest.raises(
        DataError,
        match=r"subtask2\.tsv: expected a name that ends in a language, as symptemist_task3_pt_test\.tsv does",
    ):
        read_symptemist_multilingual(tmp_path / "out" / "c" / list(names)[3])
    with pytest.raises(DataError, match="found 0 mentions"):
        read_symptemist_multilingual(_publish(tmp_path, "DisTEMIST")[1])
