"""Opening text files: compression, UTF-8, lines, and the dialects of CSV, TSV and JSONL."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsap.errors import DataError
from xsap.files import read_lines


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\n\n", ["a", ""]),
        (b"\xef\xbb\xbfa\n", ["a"]),
        ("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh\n".encode(), ["a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh"]),
        ("a\ufeff\n\ufeffb\n".encode(), ["a\ufeff", "\ufeffb"]),
    ],
)
def test_read_lines_splits_at_newlines_only(tmp_path, data, lines):
    (tmp_path / "x").write_bytes(data)
    assert read_lines(tmp_path / "x") == lines


plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\0"), max_size=6).filter(
    lambda s: not s.endswith("\r")
)


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(plain, max_size=5), end=st.sampled_from(["\n", "\r\n"]), bom=st.sampled_from(["", "\ufeff"]))
def test_read_lines_returns_written_lines_for_any_line_end(tmp_path_factory, lines, end, bom):
    file = tmp_path_factory.getbasetemp() / "lines.txt"
    file.write_bytes((bom + "".join(line + end for line in lines)).encode())
    if bom or not lines or not lines[0].startswith("\ufeff"):
        assert read_lines(file) == lines


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_read_lines_reports_line_and_column_of_the_first_byte_that_is_not_utf8(tmp_path, bom):
    (tmp_path / "x").write_bytes(bom + b"a\nfi\xe9vre\xff")
    with pytest.raises(DataError, match=r"x:2: expected UTF-8, found byte 0xe9 at column 3 of the line; convert"):
        read_lines(tmp_path / "x")


def test_read_lines_names_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path / 'x'}: expected a file, found nothing there"):
        read_lines(tmp_path / "x")
    with pytest.raises(DataError, match=f"{tmp_path}: expected a file, found a folder there"):
        read_lines(tmp_path)
