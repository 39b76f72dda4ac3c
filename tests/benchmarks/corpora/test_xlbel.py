"""XL-BEL files: both published versions, their unusual lines, and files of another format."""

import pytest

from benchmarks.corpora.xlbel import find_xlbel_files, read_xlbel, read_xlbel_version
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


def test_file_without_contexts_gives_mentions_in_order(tmp_path):
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


def test_context_loses_tags_and_offsets_survive_tsv_round_trip(tmp_path):
    table = read_xlbel([_write(tmp_path, "de_1k_test_query_with_context.txt", V1)])
    write_mentions(table, tmp_path / "out.tsv")
    first, second, third = read_mentions(tmp_path / "out.tsv").to_pylist()
    assert first["context"] == "Die Akrozyanose ist harmlos ."
    assert [row["context"][row["start"] : row["end"]] for row in (first, second)] == ["Akrozyanose", "Trichter-"]
    assert (first["start"], second["start"]) == (4, 0)
    assert third["context"] == 'Artikel "Geschlechtsidentität und " die'
    assert (third["mention"], third["start"], third["end"]) == ("-dysphorie", None, None)


def test_language_comes_from_file_name_or_argument(tmp_path):
    files = [_write(tmp_path, f"{code}_1k_test_query.txt", "C0008301||窒息\n") for code in ("zh", "ja")]
    assert read_xlbel(files)["language"].to_pylist() == ["zh", "ja"]
    other = _write(tmp_path, "queries.txt", "C0008301||窒息\n")
    assert read_xlbel([other], language="chi")["language"].to_pylist() == ["zh"]
    with pytest.raises(DataError, match=r"queries\.txt: its name doesn't begin with a language.*--language"):
        read_xlbel([other])


def test_bom_crlf_and_line_separator_in_mention(tmp_path):
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
def test_malformed_line_is_reported(tmp_path, line):
    path = _write(tmp_path, "en_1k_test_query.txt", f"C0015967||fever\n{line}\n")
    with pytest.raises(
        DataError, match=r"en_1k_test_query\.txt:2: expected .*(CUI\[\|CUI…\]\|\|mention|<tgt>mention</tgt>)"
    ):
        read_xlbel([path])


def test_context_without_both_tags_is_reported(tmp_path):
    path = _write(tmp_path, "en_c.txt", "C0015967||fever||high <tgt>fever at night\n")
    with pytest.raises(
        DataError, match=r"en_c\.txt:1: expected <tgt>mention</tgt> in the context; found 'high <tgt>fever at night'"
    ):
        read_xlbel([path])


def test_empty_or_missing_file_is_reported(tmp_path):
    with pytest.raises(DataError, match="found an empty file"):
        read_xlbel([_write(tmp_path, "en_empty.txt", "")])
    with pytest.raises(DataError, match="found nothing there"):
        read_xlbel([tmp_path / "en_gone.txt"])


V0_FILES = {
    "de_1k_test_query.txt": "C0000001||Wackelfieber\nC0000001|C0000002||Wackeln\nC0000009||Leberrauschen\n",
    "es_1k_test_query.txt": "C0000002||tembleque\n",
    "all_1k_test_query.txt": "C0000002||nobody's language\n",
}
V1_FILES = {
    "de_1k_test_query_with_context.txt": "C0000001||Wackelfieber||Das <tgt>Wackelfieber</tgt> ist selten.\n",
    "zh_1k_test_query_with_context.txt": "C0000003||抖||他<tgt>抖</tgt>了。\n",
}


@pytest.fixture
def both_versions(tmp_path):
    """A folder with both versions, and v0.0's file of all languages."""
    for folder, files in (("xlbel_v0.0", V0_FILES), ("xlbel_v1.0", V1_FILES)):
        (tmp_path / "xlbel" / folder).mkdir(parents=True)
        for name, text in files.items():
            _write(tmp_path / "xlbel" / folder, name, text)
    return tmp_path / "xlbel"


def test_read_xlbel_version_reads_all_languages_of_that_version(both_versions):
    assert read_xlbel_version(both_versions, contexts=False)["language"].to_pylist() == ["de", "de", "de", "es"]
    assert read_xlbel_version(both_versions, contexts=True)["context"].to_pylist() == [
        "Das Wackelfieber ist selten.",
        "他抖了。",
    ]


def test_read_xlbel_version_rejects_files_of_the_other_version_by_content(tmp_path, both_versions):
    for contexts, file in (
        (True, "xlbel_v0.0/de_1k_test_query.txt"),
        (False, "xlbel_v1.0/de_1k_test_query_with_context.txt"),
    ):
        with pytest.raises(DataError, match=r"expected XL-BEL v[01]\.0, whose lines .* Is it the other version\?"):
            read_xlbel_version(both_versions / file, contexts=contexts)
    mixed = _write(
        tmp_path, "de_x.txt", V0_FILES["de_1k_test_query.txt"] + V1_FILES["de_1k_test_query_with_context.txt"]
    )
    for contexts in (False, True):
        with pytest.raises(DataError, match="found 3 of 4 lines without"):
            read_xlbel_version(mixed, contexts=contexts)


def test_find_xlbel_files_finds_one_file_per_language(tmp_path, both_versions):
    assert [file.name for file in find_xlbel_files(both_versions, contexts=False)] == [
        "de_1k_test_query.txt",
        "es_1k_test_query.txt",
    ]
    assert [file.name for file in find_xlbel_files(both_versions, contexts=True)] == [*V1_FILES]
    one = both_versions / "xlbel_v0.0" / "de_1k_test_query.txt"
    assert find_xlbel_files(one, contexts=False) == [one]
    (both_versions / "copy").mkdir()
    _write(both_versions / "copy", "es_1k_test_query.txt", "C1||x\n")
    with pytest.raises(DataError, match="each once; found several of one name"):
        find_xlbel_files(both_versions, contexts=False)
    (tmp_path / "none").mkdir()
    _write(tmp_path / "none", "all_1k_test_query.txt", "C1||x\n")
    for folder in (tmp_path / "gone", tmp_path / "none"):
        with pytest.raises(DataError, match=r"de_1k_test_query\.txt, each once; found none"):
            find_xlbel_files(folder, contexts=False)
