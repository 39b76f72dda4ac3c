import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsap.errors import DataError
from xsap.terms.mentions import read_id_names, read_pairs

KINDS = {"id||name||name": (read_pairs, 3), "id||name": (read_id_names, 2)}
both = pytest.mark.parametrize("form", KINDS)
cells = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\n\r|\ufeff"), min_size=1, max_size=8
).filter(str.strip)
steady = settings(max_examples=60, deadline=None)


def read(form, path, data):
    path.write_bytes(data)
    return KINDS[form][0](path)


@both
@steady
@given(data=st.data())
def test_what_is_written_is_read_in_its_order_whatever_ends_the_lines(tmp_path_factory, form, data):
    width = KINDS[form][1]
    rows = data.draw(st.lists(st.tuples(*[cells] * width), min_size=1, max_size=5))
    bom, end, last = data.draw(
        st.tuples(st.sampled_from(["", "\ufeff"]), st.sampled_from(["\n", "\r\n"]), st.booleans())
    )
    text = bom + end.join("||".join(row) for row in rows) + end * last
    columns = read(form, tmp_path_factory.getbasetemp() / "pairs.txt", text.encode())
    assert list(zip(*columns, strict=True)) == [tuple(cell.strip() for cell in row) for row in rows]


def test_columns_have_their_names(tmp_path):
    pairs = read("id||name||name", tmp_path / "p.txt", b"C1||fever||fiebre\nC2||cough||tos\n")
    assert (pairs.concept_ids, pairs.left, pairs.right) == (["C1", "C2"], ["fever", "cough"], ["fiebre", "tos"])
    queries = read("id||name", tmp_path / "q.txt", b"C1|C3||fever\nC2+C4||cough\n")
    assert (queries.concept_ids, queries.names) == (["C1|C3", "C2+C4"], ["fever", "cough"])


@pytest.mark.parametrize(
    "odd", ["a\u2028b", "a\u2029b", "a\x0bb", "a\x0cb", "a\x1cb", "a\x85b", "a\rb", 'a"b', "a|b", "a\tb", "'a"]
)
def test_what_may_look_like_the_end_of_a_line_or_cell_stays_in_its_name(tmp_path, odd):
    pairs = read("id||name||name", tmp_path / "p.txt", f"C1||{odd}||b\nC2||c||d\n".encode())
    assert (pairs.concept_ids, pairs.left) == (["C1", "C2"], [odd, "c"])


@both
@pytest.mark.parametrize("bad", ["C1||fever||fiebre||x", "C1", "", "C1|| ", "||a||b", "C1||a||", "|| || "])
def test_a_line_of_another_form_is_named(tmp_path, form, bad):
    good = "||".join("abc"[: KINDS[form][1]])
    with pytest.raises(DataError, match=rf"p\.txt:2: expected {form.replace('|', '.')}, found"):
        read(form, tmp_path / "p.txt", f"{good}\n{bad}\n{good}\n".encode())


@both
@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_is_an_error(tmp_path, form, content_hash):
    with pytest.raises(DataError, match=r"p\.txt: expected at least one line .* empty file"):
        read(form, tmp_path / "p.txt", content_hash)


@both
def test_bytes_that_are_no_utf8_are_placed(tmp_path, form):
    with pytest.raises(DataError, match=r"p\.txt:1: expected UTF-8, found byte 0xe9 at column 5 of the line"):
        read(form, tmp_path / "p.txt", b"C1||\xe9||b\n")


@both
def test_a_missing_file_is_named(tmp_path, form):
    with pytest.raises(DataError, match=r"none\.txt: expected a file, found nothing there"):
        KINDS[form][0](tmp_path / "none.txt")
