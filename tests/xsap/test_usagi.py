"""Usagi's save file: its bytes, what a second reader that is as strict as Usagi makes of them, and files that were edited elsewhere."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from tests.fixtures.mappings import PYREXIA, WORDS
from xsap.errors import DataError
from xsap.exchange.mapping import Equivalence, MappedConcept, Mapping, Signature, Status
from xsap.exchange.usagi import read_saved_mappings, read_usagi
from xsap.exchange.usagi_text import decode_cell, encode_cell
from xsap.exchange.usagi_writer import shown_score, write_usagi

HEADER = (
    "sourceCode,sourceName,sourceFrequency,sourceAutoAssignedConceptIds,ADD_INFO:ward,matchScore,mappingStatus,equivalence,statusSetBy,"
    "statusSetOn,conceptId,conceptName,domainId,mappingType,comment,createdBy,createdOn,assignedReviewer\n"
)
MADE = Signature("xsap", 1700000000000)
REVIEWER = Signature("R. One", 1700000000001)


def concept(number, name="c", domain="Condition", mapping_type="MAPS_TO"):
    return MappedConcept(str(number), name, domain=domain, mapping_type=mapping_type)


def mapped(code, name, *targets, ward="", **fields):
    return Mapping(code, name, targets, columns={"ward": ward}, created=MADE, **fields)


GOLDEN = {
    '1,plain,12,,A3,0.13,UNCHECKED,UNREVIEWED,,0,101,c,Condition,MAPS_TO,,xsap,1700000000000,\n': mapped(
        "1", "plain", concept(101), ward="A3", frequency=12, score=0.125
    ),
    '2,"say ""a, b""",-1,,,1.00,APPROVED,EQUAL,R. One,1700000000001,102,c,Condition,MAPS_TO,"x, ""y""",xsap,1700000000000,\n': mapped(
        "2", 'say "a, b"', concept(102), status=Status.APPROVED, equivalence=Equivalence.EQUAL, decided=REVIEWER, score=1.0, comment='x, "y"'
    ),
    "3,both,0,,,0.50,APPROVED,WIDER,R. One,1700000000001,103,c,Condition,MAPS_TO,,xsap,1700000000000,\n"
    "3,both,0,,,0.50,APPROVED,WIDER,R. One,1700000000001,104,c,Drug,MAPS_TO_VALUE,,xsap,1700000000000,\n": mapped(
        "3", "both", concept(103), concept(104, domain="Drug", mapping_type="MAPS_TO_VALUE"), status=Status.APPROVED,
        equivalence=Equivalence.WIDER, decided=REVIEWER, score=0.5, frequency=0,
    ),
    "4,a\\\\b\\nc\\\\,-1,,,0.00,APPROVED,UNMATCHED,R. One,1700000000001,0,Unmapped,,MAPS_TO,none,,0,Ana\n": mapped(
        "4", "a\\b\nc\\", status=Status.NO_MATCH, equivalence=Equivalence.UNMATCHED, decided=REVIEWER, comment="none", assigned_reviewer="Ana"
    ),
    "=1+1,'x,-1,7;8,,0.01,FLAGGED,UNREVIEWED,,0,105,c,Condition,MAPS_TO,,xsap,1700000000000,\n": replace(
        mapped("=1+1", "'x", concept(105), status=Status.FLAGGED, score=0.005), columns={"ward": "", "sourceAutoAssignedConceptIds": "7;8"}
    ),
}  # fmt: skip


def usagi_reads(text):
    """Values of each mapping, by plain loops that are as strict as Usagi: ValueError or KeyError where it stops."""
    first, *lines = text.split("\n")[:-1]
    header, groups = _cells(first), []
    for line in lines:
        row = dict(zip(header, [*_cells(line), *[""] * len(header)], strict=False))
        for column in ("sourceFrequency", "conceptId", "statusSetOn", "createdOn"):
            row[column] = int(row[column])
        assert -(2**31) <= row["sourceFrequency"] < 2**31
        assert 0 <= row["conceptId"] < 2**31
        row["auto"] = {int(part) for part in row["sourceAutoAssignedConceptIds"].split(";") if part}
        row["matchScore"] = float(row["matchScore"])
        if row["mappingStatus"] not in {"APPROVED", "UNCHECKED", "FLAGGED"}:
            raise ValueError(row["mappingStatus"])
        if groups and (groups[-1][0]["sourceCode"], groups[-1][0]["sourceName"]) == (
            row["sourceCode"],
            row["sourceName"],
        ):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _cells(line):
    cells, start, quoted, escaped = [], 0, False, False
    for at, character in enumerate(line):
        if character == '"' and not escaped:
            quoted = not quoted
        if character == "," and not quoted and not escaped:
            cells.append(line[start:at])
            start = at + 1
        escaped = character == "\\" and not escaped
    assert not quoted
    cells = [*cells, line[start:]]
    cells = [cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell for cell in cells]
    return [re.sub(r'\\([\\"])', r"\1", cell) for cell in cells]


def written(tmp_path, *mappings):
    write_usagi(mappings, tmp_path / "u.csv")
    return (tmp_path / "u.csv").read_bytes().decode()


def save(tmp_path, *rows, header=HEADER, **changes):
    """A file of rows that are lists of cells by column, plain ones for those that are not given."""
    names = header.rstrip("\n").split(",")
    plain = dict.fromkeys(names, "") | {
        "sourceCode": "A", "sourceName": "a", "sourceFrequency": "1", "mappingStatus": "UNCHECKED", "conceptId": "11",
        "statusSetOn": "0", "createdOn": "0",
    }  # fmt: skip
    lines = [",".join((plain | changes | row)[name] for name in names) for row in rows or [{}]]
    (tmp_path / "s.csv").write_text(header + "\n".join(lines) + "\n", encoding="utf-8", newline="")
    return tmp_path / "s.csv"


def test_writer_gives_usagis_bytes_and_reader_gives_the_mappings_back(tmp_path):
    assert written(tmp_path, *GOLDEN.values()) == HEADER + "".join(GOLDEN)
    mappings, repairs = read_usagi(tmp_path / "u.csv")
    kept = [replace(mapping, score=None) for mapping in mappings]
    expected = [
        replace(mapping, score=None, created=MADE if mapping.targets else Signature()) for mapping in GOLDEN.values()
    ]
    assert kept == expected
    assert repairs.remarks() == []
    assert written(tmp_path, *mappings) == HEADER + "".join(GOLDEN)


@settings(max_examples=examples(150), deadline=None)
@given(text=st.text(st.sampled_from('ab"\\,n\r\n é'), max_size=12))
def test_a_cell_comes_back_as_it_was(text):
    cell = encode_cell(text)
    assert "\n" not in cell
    assert "\r" not in cell
    assert decode_cell(cell) == text.replace("\r", "")
    assert _cells(f"x,{cell},y")[1] == text.replace("\r", "").replace("\n", "\\n")


MAPPINGS = st.builds(
    Mapping, WORDS, WORDS,
    st.lists(st.builds(MappedConcept, st.sampled_from(["1", "42", "2147483647"]), WORDS, domain=WORDS), max_size=2, unique_by=lambda c: c.concept_id).map(tuple),
    st.sampled_from(Status), st.sampled_from(Equivalence), frequency=st.one_of(st.none(), st.integers(0, 99)),
    columns=st.dictionaries(st.sampled_from(["x", 'y,"z"']), WORDS, max_size=2), score=st.one_of(st.none(), st.floats(-1, 1)),
    decided=st.builds(Signature, WORDS, st.integers(0, 10**13)), comment=WORDS,
)  # fmt: skip


@settings(max_examples=examples(80), deadline=None)
@given(mappings=st.lists(MAPPINGS, min_size=1, max_size=4, unique_by=lambda each: each.key))
def test_usagi_can_read_whatever_is_written(tmp_path_factory, mappings):
    folder = tmp_path_factory.getbasetemp()
    groups = usagi_reads(written(folder, *mappings))

    def shown(text):
        return text.replace("\r", "").replace("\n", "\\n")

    assert len(groups) == len(mappings)
    for group, mapping in zip(groups, mappings, strict=True):
        first = group[0]
        targets = [] if mapping.status is Status.NO_MATCH else [int(target.concept_id) for target in mapping.targets]
        assert (first["sourceName"], first["comment"]) == (shown(mapping.source_name), shown(mapping.comment))
        assert [row["conceptId"] for row in group] == (targets or [0])
        assert first["sourceFrequency"] == (-1 if mapping.frequency is None else mapping.frequency)
        assert abs(first["matchScore"] - (mapping.score or 0)) <= 0.00501
        for name, text in mapping.columns.items():
            assert first[f"ADD_INFO:{name}"] == shown(text)


def test_equal_terms_are_united_and_their_frequencies_added(tmp_path):
    rows = [
        mapped("A", "a", concept(1), frequency=2),
        mapped("B", "b", concept(2)),
        mapped("A", "a", concept(1), frequency=3),
    ]
    counts = write_usagi(rows, tmp_path / "u.csv")
    assert (counts.rows_in, counts.kept, counts.dropped) == (3, 2, {"equal terms, united": 1})
    assert [(m.source_code, m.frequency, len(m.targets)) for m in read_usagi(tmp_path / "u.csv")[0]] == [
        ("A", 5, 1),
        ("B", None, 1),
    ]


def test_terms_of_a_source_without_codes_are_numbered(tmp_path):
    rows = [mapped("", name, concept(1)) for name in ("a", "b", "a")]
    write_usagi(rows, tmp_path / "u.csv")
    assert [m.key for m in read_usagi(tmp_path / "u.csv")[0]] == [("1", "a"), ("2", "b")]


def test_candidates_language_confidence_and_second_reviewer_come_back_from_add_info(tmp_path):
    second = replace(PYREXIA, concept_id="437663", name="Fever (of (unknown) origin)", score=-0.25)
    mapping = replace(
        mapped("1", "Fieber", concept(1)),
        candidates=(PYREXIA, second),
        language="de",
        confidence=0.875,
        confirmed=REVIEWER,
    )
    header, row = written(tmp_path, mapping).splitlines()
    assert (
        "ADD_INFO:language,ADD_INFO:confidence,ADD_INFO:confirmed_by,ADD_INFO:confirmed_on,ADD_INFO:candidate_1,ADD_INFO:candidate_2"
        in header
    )
    assert ",HP:0001945 Fever (0.973),437663 Fever (of (unknown) origin) (-0.250)," in row
    [found], _ = read_usagi(tmp_path / "u.csv")
    assert [(c.concept_id, c.name, c.score) for c in found.candidates] == [
        ("HP:0001945", "Fever", 0.973),
        ("437663", second.name, -0.25),
    ]
    assert (found.language, found.confidence, found.confirmed) == ("de", 0.875, REVIEWER)


@pytest.mark.parametrize(
    ("mapping", "error"),
    [
        (mapped("A", "a", MappedConcept("HP:0001945")), "a whole number up to 2,147,483,647, a concept of OMOP, as conceptId of 'a' .* found 'HP:0001945'; .* --athena"),
        (mapped("A", "a", MappedConcept("900000000000207008")), "conceptId .*found '900000000000207008'"),
        (mapped("A", "a", MappedConcept("22298006", "", "SNOMEDCT", "22298006")), "a concept of OMOP as conceptId.*found the code|conceptId.*the code SNOMEDCT:22298006"),
        (mapped("A", "a", concept(1), frequency=2**31), "sourceFrequency.*found '2147483648'"),
        (mapped("A", "a", concept(1, mapping_type="EVENTUALLY")), "mappingType"),
        (mapped("A", "a\ud800", concept(1)), "text as sourceName"),
        (replace(mapped("A", "a", concept(1)), columns={"sourceAutoAssignedConceptIds": "1|2"}), "sourceAutoAssignedConceptIds.*found '1|2'"),
    ],
)  # fmt: skip
def test_what_usagi_could_not_read_is_refused_before_anything_is_written(tmp_path, mapping, error):
    with pytest.raises(DataError, match=error):
        write_usagi([mapped("B", "b", concept(2)), mapping], tmp_path / "u.csv")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_usagi_would_take_for_one_term_are_refused(tmp_path):
    rows = [mapped("A", "a", concept(number), status=Status.APPROVED) for number in (1, 2)]
    with pytest.raises(DataError, match="one decision for 'a' .code 'A'., found two that differ in rows that follow"):
        write_usagi(rows, tmp_path / "u.csv")
    write_usagi([rows[0], mapped("B", "b"), rows[1]], tmp_path / "u.csv")
    assert len(read_usagi(tmp_path / "u.csv")[0]) == 3


@pytest.mark.parametrize(
    ("score", "shown"),
    [(0.973, "0.97"), (0.005, "0.01"), (0.125, "0.13"), (1.0, "1.00"), (0.0, "0.00"), (2.675, "2.68")],
)
def test_scores_are_rounded_as_java_does(score, shown):
    assert shown_score(score) == shown


def test_consecutive_lines_of_one_term_are_one_mapping(tmp_path):
    rows = [("A", "11"), ("A", "12"), ("B", "13"), ("A", "14")]
    saved, _ = read_saved_mappings(save(tmp_path, *({"sourceCode": code, "conceptId": one} for code, one in rows)))
    assert [(each.source_code, [target.concept_id for target in each.targets]) for each in saved] == [
        ("A", [11, 12]),
        ("B", [13]),
        ("A", [14]),
    ]


@pytest.mark.parametrize(
    ("cells", "status", "targets"),
    [
        ({"mappingStatus": "APPROVED"}, Status.APPROVED, 1),
        ({"mappingStatus": "APPROVED", "conceptId": "0"}, Status.NO_MATCH, 0),
        ({"mappingStatus": "APPROVED", "conceptId": "0", "equivalence": "UNMATCHED"}, Status.NO_MATCH, 0),
        ({"mappingStatus": "APPROVED", "equivalence": "UNMATCHED"}, Status.FLAGGED, 1),
        ({"mappingStatus": "IGNORED", "conceptId": "0", "mappingType": "EVENT"}, Status.NO_MATCH, 0),
        ({"mappingStatus": "AUTO_MAPPED"}, Status.UNREVIEWED, 1),
        ({"mappingStatus": "AUTO_MAPPED_TO_1"}, Status.UNREVIEWED, 1),
        ({"mappingStatus": "INVALID_TARGET"}, Status.FLAGGED, 1),
        ({"mappingStatus": "UNCHECKED", "mappingType": "VALUE"}, Status.UNREVIEWED, 1),
    ],
)  # fmt: skip
def test_statuses_mean_what_people_decided(tmp_path, cells, status, targets):
    [mapping], repairs = read_usagi(save(tmp_path, cells))
    assert (mapping.status, len(mapping.targets), repairs.remarks()) == (status, targets, [])
    assert (mapping.gold is None) == (status not in (Status.APPROVED, Status.NO_MATCH))


def with_mark(text):
    return "\ufeff" + text


def with_semicolons(text):
    return text.replace(",", ";")


@pytest.mark.parametrize(
    "change",
    [
        str,
        with_mark,
        with_semicolons,
        lambda text: with_mark(with_semicolons(text)),
        lambda text: text.replace("\n", "\r\n"),
    ],
)
def test_files_saved_by_a_spreadsheet_program_are_read_as_before(tmp_path, change):
    file = save(tmp_path, {}, {"sourceCode": "B", "matchScore": "0.5"})
    expected = read_usagi(file)[0]
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8", newline="")
    mappings, repairs = read_usagi(file)
    assert mappings == expected
    changed = change(HEADER)
    assert bool(repairs.counts) == (changed[0] == "\ufeff" or ";" in changed)


@pytest.mark.parametrize(
    ("cells", "field", "value", "remark"),
    [
        ({"sourceFrequency": ""}, "frequency", None, "sourceFrequency that is blank, read as unknown: 1"),
        ({"sourceFrequency": "2.0"}, "frequency", 2, "sourceFrequency with a decimal point or an exponent: 1"),
        ({"conceptId": ""}, "targets", (), "conceptId that is blank, read as 0: 1"),
        ({"mappingStatus": "flagged"}, "status", Status.FLAGGED, "mappingStatus in another letter case: 1"),
        ({"mappingStatus": ""}, "status", Status.UNREVIEWED, "mappingStatus that is blank, read as UNCHECKED: 1"),
        ({"sourceAutoAssignedConceptIds": "1|2"}, "columns", {"ward": "", "sourceAutoAssignedConceptIds": "1;2"}, "sourceAutoAssignedConceptIds that are not separated by semicolons: 1"),
        ({"statusSetOn": "1.7E+12"}, "decided", Signature("", 1_700_000_000_000), "statusSetOn with a decimal point or an exponent: 1"),
        ({"matchScore": '"0,5"'}, "score", 0.5, "matchScore with a decimal comma: 1"),
        ({"sourceName": '"one\ntwo"'}, "source_name", "one\ntwo", "line ends inside of cells: 1"),
        ({"sourceName": "tail\\"}, "source_name", "tail\\", "rows with a backslash or a quote that is not escaped: 1"),
        ({"sourceName": '5" pipe'}, "source_name", '5" pipe', "rows with a backslash or a quote that is not escaped: 1"),
        ({"assignedReviewer": ",,"}, "source_name", "a", "rows with empty cells beyond the header, cut: 1"),
    ],
)  # fmt: skip
def test_what_usagi_refuses_is_repaired_and_counted(tmp_path, cells, field, value, remark):
    mappings, repairs = read_usagi(save(tmp_path, {"sourceCode": "Z"}, cells, {"sourceCode": "B"}))
    assert [mapping.source_code for mapping in mappings] == ["Z", "A", "B"]
    assert getattr(mappings[1], field) == value
    assert repairs.remarks() == [remark]
    assert list(repairs.lines.values()) == [3]


@pytest.mark.parametrize(
    ("cells", "error"),
    [
        ({"mappingStatus": "DONE"}, r"s.csv:2: expected one of APPROVED, .* as mappingStatus, found 'DONE'"),
        ({"conceptId": "12.5"}, r"s.csv:2: expected a whole number as conceptId, found '12.5'"),
        ({"conceptId": "x"}, "expected a whole number as conceptId, found 'x'"),
        ({"conceptId": "1e999"}, "expected a whole number as conceptId, found '1e999'"),
        ({"matchScore": "high"}, "expected a number as matchScore"),
        ({"mappingType": "MAPS"}, "expected one of MAPS_TO, .* as mappingType"),
        ({"comment": "a,b,c"}, "s.csv:2: expected 18 cells as in the header, found 20. Is there a comma in a cell without quotes"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_an_error_with_its_line(tmp_path, cells, error):
    with pytest.raises(DataError, match=error):
        read_usagi(save(tmp_path, cells))


def test_a_file_without_a_needed_column_or_row_is_refused(tmp_path):
    (tmp_path / "s.csv").write_text(HEADER.replace("sourceFrequency,", ""), encoding="utf-8")
    with pytest.raises(DataError, match="found no 'sourceFrequency'"):
        read_usagi(tmp_path / "s.csv")
    (tmp_path / "s.csv").write_text(HEADER, encoding="utf-8")
    with pytest.raises(DataError, match="at least one mapping under the header, found none"):
        read_usagi(tmp_path / "s.csv")


def test_an_export_for_review_has_vocabularies_and_is_approved_unless_it_says_otherwise(tmp_path):
    header = "sourceCode,sourceName,sourceFrequency,sourceAutoAssignedConceptIds,matchScore,targetConceptId,targetConceptName,targetVocabularyId,targetDomainId,targetConceptCode\n"
    (tmp_path / "r.csv").write_text(header + "A,a,3,,0.973,11,Thing,SNOMED,Condition,99\n", encoding="utf-8")
    [mapping], _ = read_usagi(tmp_path / "r.csv")
    assert (mapping.status, mapping.targets) == (
        Status.APPROVED,
        (MappedConcept("11", "Thing", "SNOMED", "99", "Condition"),),
    )
