import json
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsap.linking.results import Candidate, Result
from xsap.tabular.link_file import ANSWER, CANDIDATE, Answer, added, decode_answer, encode_answer, with_answers
from xsap.tabular.readers import Chunk, cells_of

FEVER = Candidate("C1", "Fever", "pyrexia", 0.9, "fr", "S2", ("Finding", "Sign"), ("S:1", "T:é\n2"), 0.123456789)
COLD = Candidate("C2", "Cold", "Cold", 1 / 3, "en", "S")
BOTH = [
    ["C1", "Fever", "pyrexia", "fr", "S2", ("Finding", "Sign"), ("S:1", "T:é\n2"), 0.9, 0.123457],
    ["C2", "Cold", "Cold", "en", "S", (), (), 0.333333, None],
]
NO_CONCEPT = Answer([], "the mention is blank")


def test_every_field_of_a_candidate_has_its_column():
    assert sorted(CANDIDATE) == sorted(Candidate.__slots__)


def test_a_result_as_a_line_and_back():
    line = encode_answer(Result("fiebre", (FEVER, COLD)))
    assert b"\n" not in line
    assert decode_answer(line) == (BOTH, None)
    assert decode_answer(encode_answer(Result(" ", (), "the mention is blank"))) == NO_CONCEPT
    assert decode_answer(encode_answer(Result("x", ()))) == (
        [],
        "no candidates",
    )  # a row without an answer always says why
    assert decode_answer(encode_answer(Result("x", (COLD,), "unsure"))) == (BOTH[1:], "unsure")
    assert len(decode_answer(encode_answer(Result("x", (replace(FEVER, name="\udc80"),)))).candidates[0]) == len(
        CANDIDATE
    )


@pytest.mark.parametrize("line", [b"", b"1", b"[]", b'[[["C1"]],null]', b'{"a": 1}', b"[1,2]"])
def test_another_line_is_none(line):
    with pytest.raises((ValueError, TypeError)):
        decode_answer(line)


def test_long_form_keeps_every_row_and_its_other_columns():
    sheet = Chunk(["id", "name"], [["7", "8", "9"], pa.chunked_array([["fiebre", " ", "x"]])])
    found = with_answers(sheet, [Answer(BOTH, None), NO_CONCEPT, Answer(BOTH[1:], "unsure")], wide=None)
    assert found.header == ["id", "name", *ANSWER[:2], "linked_name", *ANSWER[3:]]
    assert list(zip(*map(cells_of, found.columns), strict=True)) == [
        ("7", "fiebre", 1, *BOTH[0], None),
        ("7", "fiebre", 2, *BOTH[1], None),
        ("8", " ", *[None] * 10, "the mention is blank"),
        ("9", "x", 1, *BOTH[1], "unsure"),
    ]
    assert isinstance(found.columns[1], pa.ChunkedArray)


def test_wide_form_has_a_row_for_each():
    sheet = Chunk(["name_2"], [["a", "b"]])
    found = with_answers(sheet, [Answer(BOTH[:1], None), NO_CONCEPT], wide=2)
    assert found.header == ["name_2", *(f"{field}_1" for field in CANDIDATE), "concept_id_2", "linked_name_2", *(f"{field}_2" for field in CANDIDATE[2:]), "reason"]  # fmt: skip
    assert list(zip(*found.columns, strict=True)) == [
        ("a", *BOTH[0], *[None] * 9, None),
        ("b", *[None] * 18, "the mention is blank"),
    ]


def test_names_that_are_taken_already():
    names, types = added(["name", "linked_name", "rank", "linked_rank_"], wide=None)
    assert (names[0], names[2]) == ("linked_rank", "linked_linked_name")
    assert len(names) == len(types) == len(ANSWER)
    assert set(added(["reason"], wide=3)[0]) >= {"linked_reason", "concept_id_1", "confidence_3"}


@given(data=st.data(), count=st.integers(0, 4), wide=st.one_of(st.none(), st.integers(1, 3)))
def test_against_a_naive_table(data, count, wide):
    most = wide or 3
    answers = []
    for row in range(count):
        found = [[f"C{row}.{rank}", *[None] * 6, rank / 7, None] for rank in range(data.draw(st.integers(0, most)))]
        answers.append(Answer(found, None if found else "why"))
    sheet = Chunk(["term"], [[f"t{row}" for row in range(count)]])
    found = with_answers(sheet, answers, wide=wide)
    rows = [dict(zip(found.header, row, strict=True)) for row in zip(*found.columns, strict=True)]
    expected = []
    for row, (candidates, reason) in enumerate(answers):
        if wide is None:
            for rank in range(max(1, len(candidates))):
                shown = dict(zip(CANDIDATE, candidates[rank], strict=True)) if candidates else dict.fromkeys(CANDIDATE)
                expected.append(
                    {"term": f"t{row}", "rank": rank + 1 if candidates else None} | shown | {"reason": reason}
                )
        else:
            line = {"term": f"t{row}"}
            for rank in range(wide):
                for place, field in enumerate(CANDIDATE):
                    line[f"{field}_{rank + 1}"] = candidates[rank][place] if rank < len(candidates) else None
            expected.append(line | {"reason": reason})
    assert rows == expected
    assert json.dumps(rows)
