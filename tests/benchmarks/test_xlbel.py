"""XL-BEL files: both published forms, their odd lines, and what is said of a file that is neither."""

import pytest

from benchmarks.corpora.xlbel import read_xlbel
from xsap.errors import DataError
from xsap.terms.mentions import read_mentions, write_mentions

# the published form, down to spaces around links and a German line that marks nothing
V1 = (
    "C0221347||Akrozyanose||Die  <tgt>Akrozyanose</tgt>  ist  harmlos .\n"
    "C2051831|C0016842||Trichter-||<tgt>Trichter-</tgt> und Kielbrust\n"
    'C3176494||-dysphorie||Artikel "Geschlechtsidentität und  <tgt></tgt> " die\n'
)


def _write(folder, name, text):
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_file_without_context_gives_mentions_in_its_order(tmp_path):
    path = _write(
        tmp_path,
        "es_1k_test_query.txt",
        "C0003864||poliartritis\nC2275750|CN029274||Malaxis sp. (L.)\n90058||poliartritis\n",
    )
    rows = read_xlbel([path]).to_pylist()
    assert [(row["mention"], row["language"], row["concept_ids"]) for row in rows] == [
        ("poliartritis", "es", ["C0003864"]),
        ("Malaxis sp. (L.)", "es", ["C2275750", "CN029274"]),
        ("poliartritis", "es", ["90058"]),
    ]
    assert {row[key] for row in rows for key in ("context", "start", "end", "document_id")} == {None}


def test_a_context_loses_its_marks_and_keeps_the_place_through_a_tsv_file(tmp_path):
    table = read_xlbel([_write(tmp_path, "de_1k_test_query_with_context.txt", V1)])
    write_mentions(table, tmp_path / "out.tsv")
    first, second, third = read_mentions(tmp_path / "out.tsv").to_pylist()
    assert first["context"] == "Die Akrozyanose ist harmlos ."
    assert [row["context"][row["start"] : row["end"]] for row in (first, second)] == ["Akrozyanose", "Trichter-"]
    assert (first["start"], second["start"]) == (4, 0)
    assert third["context"] == 'Artikel "Geschlechtsidentität und " die'
    assert (third["mention"], third["start"], third["end"]) == ("-dysphorie", None, None)


def test_several_files_keep_their_own_language(tmp_path):
    files = [_write(tmp_path, f"{code}_1k_test_query.txt", "C0008301||窒息\n") for code in ("zh", "ja")]
    assert read_xlbel(files)["language"].to_pylist() == ["zh", "ja"]
    other = _write(tmp_path, "queries.txt", "C0008301||窒息\n")
    assert read_xlbel([other], language="chi")["language"].to_pylist() == ["zh"]
    with pytest.raises(DataError, match=r"queries\.txt: its name doesn't begin with a language.*--language"):
        read_xlbel([other])


def test_byte_order_mark_crlf_and_line_separators_inside_a_mention(tmp_path):
    path = _write(tmp_path, "en_x.txt", "\ufeffC0000001||line\u2028separator\r\nC0000002||b\r\n".encode())
    assert read_xlbel([path])["mention"].to_pylist() == ["line\u2028separator", "b"]


@pytest.mark.parametrize(
    "line",
    [
        "C0000001|fever",
        "C0000001",
        "",
        "C0000001||",
        "C0000001||  ",
        "fever||C0000001",
        "C1||C2||",
        "C0000001, C0000002||fever",
        "C1|||fever",
    ],
)
def test_a_line_of_another_form_is_named(tmp_path, line):
    path = _write(tmp_path, "en_1k_test_query.txt", f"C0015967||fever\n{line}\n")
    with pytest.raises(
        DataError, match=r"en_1k_test_query\.txt:2: expected .*(CUI\[\|CUI…\]\|\|mention|<tgt>mention</tgt>)"
    ):
        read_xlbel([path])


def test_a_context_without_a_whole_mark_is_named(tmp_path):
    path = _write(tmp_path, "en_c.txt", "C0015967||fever||high <tgt>fever at night\n")
    with pytest.raises(
        DataError, match=r"en_c\.txt:1: expected <tgt>mention</tgt> in the context; found 'high <tgt>fever at night'"
    ):
        read_xlbel([path])


def test_an_empty_file_and_a_missing_one(tmp_path):
    with pytest.raises(DataError, match="found an empty file"):
        read_xlbel([_write(tmp_path, "en_empty.txt", "")])
    with pytest.raises(DataError, match="found nothing there"):
        read_xlbel([tmp_path / "en_gone.txt"])
