"""Mantra GSC's brat zip: a fragment in its published layout, hidden files included, and wrong archives."""

import zipfile

import pytest

from benchmarks.corpora.mantra import read_mantra
from xsap.errors import DataError
from xsap.terms.mentions import read_mentions, write_mentions

GERMAN = "Mantra-GSC/German/Medline_EN_DE_ec22-cui-best_man/0292_d3878997.u1"
DUTCH = "Mantra-GSC/Dutch/EMEA_ec22-cui-best_man/0040_d227.u76"
FILES = {
    "Mantra-GSC/": b"",
    "__MACOSX/Mantra-GSC/German/._German": b"\x00\x05\x16\x07",
    f"__MACOSX/{GERMAN}.ann": b"\x00\x05\x16\x07\x00\x02junk",
    f"{GERMAN}.txt": "Über das  Vorkommen in der Augenhöhle eines Fisches.\n".encode(),
    f"{GERMAN}.ann": (
        'T1\tC0029180 27 37\tAugenhöhle\n#1\tAnnotatorNotes T1\t"C0029180", "Ocular orbit", "Body Space or Junction" ,"ANAT"\n'
        'T4\tC1278884 27 37\tAugenhöhle\n#4\tAnnotatorNotes T4\t"C1278884", "Entire orbital region", "Body Location" ,"ANAT"\n'
    ).encode(),
    f"{DUTCH}.txt": b"nier- of leveraandoeningen",
    f"{DUTCH}.ann": b"T2\tC0022658 0 4;14 26\tnier aandoeningen\r\n\r\n",
    "Mantra-GSC/Dutch/EMEA_ec22-cui-best_man/0041_d1.u1.txt": b"Niets.",
    "Mantra-GSC/Dutch/EMEA_ec22-cui-best_man/0041_d1.u1.ann": b"",
}


def _zip(folder, changes=None):
    path = folder / "Mantra-GSC-brat.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (FILES | (changes or {})).items():
            if content is not None:
                archive.writestr(name, content)
    return path


def test_annotations_become_located_mentions(tmp_path):
    rows = read_mantra(_zip(tmp_path)).to_pylist()
    keys = ("mention", "language", "concept_ids", "document_id", "start", "end")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("nier aandoeningen", "nl", ["C0022658"], "EMEA/0040_d227.u76", 0, 26),
        ("Augenhöhle", "de", ["C0029180"], "Medline_EN_DE/0292_d3878997.u1", 26, 36),
        ("Augenhöhle", "de", ["C1278884"], "Medline_EN_DE/0292_d3878997.u1", 26, 36),
    ]
    assert rows[1]["context"] == "Über das Vorkommen in der Augenhöhle eines Fisches."


def test_offsets_survive_tsv_round_trip(tmp_path):
    write_mentions(read_mantra(_zip(tmp_path)), tmp_path / "m.tsv")
    row = read_mentions(tmp_path / "m.tsv").to_pylist()[1]
    assert row["context"][row["start"] : row["end"]] == row["mention"] == "Augenhöhle"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {f"{DUTCH}.ann": b"T2\tC0022658 0 4\tnier\nT3\tC0022658 0 4 nier\n"},
            r"0040_d227\.u76\.ann:2: expected T1<tab>TYPE start end",
        ),
        (
            {f"{DUTCH}.ann": b"T2\tDISO 0 4\tnier\n"},
            r"\.ann:1: expected a CUI as the type of the annotation; found 'DISO'",
        ),
        ({f"{DUTCH}.ann": b"nier\n"}, r"\.ann:1: expected T1<tab>TYPE .* or another kind of line"),
        (
            {f"{DUTCH}.ann": b"T2\tC0022658 1 5\tnier\n"},
            r"\.ann:1: expected 'nier' at 1 5 in the text, found something else",
        ),
        ({f"{DUTCH}.ann": b"T2\tC0022658 14 27\taandoeningen\n"}, r"expected 'aandoeningen' at 14 27"),
        ({f"{DUTCH}.txt": None}, r"0040_d227\.u76\.txt: expected .*found no such file"),
        ({f"{DUTCH}.txt": b"ni\xe9r"}, r"\.txt: expected UTF-8, found byte 0xe9; convert"),
        ({"notes/x.ann": b""}, r"notes/x\.ann: expected Mantra-GSC/<Language>/<Corpus>/<unit>\.ann"),
        ({"Mantra-GSC/Klingon/EMEA/x.ann": b""}, r"Klingon/EMEA/x\.ann: unknown language 'Klingon'"),
    ],
)
def test_wrong_file_in_zip_is_reported(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read_mantra(_zip(tmp_path, changes))


def test_wrong_archive_is_reported_and_folder_is_read(tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(DataError, match="expected a zip file of Mantra-GSC/<Language>"):
        read_mantra(tmp_path / "text.zip")
    with pytest.raises(
        DataError, match="expected Mantra-GSC.* with annotations whose types are CUIs; found 0 mentions"
    ):
        read_mantra(_zip(tmp_path, dict.fromkeys(FILES)))
    with zipfile.ZipFile(_zip(tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert read_mantra(tmp_path / "unpacked" / "Mantra-GSC").equals(read_mantra(_zip(tmp_path)))
    with pytest.raises(DataError, match="found nothing there"):
        read_mantra(tmp_path / "gone.zip")
