"""Annotated corpora as mentions with context, and what `read_gold` makes of each kind of file."""

import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xsap.errors import ConfigError, DataError
from xsap.exchange.decided_mentions import read_gold
from xsap.terms.annotated_corpora import WINDOW

TEXT = "The patient had a  cold and pain\nin the left chest.\n"


def write_brat(folder, annotations, text=TEXT):
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text(text, encoding="utf-8")
    (folder / "sub" / "a.ann").write_text(annotations, encoding="utf-8")
    return folder


def rows_of(table):
    return [{key: value for key, value in row.items() if value is not None} for row in table.to_pylist()]


def test_a_brat_folder_has_pieces_normalizations_and_notes_and_counts_the_rest(tmp_path, caplog):
    cold, pain = TEXT.index("cold"), TEXT.index("pain")
    chest = TEXT.index("chest")
    write_brat(
        tmp_path / "corpus",
        f"T1\tDISO {cold} {cold + 4}\tcold\nN1\tReference T1 UMLS:C0009443\tCommon cold\n"
        f"T2\tDISO {pain} {pain + 4};{chest} {chest + 5}\tpain chest\nN2\tReference T2 HP:0100749\tChest pain\n"
        f"T3\tPERSON 4 11\tpatient\n#1\tAnnotatorNotes T3\tnot sure about this\n"
        f"T4\tMORPH {chest} {chest + 5}\tchest\n#2\tAnnotatorNotes T4\t8000/6\n"
        f"T5\tDISO 12 15\thad\nN3\tReference T5 UMLS:-1\tnothing\n",
    )
    with caplog.at_level(logging.INFO):
        table = read_gold(tmp_path / "corpus")
    context = "The patient had a cold and pain in the left chest."
    shared = {"language": "und", "context": context, "document_id": "sub/a"}
    assert rows_of(table) == [
        {"mention": "cold", "concept_ids": ["C0009443"], "start": 18, "end": 22, **shared},
        {"mention": "pain chest", "concept_ids": ["HP:0100749", "0100749"], "start": 27, "end": 49, **shared},
        {"mention": "chest", "concept_ids": ["8000/6"], "start": 44, "end": 49, **shared},
        {"mention": "had", "concept_ids": [], "start": 12, "end": 15, **shared},
    ]
    assert "4 of 5 annotations; without a normalization or a note that is a code: 1" in caplog.text


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_a_data_set_in_bigbio_s_schema_is_recognized_by_its_columns(tmp_path, ending):
    entity = {"type": "DISO", "text": ["cold"], "offsets": [[2, 6]]}
    documents = [
        {
            "document_id": "d1",
            "passages": [{"text": ["A cold."]}],
            "entities": [
                entity | {"normalized": [{"db_name": "UMLS", "db_id": "C1"}, {"db_name": "MESH", "db_id": "D1"}]},
                entity | {"type": "OTHER", "normalized": []},
            ],
        }
    ]
    path = tmp_path / f"test.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(documents), path)
    else:
        path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    assert rows_of(read_gold(path)) == [
        {
            "mention": "cold", "language": "und", "concept_ids": ["C1", "D1"], "context": "A cold.", "start": 2, "end": 6,
            "document_id": "d1",
        }
    ]  # fmt: skip


def test_a_file_of_codiesp_is_recognized_by_its_first_line_and_its_folder_by_the_file(tmp_path):
    folder = tmp_path / "train"
    (folder / "text_files").mkdir(parents=True)
    (folder / "text_files" / "s1.txt").write_text("Dolor en el pecho.", encoding="utf-8")
    (folder / "trainX.tsv").write_text("s1\tDIAGNOSTICO\tr07.9\tDolor pecho\t0 5;12 17\n")
    for path in (folder, folder / "trainX.tsv"):
        assert rows_of(read_gold(path)) == [
            {
                "mention": "Dolor pecho", "language": "es", "concept_ids": ["r07.9"], "context": "Dolor en el pecho.",
                "start": 0, "end": 17, "document_id": "s1",
            }
        ]  # fmt: skip


def test_a_context_is_a_window_of_whole_words_that_start_and_end_point_into(tmp_path):
    words = " ".join(f"word{i}" for i in range(300))
    at = words.index("word150")
    write_brat(tmp_path / "corpus", f"T1\tX {at} {at + 7}\tword150\nN1\tReference T1 X:1\tx\n", words)
    (row,) = read_gold(tmp_path / "corpus").to_pylist()
    assert row["context"][row["start"] : row["end"]] == "word150"
    assert row["context"] in words
    assert set(row["context"].split()) < set(words.split())
    assert 2 * WINDOW - 16 <= len(row["context"]) - 7 <= 2 * WINDOW


def test_what_a_corpus_can_not_be_read_with_is_refused(tmp_path):
    write_brat(tmp_path / "corpus", "T1\tX 0 3\tThe\n")
    with pytest.raises(DataError, match="found 0 mentions and no such concept"):
        read_gold(tmp_path / "corpus")
    with pytest.raises(ConfigError, match="a corpus has no columns"):
        read_gold(tmp_path / "corpus", columns={"mention": "x"})
    for name in ("trainX.tsv", "devX.tsv"):
        (tmp_path / name).write_text("s1\tDIAGNOSTICO\tr07.9\tx\t0 1\n")
    (tmp_path / "both").mkdir()
    for name in ("trainX.tsv", "devX.tsv"):
        (tmp_path / name).rename(tmp_path / "both" / name)
    with pytest.raises(DataError, match=r"found 2 \(devX\.tsv, trainX\.tsv\); give one of them"):
        read_gold(tmp_path / "both")
