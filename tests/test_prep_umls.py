import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.umls import MRCONSO_COLUMNS, find_files, read_umls
from xsap.errors import DataError
from xsap.languages import to_iso
from xsap.text import TextPolicy, normalise

TYPES = {"C1": [("T047", "Disease or Syndrome"), ("T191", "Neoplastic Process")], "C2": [("T184", "Sign or Symptom")]}


def row(**given: str) -> dict[str, str]:
    usual = {"CUI": "C1", "LAT": "ENG", "TS": "S", "STT": "VO", "ISPREF": "N", "SAB": "MSH", "TTY": "PT", "CODE": "D1", "STR": "fever"}
    return dict.fromkeys(MRCONSO_COLUMNS, "") | usual | {"SUPPRESS": "N"} | given


def write(folder, rows):
    text = "".join("".join(f"{cells[c]}|" for c in MRCONSO_COLUMNS) + "\n" for cells in rows)
    (folder / "MRCONSO.RRF").write_bytes(text.encode())
    lines = [f"{cui}|{tui}|A1|{name}|AT1|256|\n" for cui, types in TYPES.items() for tui, name in types]
    (folder / "MRSTY.RRF").write_text("".join(lines))
    return find_files(folder)


rows_of = st.lists(
    st.builds(
        row,
        CUI=st.sampled_from(["C1", "C2", "C3"]),
        LAT=st.sampled_from(["ENG", "SPA", "JPN"]),
        TS=st.sampled_from("PS"),
        STT=st.sampled_from(["PF", "VC"]),
        ISPREF=st.sampled_from("YN"),
        SAB=st.sampled_from(["MSH", "SNOMEDCT_US"]),
        TTY=st.sampled_from(["PT", "AB", "ACR"]),
        CODE=st.sampled_from(["D1", "NOCODE", ""]),
        STR=st.sampled_from(["fever", " fe\u2028ver ", "fe\rver", 'a "b', "e\u0301", "é", "熱", "\u200b"]),
        SUPPRESS=st.sampled_from("NOYE"),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(
    rows=rows_of,
    languages=st.sampled_from([None, {"en"}, {"es", "ja"}]),
    sources=st.sampled_from([None, {"MSH"}]),
    types=st.sampled_from([None, {"T191", "Sign or Symptom"}]),
    suppressed=st.booleans(),
)
def test_the_chosen_rows_and_no_others_come_out(tmp_path_factory, rows, languages, sources, types, suppressed):
    rows = [*rows, *(row(CUI="C9", LAT=lat, SAB=sab) for lat in ("ENG", "SPA", "JPN") for sab in ("MSH", "SNOMEDCT_US"))]
    paths = write(tmp_path_factory.mktemp("meta"), rows)
    expected = {}
    for r in rows:
        name, key = normalise(r["STR"], TextPolicy()), to_iso(r["LAT"])
        if languages and key not in languages or sources and r["SAB"] not in sources or not suppressed and r["SUPPRESS"] != "N" or not name:
            continue
        if types and not types & {v for pair in TYPES.get(r["CUI"], []) for v in pair}:
            continue
        preferred = (r["TS"], r["STT"], r["ISPREF"]) == ("P", "PF", "Y")
        kind = "preferred" if preferred else "abbreviation" if r["TTY"] in ("AB", "ACR") else "synonym"
        expected.setdefault((r["CUI"], key, name), []).append((kind, r["SAB"], None if r["CODE"] in ("", "NOCODE") else r["CODE"]))
    terminology, tally = read_umls(*paths, languages=languages, sources=sources, semantic_types=types, suppressed=suppressed)
    names = terminology.names.to_pylist()
    assert [(n["concept_id"], n["language"], n["name"]) for n in names] == sorted(expected)
    best = ["preferred", "synonym", "abbreviation"]
    for n, kept in zip(names, (expected[key] for key in sorted(expected)), strict=True):
        assert (n["kind"], n["source"], n["code"]) in kept
        assert best.index(n["kind"]) == min(best.index(kind) for kind, _, _ in kept)
    assert tally.rows_in == len(rows)
    assert tally.kept == len(names)
    for concept in terminology.concepts.to_pylist():
        assert concept["semantic_types"] == sorted(tui for tui, _ in TYPES.get(concept["concept_id"], []))


def test_each_dropped_row_has_the_first_reason_that_fits(tmp_path):
    rows = [
        row(STR="a"),
        row(STR="a"),
        row(STR=" "),
        row(LAT="SPA", SAB="X", SUPPRESS="O"),
        row(SAB="X", SUPPRESS="O"),
        row(SUPPRESS="Y"),
        row(CUI="C2"),
    ]
    _, tally = read_umls(*write(tmp_path, rows), languages={"en"}, sources={"MSH"}, semantic_types={"T047"})
    assert dict(tally.dropped) == {
        "language not chosen": 1,
        "source not chosen": 1,
        "suppressed": 1,
        "semantic type not chosen": 1,
        "same name of the same concept": 1,
        "empty name": 1,
    }
    assert (tally.rows_in, tally.kept) == (7, 1)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"languages": {"ko"}}, "MRCONSO.RRF has no names in Korean (KOR); it has ENG, SPA"),
        ({"sources": {"SNOMEDCT"}}, "MRCONSO.RRF has no source 'SNOMEDCT'; did you mean 'SNOMEDCT_US'?"),
        ({"semantic_types": {"Sign and Symptom"}}, "MRSTY.RRF has no semantic type 'Sign and Symptom'; did you mean 'Sign or Symptom'?"),
    ],
)
def test_a_choice_that_does_not_occur_names_the_nearest(tmp_path, choice, message):
    paths = write(tmp_path, [row(), row(LAT="SPA", SAB="SNOMEDCT_US")])
    with pytest.raises(DataError) as caught:
        read_umls(*paths, **choice)
    assert str(caught.value) == f"{tmp_path}/{message}"


def test_a_language_that_xsap_does_not_know_stops_only_those_who_want_it(tmp_path):
    paths = write(tmp_path, [row(), row(LAT="KLI")])
    assert read_umls(*paths, languages={"en"})[1].kept == 1
    with pytest.raises(DataError, match="MRCONSO.RRF: unknown language 'KLI'.*choose --languages without it"):
        read_umls(*paths)


def test_files_are_found_in_a_folder_or_beside(tmp_path):
    paths = write(tmp_path, [row()])
    assert find_files(tmp_path / "MRCONSO.RRF") == paths == (tmp_path / "MRCONSO.RRF", tmp_path / "MRSTY.RRF")
    (tmp_path / "MRSTY.RRF").unlink()
    mrconso, mrsty = find_files(tmp_path)
    assert mrsty is None
    assert read_umls(mrconso)[0].concepts["semantic_types"].to_pylist() == [[]]
    with pytest.raises(DataError, match="a choice of semantic types needs MRSTY.RRF, found none beside it"):
        read_umls(mrconso, semantic_types={"T047"})
    mrconso.unlink()
    with pytest.raises(DataError, match="expected MRCONSO.RRF or MRCONSO.RRF.gz in this folder, found neither"):
        find_files(tmp_path)
