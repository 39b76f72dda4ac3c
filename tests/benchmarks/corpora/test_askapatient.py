"""AskAPatient's folds as files, folders and the published zip, in the encodings that occur."""

import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpora.askapatient import read_askapatient
from xsap.errors import DataError
from xsap.terms.mentions import SCHEMA

FOLDS = {
    "AskAPatient.fold-0.test.txt": b"100000001\tFoggy head\tbrain fog\n20000001000036102\tZorbix 5 mg\tthe zorb's \x96 no, zorbix\r\n",
    "AskAPatient.fold-2.test.txt": "100000002\tAché\tmy aché \n100000002\tAché\tcouldn’t move\n".encode(),
    "AskAPatient.fold-10.test.txt": b"\xef\xbb\xbf100000003\tNausea\tna\xefve tummy\t\n\n",
    "AskAPatient.fold-0.train.txt": b"1\tA\ttraining\n",
    "AskAPatient.fold-0.validation.txt": b"1\tA\tvalidation\n",
}
SHORT = {
    "AskAPatient.fold-0.test.preprocessed_query.txt": b"100000001||brain fog\n",
    "AskAPatient.dict.txt": b"100000001||foggy head\n",
}
MENTIONS = ["brain fog", "the zorb's – no, zorbix", "my aché", "couldn’t move", "naïve tummy"]


def _folder(path, files):
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def test_folds_are_read_in_numeric_order(tmp_path):
    table = read_askapatient(_folder(tmp_path, FOLDS))
    assert table.schema == SCHEMA
    assert table["mention"].to_pylist() == MENTIONS
    assert table["concept_ids"].to_pylist() == [
        ["100000001"],
        ["20000001000036102"],
        ["100000002"],
        ["100000002"],
        ["100000003"],
    ]
    assert table["document_id"].to_pylist() == ["fold-0", "fold-0", "fold-2", "fold-2", "fold-10"]
    assert set(table["language"].to_pylist()) == {"en"}
    assert {table[name].null_count for name in ("context", "start", "end")} == {5}


def test_zip_folder_and_file_give_same_mentions(tmp_path):
    folder = _folder(tmp_path / "datasets" / "AskAPatient", FOLDS)
    everything = read_askapatient(folder)
    assert read_askapatient(tmp_path).equals(everything)
    assert read_askapatient(folder, fold=10)["mention"].to_pylist() == ["naïve tummy"]
    assert read_askapatient(folder / "AskAPatient.fold-2.test.txt")["mention"].to_pylist() == MENTIONS[2:4]
    for top in ("datasets", "DATASETS"):
        with zipfile.ZipFile(tmp_path / f"{top}.zip", "w") as archive:
            for name, content in FOLDS.items():
                archive.writestr(f"{top}/AskAPatient/{name}", content)
                archive.writestr(f"__MACOSX/{top}/AskAPatient/{name}", b"\0\x05\x16\x07")
            archive.writestr(f"{top}/TwADR-L/TwADR-L.fold-0.test.txt", b"C1\tX\ttwitter\n")
        assert read_askapatient(tmp_path / f"{top}.zip").equals(everything)
    assert read_askapatient(tmp_path / "datasets.zip", fold=0)["mention"].to_pylist() == MENTIONS[:2]


def test_sapbert_format_is_read_only_without_published_format(tmp_path):
    table = read_askapatient(_folder(tmp_path, SHORT))
    assert (table["mention"].to_pylist(), table["concept_ids"].to_pylist()) == (["brain fog"], [["100000001"]])
    assert read_askapatient(_folder(tmp_path, FOLDS), fold=0)["mention"].to_pylist() == MENTIONS[:2]


@given(st.text(alphabet=st.characters(codec="cp1252", min_codepoint=33), min_size=1, max_size=12))
def test_windows_1252_lines_are_decoded(tmp_path_factory, phrase):
    content = b"100000001\tX\t" + phrase.encode("cp1252") + b"\xff\n"  # the last byte is never UTF-8
    path = _folder(tmp_path_factory.mktemp("a"), {"AskAPatient.fold-0.test.txt": content})
    assert read_askapatient(path)["mention"].to_pylist() == [(phrase + "ÿ").strip()]


@pytest.mark.parametrize(
    "line", [b"100000001\tlabel", b"1\t2\t3\t4", b"fever", b"\tlabel\tphrase", b"1||a||b", b"||phrase"]
)
def test_malformed_line_is_reported(tmp_path, line):
    _folder(tmp_path, {"AskAPatient.fold-3.test.txt": b"1\tlabel\tphrase\n" + line + b"\n"})
    with pytest.raises(
        DataError,
        match=r"AskAPatient\.fold-3\.test\.txt:2: expected identifier<tab>label<tab>phrase, or identifier\|\|phrase",
    ):
        read_askapatient(tmp_path)


def test_path_without_folds_is_reported(tmp_path):
    folder = _folder(tmp_path / "a", FOLDS)
    with pytest.raises(
        DataError, match=r"expected files AskAPatient\.fold-0\.test\.txt, … with fold 7; found folds: 0, 2, 10"
    ):
        read_askapatient(folder, fold=7)
    with pytest.raises(DataError, match="found folds: none"):
        read_askapatient(folder / "AskAPatient.fold-0.train.txt")
    with pytest.raises(DataError, match="found nothing there"):
        read_askapatient(tmp_path / "gone")
    with pytest.raises(DataError, match="expected lines identifier.*found none"):
        read_askapatient(_folder(tmp_path / "b", {"AskAPatient.fold-0.test.txt": b"\n"}))
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("AskAPatient.fold-0.test.txt", b"100000001\tlabel\tphrase\n")
    broken = (tmp_path / "x.zip").read_bytes().replace(b"phrase", b"fraise", 1)
    (tmp_path / "x.zip").write_bytes(broken)
    with pytest.raises(DataError, match=r"x\.zip: expected a zip file of .*Bad CRC"):
        read_askapatient(tmp_path / "x.zip")
