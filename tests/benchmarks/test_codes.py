"""CANTEMIST-NORM's brat files and CodiEsp-X's TSV: fragments in their published layouts, odd lines included, and what is something else."""

import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpora.corpus import Corpus
from benchmarks.corpora.spanish import _codiesp_rows, read_cantemist, read_codiesp
from xsap.errors import DataError
from xsap.terms.mentions import SCHEMA

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
CASE = "Fractura de codo y hombro.\r\nTAC de\tabdomen: normal.\n"
CODIESP = (
    "S1-1\tDIAGNOSTICO\ts42.409\tFractura de codo\t0 16\n"
    "S1-1\tDIAGNOSTICO\tS42.90X\tFractura hombro\t0 8;19 25\n"
    "S1-1\tPROCEDIMIENTO\tbw20\tabdomen TAC\t35 42;28 31\n"  # in the words' order, not the text's
    "S1-1\tPROCEDIMIENTO\tbw20\tTAC torax\t28 31;35 42\n"  # not what stands there
    "S2-1\tOTRO\tr69\tenfermedad\t0 10\n"  # no text
)
ROOT = "final_dataset_v4_to_publish/test"
FILES = {
    f"{ROOT}/testX.tsv": CODIESP,
    f"{ROOT}/testD.tsv": "S1-1\ts42.409\nS1-1\ts42.90x\n",
    f"{ROOT}/text_files/S1-1.txt": CASE,
    f"{ROOT}/text_files_en/S1-1.txt": "Fractured elbow and shoulder.",
    f"{ROOT}/text_files/S2-1.txt": None,
    "final_dataset_v4_to_publish/dev/devX.tsv": "S3\tDIAGNOSTICO\tr05\ttos\t0 3\n",
    "final_dataset_v4_to_publish/dev/text_files/S3.txt": "tos",
}


def _publish(folder, files):
    """A zip and the folder that it unpacks to."""
    with zipfile.ZipFile(folder / "c.zip", "w") as archive:
        for name, content_hash in files.items():
            if content_hash is not None:
                archive.writestr(name, content_hash.encode())
    with zipfile.ZipFile(folder / "c.zip") as archive:
        archive.extractall(folder / "c")
    return folder / "c.zip", folder / "c"


def _seen(table):
    keys = ("mention", "concept_ids", "groups", "document_id", "start", "end")
    return [tuple(row[key] for key in keys) for row in table.to_pylist()]


def test_cantemists_test_set(tmp_path):
    tables = [read_cantemist(path) for path in _publish(tmp_path, CANTEMIST)]
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
        ("test-set/cantemist-norm/cc_onco1.txt", "Otro.", "stand at their offsets; found 0 of 4"),
        (
            "test-set/cantemist-norm/cc_onco1.ann",
            "T1\tX 0 5\tTumor\n#1\tAnnotatorNotes T1\tC0006826\n",
            "with eCIE-O codes .*found 1 mentions",
        ),
        ("test-set/cantemist-norm/cc_onco1.ann", None, "found 0 mentions"),
    ],
)
def test_what_is_not_cantemist(tmp_path, name, content_hash, message):
    for path in _publish(tmp_path, CANTEMIST | {name: content_hash}):
        with pytest.raises(DataError, match=message):
            read_cantemist(path)


EXPECTED = [
    ("Fractura de codo", ["s42.409"], ["DISO"], "S1-1", 0, 16),
    ("Fractura hombro", ["S42.90X"], ["DISO"], "S1-1", 0, 25),
    ("abdomen TAC", ["bw20"], ["PROC"], "S1-1", 27, 41),
    ("TAC torax", ["bw20"], ["PROC"], "S1-1", None, None),
    ("enfermedad", ["r69"], [], "S2-1", None, None),
]


def test_codiesps_test_set(tmp_path):
    archive, folder = _publish(tmp_path, FILES)
    tables = [read_codiesp(path) for path in (archive, folder, folder / ROOT / "testX.tsv")]
    assert [_seen(table) for table in tables] == [EXPECTED] * 3
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    context = "Fractura de codo y hombro. TAC de abdomen: normal."
    assert tables[0]["context"].to_pylist() == [context] * 4 + [None]
    assert context[27:41] == "TAC de abdomen"
    assert _seen(read_codiesp(folder / "final_dataset_v4_to_publish" / "dev" / "devX.tsv"))[0][:2] == ("tos", ["r05"])


def test_offsets_that_count_a_line_end_as_one(tmp_path):
    shifted = CODIESP.replace("35 42;28 31", "34 41;27 30")
    assert _seen(read_codiesp(_publish(tmp_path, FILES | {f"{ROOT}/testX.tsv": shifted})[0])) == EXPECTED


def test_without_texts_there_are_neither_contexts_nor_places(tmp_path):
    table = read_codiesp(_publish(tmp_path, {f"{ROOT}/testX.tsv": CODIESP})[1])
    assert _seen(table) == [(*row[:4], None, None) for row in EXPECTED]
    assert table["context"].null_count == 5


LINES = st.lists(
    st.tuples(
        st.sampled_from(["S1", "S-2"]),
        st.sampled_from(["DIAGNOSTICO", "PROCEDIMIENTO"]),
        st.sampled_from(["r05", "0DJ08ZZ", "w19.xxx"]),
        st.text(st.sampled_from("aé '-"), min_size=1).filter(str.strip),
        st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=3),
    ),
    max_size=5,
)


@given(LINES)
def test_lines_against_a_naive_reader(lines):
    text = "".join(
        "\t".join((*line[:4], ";".join(f"{start} {end}" for start, end in line[4]))) + "\n" for line in lines
    )
    files = Corpus(None, ["testX.tsv"], "x", {"testX.tsv": text.encode()}.get)
    found = [(row.document_id, row.groups, row.concept_ids, row.mention) for row in _codiesp_rows(files, "testX.tsv")]
    naive = [line.split("\t") for line in text.split("\n")[:-1]]
    group = {"DIAGNOSTICO": "DISO", "PROCEDIMIENTO": "PROC"}
    assert found == [(one[0], [group[one[1]]], [one[2]], " ".join(one[3].split())) for one in naive]


@pytest.mark.parametrize(
    ("tsv", "message"),
    [
        (
            FILES[f"{ROOT}/testD.tsv"],
            r"testX\.tsv:1: expected document, type, code, words and offsets .*D and P don't tell the words; found",
        ),
        (
            CODIESP + "S1-1\tDIAGNOSTICO\tr05\ttos\n",
            r"testX\.tsv:6: expected document, type, code, words and offsets .*as in testX\.tsv; found",
        ),
        (CODIESP + "S1-1\tDIAGNOSTICO\tr05\ttos\t12-20\n", r":6: .*found 'S1-1 \| DIAGNOSTICO"),
        ("S1-1\tDIAGNOSTICO\t\ttos\t12 20\n", r":1: expected"),
        ("S1-1\tDIAGNOSTICO\tr05\t \t12 20\n", r":1: expected"),
        ("filename\tlabel\tcode\ttext\toffsets\n", r":1: expected"),
        ("S1-1\tDIAGNOSTICO\tr05\ttos\t12 15\n", "stand at their offsets; found 0 of 1"),
        ("", "found 0 mentions"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, tsv, message):
    with pytest.raises(DataError, match=message):
        read_codiesp(_publish(tmp_path, FILES | {f"{ROOT}/testX.tsv": tsv})[0])


def test_a_folder_without_it(tmp_path):
    with pytest.raises(
        DataError, match=r"expected final_dataset_v4_to_publish/test/testX\.tsv.*found no files called testX\.tsv"
    ):
        read_codiesp(_publish(tmp_path, CANTEMIST)[1])
