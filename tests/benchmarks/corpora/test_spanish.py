"""Spanish corpora: fragments in their published layouts, compared with naive readers; unusual lines and wrong files."""

import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpora.spanish import (
    read_cantemist,
    read_codiesp,
    read_distemist,
    read_medprocner,
    read_symptemist,
    read_symptemist_multilingual,
)
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
PATHS = {
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
    name, document = PATHS[corpus]
    files = {
        name: READERS[corpus][1] if tsv is None else tsv,
        name.replace("test_", "train_").replace("_test", "_train"): "train",
    }
    files |= {} if text is None else {document: text}
    with zipfile.ZipFile(folder / f"{corpus}.zip", "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content.encode())
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
def test_folder_zip_and_file_give_same_located_mentions(tmp_path, corpus):
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
def test_without_texts_mentions_have_no_contexts(tmp_path, corpus):
    table = READERS[corpus][0](_publish(tmp_path, corpus, text=None)[1])
    assert _seen(table) == [(*row[:4], None, None) for row in EXPECTED[corpus]]
    assert table["context"].null_count == table.num_rows


def test_crlf_texts_give_same_locations(tmp_path):
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
        (HEADER + FIRST.replace("\t8\t", "\t9\t"), "whose offsets match the texts; found 0 of 1"),
        (HEADER, "found 0 mentions"),
    ],
)
def test_wrong_file_is_reported(tmp_path, tsv, message):
    for path in _publish(tmp_path, "DisTEMIST", tsv):
        with pytest.raises(DataError, match=message):
            read_distemist(path)


def test_other_corpus_is_reported(tmp_path):
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


def test_translated_mentions_have_language_of_file_name(tmp_path):
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


# CANTEMIST and CodiEsp

CANTEMIST = {
    "test-set/cantemist-norm/cc_onco1.txt": "Tumor maligno.\nSe ve un carcinoma\npequeño, M0.\n",
    "test-set/cantemist-norm/cc_onco1.ann": (
        "T1\tMORFOLOGIA_NEOPLASIA 0 13\tTumor maligno\n#1\tAnnotatorNotes T1\t8000/3\n"
        "T2\tMORFOLOGIA_NEOPLASIA 24 41\tcarcinoma pequeño\n#2\tAnnotatorNotes T2\t8041/33/H \n"
        "T3\tMORFOLOGIA_NEOPLASIA 43 45\tM0\n"
        "T4\tOTRA 24 33\tcarcinoma\n#4\tAnnotatorNotes T4\t8010/3/H ?\n"
    ),
    "test-set/cantemist-norm/cc_onco2.txt": "Nada.",
    "test-set/cantemist-norm/cc_onco2.ann": "",
    "test-set/cantemist-ner/cc_onco1.ann": "T1\tMORFOLOGIA_NEOPLASIA 0 13\tTumor maligno\n",
    "test-set/cantemist-coding/test-coding.tsv": "file\tcode\ncc_onco1\t8000/3\n",
    "train-set/cantemist-norm/cc_onco3.ann": "broken",
}
CODIESP_TEXT = "Fractura de codo y hombro.\r\nTAC de\tabdomen: normal.\n"
CODIESP = (
    "S1-1\tDIAGNOSTICO\ts42.409\tFractura de codo\t0 16\n"
    "S1-1\tDIAGNOSTICO\tS42.90X\tFractura hombro\t0 8;19 25\n"
    "S1-1\tPROCEDIMIENTO\tbw20\tabdomen TAC\t35 42;28 31\n"  # in the words' order, not the text's
    "S1-1\tPROCEDIMIENTO\tbw20\tTAC torax\t28 31;35 42\n"  # the text differs there
    "S2-1\tOTRO\tr69\tenfermedad\t0 10\n"  # no text
)
CODIESP_ROOT = "final_dataset_v4_to_publish/test"
CODIESP_FILES = {
    f"{CODIESP_ROOT}/testX.tsv": CODIESP,
    f"{CODIESP_ROOT}/testD.tsv": "S1-1\ts42.409\nS1-1\ts42.90x\n",
    f"{CODIESP_ROOT}/text_files/S1-1.txt": CODIESP_TEXT,
    f"{CODIESP_ROOT}/text_files_en/S1-1.txt": "Fractured elbow and shoulder.",
    f"{CODIESP_ROOT}/text_files/S2-1.txt": None,
    "final_dataset_v4_to_publish/dev/devX.tsv": "S3\tDIAGNOSTICO\tr05\ttos\t0 3\n",
    "final_dataset_v4_to_publish/dev/text_files/S3.txt": "tos",
}


def _publish_files(folder, files):
    """A zip and the folder that it unpacks to."""
    with zipfile.ZipFile(folder / "c.zip", "w") as archive:
        for name, content in files.items():
            if content is not None:
                archive.writestr(name, content.encode())
    with zipfile.ZipFile(folder / "c.zip") as archive:
        archive.extractall(folder / "c")
    return folder / "c.zip", folder / "c"


def test_cantemist_zip_and_folder_give_same_mentions(tmp_path):
    tables = [read_cantemist(path) for path in _publish_files(tmp_path, CANTEMIST)]
    assert tables[0].equals(tables[1])
    assert tables[0].schema.names == [*SCHEMA.names, "groups"]
    assert _seen(tables[0]) == [
        ("Tumor maligno", ["8000/3"], ["DISO"], "cc_onco1", 0, 13),
        ("carcinoma pequeño", ["8041/33/H"], ["DISO"], "cc_onco1", 24, 41),
        ("M0", [], ["DISO"], "cc_onco1", 43, 45),
        ("carcinoma", ["8010/3/H"], [], "cc_onco1", 24, 33),
    ]
    assert tables[0]["context"][0].as_py() == "Tumor maligno. Se ve un carcinoma pequeño, M0."
    assert set(tables[0]["language"].to_pylist()) == {"es"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "test-set/cantemist-norm/cc_onco1.ann",
            "T1\tMORFOLOGIA_NEOPLASIA 0\tTumor\n",
            r"cc_onco1\.ann:1: expected T1<tab>TYPE",
        ),
        (
            "test-set/cantemist-norm/cc_onco1.txt",
            None,
            r"cc_onco1\.txt: expected test-set/cantemist-norm/.*found no such file",
        ),
        ("test-set/cantemist-norm/cc_onco1.txt", "Otro.", "whose offsets match the texts; found 0 of 4"),
        (
            "test-set/cantemist-norm/cc_onco1.ann",
            "T1\tX 0 5\tTumor\n#1\tAnnotatorNotes T1\tC0006826\n",
            "with eCIE-O codes .*found 1 mentions",
        ),
        ("test-set/cantemist-norm/cc_onco1.ann", None, "found 0 mentions"),
    ],
)
def test_cantemist_wrong_content_is_reported(tmp_path, name, content, message):
    for path in _publish_files(tmp_path, CANTEMIST | {name: content}):
        with pytest.raises(DataError, match=message):
            read_cantemist(path)


CODIESP_MENTIONS = [
    ("Fractura de codo", ["s42.409"], ["DISO"], "S1-1", 0, 16),
    ("Fractura hombro", ["S42.90X"], ["DISO"], "S1-1", 0, 25),
    ("abdomen TAC", ["bw20"], ["PROC"], "S1-1", 27, 41),
    ("TAC torax", ["bw20"], ["PROC"], "S1-1", None, None),
    ("enfermedad", ["r69"], [], "S2-1", None, None),
]


def test_codiesp_zip_folder_and_file_give_same_mentions(tmp_path):
    archive, folder = _publish_files(tmp_path, CODIESP_FILES)
    tables = [read_codiesp(path) for path in (archive, folder, folder / CODIESP_ROOT / "testX.tsv")]
    assert [_seen(table) for table in tables] == [CODIESP_MENTIONS] * 3
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    context = "Fractura de codo y hombro. TAC de abdomen: normal."
    assert tables[0]["context"].to_pylist() == [context] * 4 + [None]
    assert context[27:41] == "TAC de abdomen"
    assert _seen(read_codiesp(folder / "final_dataset_v4_to_publish" / "dev" / "devX.tsv"))[0][:2] == ("tos", ["r05"])


def test_codiesp_offsets_may_count_crlf_as_one_character(tmp_path):
    shifted = CODIESP.replace("35 42;28 31", "34 41;27 30")
    assert (
        _seen(read_codiesp(_publish_files(tmp_path, CODIESP_FILES | {f"{CODIESP_ROOT}/testX.tsv": shifted})[0]))
        == CODIESP_MENTIONS
    )


def test_codiesp_without_texts_has_no_contexts(tmp_path):
    table = read_codiesp(_publish_files(tmp_path, {f"{CODIESP_ROOT}/testX.tsv": CODIESP})[1])
    assert _seen(table) == [(*row[:4], None, None) for row in CODIESP_MENTIONS]
    assert table["context"].null_count == 5


CODIESP_LINES = st.lists(
    st.tuples(
        st.sampled_from(["S1", "S-2"]),
        st.sampled_from(["DIAGNOSTICO", "PROCEDIMIENTO"]),
        st.sampled_from(["r05", "0DJ08ZZ", "w19.xxx"]),
        st.text(st.sampled_from("aé '-"), min_size=1).filter(str.strip),
        st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=5,
)


@given(CODIESP_LINES)
def test_codiesp_rows_match_naive_reader(tmp_path_factory, lines):
    text = "".join(
        "\t".join((*line[:4], ";".join(f"{start} {end}" for start, end in line[4]))) + "\n" for line in lines
    )
    path = tmp_path_factory.mktemp("codiesp") / "testX.tsv"
    path.write_text(text, encoding="utf-8")
    table = read_codiesp(path)
    found = [
        tuple(row[key] for key in ("document_id", "groups", "concept_ids", "mention")) for row in table.to_pylist()
    ]
    naive = [line.split("\t") for line in text.split("\n")[:-1]]
    group = {"DIAGNOSTICO": "DISO", "PROCEDIMIENTO": "PROC"}
    assert found == [(one[0], [group[one[1]]], [one[2]], " ".join(one[3].split())) for one in naive]


@pytest.mark.parametrize(
    ("tsv", "message"),
    [
        (
            CODIESP_FILES[f"{CODIESP_ROOT}/testD.tsv"],
            r"testX\.tsv:1: expected document, type, code, words and offsets .*D and P don't have the words; found",
        ),
        (
            CODIESP + "S1-1\tDIAGNOSTICO\tr05\ttos\n",
            r"testX\.tsv:6: expected document, type, code, words and offsets .*as in testX\.tsv; found",
        ),
        (CODIESP + "S1-1\tDIAGNOSTICO\tr05\ttos\t12-20\n", r":6: .*found 'S1-1 \| DIAGNOSTICO"),
        ("S1-1\tDIAGNOSTICO\t\ttos\t12 20\n", r":1: expected"),
        ("S1-1\tDIAGNOSTICO\tr05\t \t12 20\n", r":1: expected"),
        ("filename\tlabel\tcode\ttext\toffsets\n", r":1: expected"),
        ("S1-1\tDIAGNOSTICO\tr05\ttos\t12 15\n", "whose offsets match the texts; found 0 of 1"),
        ("", "found 0 mentions"),
    ],
)
def test_codiesp_wrong_file_is_reported(tmp_path, tsv, message):
    with pytest.raises(DataError, match=message):
        read_codiesp(_publish_files(tmp_path, CODIESP_FILES | {f"{CODIESP_ROOT}/testX.tsv": tsv})[0])


def test_codiesp_folder_without_its_file_is_reported(tmp_path):
    with pytest.raises(
        DataError, match=r"expected final_dataset_v4_to_publish/test/testX\.tsv.*found no files called testX\.tsv"
    ):
        read_codiesp(_publish_files(tmp_path, CANTEMIST)[1])
