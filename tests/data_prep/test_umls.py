import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.accounting import Rejects
from data_prep.assemble import Assembly
from data_prep.umls import MRCONSO, RowSelection, UmlsFiles, read_umls
from tests.fixtures.commands import ROOT
from tests.fixtures.examples import examples
from xsap.errors import DataError
from xsap.languages import to_iso
from xsap.terms.semantic_types import types_of
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy, normalize

TYPES = {"C1": [("T047", "Disease or Syndrome"), ("T191", "Neoplastic Process")], "C2": [("T184", "Sign or Symptom")]}
BEST = ["preferred", "synonym", "abbreviation", "tradename"]


def row(**given: str) -> dict[str, str]:
    usual = {
        "CUI": "C1",
        "LAT": "ENG",
        "TS": "S",
        "STT": "VO",
        "ISPREF": "N",
        "SAB": "MSH",
        "TTY": "PT",
        "CODE": "D1",
        "STR": "fever",
    }
    return dict.fromkeys(MRCONSO, "") | usual | {"SUPPRESS": "N"} | given


def line(*cells: object) -> str:
    return "".join(f"{cell}|" for cell in cells) + "\n"


def write(folder: Path, rows, relations=None, retired=None, ranks=None) -> UmlsFiles:
    files = {
        "MRCONSO": [line(*(cells[c] for c in MRCONSO)) for cells in rows],
        "MRSTY": [line(cui, tui, "A1", name, "AT1", "256") for cui, types in TYPES.items() for tui, name in types],
        "MRREL": [
            line(a, "A1", "CUI", "RO", b, "A2", "CUI", label, "R1", "", "X", "X", "", "", flag, "")
            for a, label, b, flag in relations or ()
        ],
        "MRCUI": [
            line(old, "2019AB", relation, "", "", new, "Y" if new else "") for old, relation, new in retired or ()
        ],
        "MRRANK": [line(f"{rank:04d}", *key) for rank, key in enumerate(ranks or (), start=1)],
    }
    for name, lines in files.items():
        if lines:
            (folder / f"{name}.RRF").write_bytes("".join(lines).encode())
    return UmlsFiles.find(folder)


def read(files: UmlsFiles, selection: RowSelection | None = None, **options):
    """→ terminology, tally, as a folder gives them back."""
    out = files.mrconso.parent / "out"
    with Assembly(200_000_000) as assembly:
        _, counts = assembly.save(out, *read_umls(files, assembly, selection, **options), overwrite=True)
    return Terminology.load(out), counts


def naive(folder: Path, selection: RowSelection, *, tradenames: bool) -> tuple[dict, dict]:
    """(concept, language, name) → the (kind, source, code) that rows give it; and concept → its preferred name. Line by line, in memory."""

    def cells(name):
        path = folder / f"{name}.RRF"
        return [text.split("|") for text in path.read_bytes().decode().split("\n")[:-1]] if path.exists() else []

    types: dict[str, set[str]] = {}
    for cui, tui, _, name, *_ in cells("MRSTY"):
        types.setdefault(cui, set()).update((tui, name))
    wanted = {
        tui for value in selection.semantic_types or () for tui in (types_of(value) if value == "DISO" else [value])
    }
    rank = {(sab, tty, flag): int(n) for n, sab, tty, flag, _ in cells("MRRANK")}
    rows = []
    for cui, lat, ts, _, stt, _, best, _, _, _, _, sab, tty, code, name, _, flag, *_ in cells("MRCONSO"):
        fits = selection.languages is None or to_iso(lat) in selection.languages
        fits &= selection.sources is None or sab in selection.sources
        fits &= selection.term_types is None or tty in selection.term_types
        fits &= selection.suppress is None or flag in selection.suppress
        if fits and (not wanted or wanted & types.get(cui, set())):
            kind = (
                "preferred"
                if (ts, stt, best) == ("P", "PF", "Y")
                else "abbreviation"
                if tty in ("AB", "ACR")
                else "synonym"
            )
            rows.append(
                (
                    cui,
                    to_iso(lat),
                    normalize(name, TextPolicy()),
                    kind,
                    sab,
                    code if code not in ("", "NOCODE") else None,
                    rank.get((sab, tty, flag), 0),
                )
            )
    if tradenames:
        pairs = {
            (a, b) if label == "tradename_of" else (b, a)
            for a, _, _, _, b, _, _, label, *rest in cells("MRREL")
            if "tradename" in label and rest[6] == "N"
        }
        there = {cui for cui, *_ in rows}
        rows += [
            (a, r[1], r[2], "tradename", r[4], r[5], 0)
            for a, b in pairs
            if a != b and a in there
            for r in rows
            if r[0] == b
        ]
    found: dict = {}
    called: dict = {}
    for cui, language, name, kind, sab, code, order in rows:
        if name:
            found.setdefault((cui, language, name), []).append((BEST.index(kind), -order, sab, code is None, code))
    for (cui, language, name), rivals in found.items():
        called.setdefault(cui, []).append((language != "en", *min(rivals)[:2], language, name))
    return found, {cui: min(names)[-1] for cui, names in called.items()}


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
        STR=st.sampled_from(
            ["fever", " fe\u2028ver ", "fe\rver", 'a "b', "'", "e\u0301", "é", "熱", "\u200b", "\\N", "fever" * 400]
        ),
        SUPPRESS=st.sampled_from("NOYE"),
    ),
    min_size=1,
    max_size=12,
)
ids = st.sampled_from(["C1", "C2", "C3", "C4"])


@settings(deadline=None, max_examples=examples(40))
@given(
    rows=rows_of,
    languages=st.sampled_from([None, {"en"}, {"es", "ja"}]),
    sources=st.sampled_from([None, {"MSH"}]),
    term_types=st.sampled_from([None, {"PT", "AB"}]),
    types=st.sampled_from([None, {"T191", "Sign or Symptom"}, {"DISO"}]),
    suppress=st.sampled_from([None, {"N"}, {"O", "Y"}]),
    relations=st.lists(
        st.tuples(ids, st.sampled_from(["tradename_of", "has_tradename", "isa", ""]), ids, st.sampled_from("NO")),
        min_size=1,
        max_size=5,
    ),
    ranks=st.sampled_from([None, [("MSH", "PT", "N"), ("SNOMEDCT_US", "PT", "N"), ("SNOMEDCT_US", "AB", "N")]]),
    tradenames=st.booleans(),
)
def test_umls_selected_rows_match_naive_reader(
    tmp_path_factory, rows, languages, sources, term_types, types, suppress, relations, ranks, tradenames
):
    every = [
        row(CUI="C9", LAT=lat, SAB=sab, TTY=tty)
        for lat in ("ENG", "SPA", "JPN")
        for sab in ("MSH", "SNOMEDCT_US")
        for tty in ("PT", "AB")
    ]
    rows = [
        *rows,
        *every,
        row(CUI="C1", STR="kept"),
        row(CUI="C1", LAT="SPA", STR="kept", SUPPRESS="O"),
        row(CUI="C2", LAT="SPA", STR="kept"),
    ]
    files = write(tmp_path_factory.mktemp("meta"), rows, relations=relations, ranks=ranks)
    selection = RowSelection(languages, sources, term_types, types, suppress)
    expected, called = naive(files.mrconso.parent, selection, tradenames=tradenames)
    if not expected:
        with pytest.raises(DataError, match="found none to write"):
            read(files, selection, tradenames=tradenames)
        return
    terminology, counts = read(files, selection, tradenames=tradenames)
    names = terminology.names.to_pylist()
    assert [(n["concept_id"], n["language"], n["name"]) for n in names] == sorted(expected)
    for n, rivals in zip(names, (expected[key] for key in sorted(expected)), strict=True):
        assert (BEST.index(n["kind"]), n["source"], n["code"]) in {(k, sab, code) for k, _, sab, _, code in rivals}
        assert BEST.index(n["kind"]) == min(rivals)[0]
    assert {c["concept_id"]: c["preferred_name"] for c in terminology.concepts.to_pylist()} == called
    assert all(
        c["semantic_types"] == sorted(tui for tui, _ in TYPES.get(c["concept_id"], []))
        for c in terminology.concepts.to_pylist()
    )
    lent = terminology.metadata.get("tradenames", {"names": 0})["names"]
    assert (counts.rows_in, counts.kept) == (len(rows) + lent, len(names))


def test_umls_dropped_row_is_counted_under_first_reason(tmp_path):
    rows = [
        row(STR="a"),
        row(STR="a"),
        row(STR=" "),
        row(LAT="SPA", SAB="X", SUPPRESS="O"),
        row(SAB="X", SUPPRESS="O"),
        row(TTY="AB", SUPPRESS="O"),
        row(SUPPRESS="Y"),
        row(CUI="C2"),
    ]
    selection = RowSelection({"en"}, {"MSH"}, {"PT"}, {"T047"})
    _, counts = read(write(tmp_path, rows), selection)
    assert dict(counts.dropped) == {
        "language not chosen": 1,
        "source not chosen": 1,
        "term type not chosen": 1,
        "suppressed": 1,
        "semantic type not chosen": 1,
        "same name of the same concept": 1,
        "empty name": 1,
    }
    assert (counts.rows_in, counts.kept) == (8, 1)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"languages": {"ko"}}, "MRCONSO.RRF has no names in Korean (KOR); it has ENG, SPA"),
        ({"sources": {"SNOMEDCT"}}, "MRCONSO.RRF has no source 'SNOMEDCT'; did you mean 'SNOMEDCT_US'?"),
        ({"term_types": {"PTT"}}, "MRCONSO.RRF has no term type 'PTT'; did you mean 'PT'?"),
        (
            {"semantic_types": {"Sign and Symptom"}},
            "MRSTY.RRF has no semantic type 'Sign and Symptom'; did you mean 'Sign or Symptom'?",
        ),
        ({"semantic_types": {"GEOG"}}, "MRSTY.RRF has no semantic type 'GEOG'; it has Disease or Syndrome"),
    ],
)
def test_umls_choice_that_does_not_occur_suggests_nearest(tmp_path, selection, message):
    files = write(tmp_path, [row(), row(LAT="SPA", SAB="SNOMEDCT_US")])
    with pytest.raises(DataError) as caught:
        read(files, RowSelection(**selection))
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
    assert not (tmp_path / "out").exists()


def test_umls_unknown_language_is_refused_only_if_selected(tmp_path):
    files = write(tmp_path, [row(), row(LAT="KLI")])
    assert read(files, RowSelection({"en"}))[1].kept == 1
    with pytest.raises(DataError, match="MRCONSO.RRF: unknown language 'KLI'.*choose --languages without it"):
        read(files)


def test_umls_files_are_found(tmp_path):
    files = write(tmp_path, [row()])
    assert (
        UmlsFiles.find(tmp_path / "MRCONSO.RRF") == files == UmlsFiles(tmp_path / "MRCONSO.RRF", tmp_path / "MRSTY.RRF")
    )
    moved = (tmp_path / "MRSTY.RRF").rename(tmp_path / "types")
    alone = UmlsFiles.find(tmp_path)
    assert alone.mrsty is None
    assert UmlsFiles.find(tmp_path, mrsty=moved).mrsty == moved
    assert read(alone)[0].concepts["semantic_types"].to_pylist() == [[]]
    with pytest.raises(DataError, match="a choice of semantic types needs MRSTY.RRF, found none in its folder"):
        read(alone, RowSelection(semantic_types={"T047"}))
    with pytest.raises(DataError, match="trade names need MRREL.RRF, found none in its folder"):
        read(alone, tradenames=True)
    (tmp_path / "MRCONSO.RRF").unlink()
    with pytest.raises(DataError, match="expected MRCONSO.RRF or MRCONSO.RRF.gz in this folder, found neither"):
        UmlsFiles.find(tmp_path)


def test_umls_gzip_gives_the_same_terminology(tmp_path):
    files = write(tmp_path, [row(), row(CUI="C2", LAT="SPA")], relations=[("C1", "tradename_of", "C2", "N")])
    plain = read(files, tradenames=True)[0]
    for file in files.existing():
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    packed = read(UmlsFiles.find(tmp_path), tradenames=True)[0]
    assert packed.content_hash == plain.content_hash


def test_umls_retired_identifiers_and_releases_are_kept(tmp_path):
    retired = [("C7", "SY", "C1"), ("C7", "SY", "C1"), ("C8", "RB", "C2"), ("C9", "DEL", "")]
    write(tmp_path, [row(), row(SAB="NOT_HERE", SUPPRESS="O")], retired=retired)
    cells = ["C1", "C2", "MSH2020", "MSH", *[""] * 15, "ENG", "", "Y", "Y", "", ""]
    (tmp_path / "MRSAB.RRF").write_text(line(*cells) + line(*[c.replace("MSH", "OLD") for c in cells]))
    terminology, _ = read(UmlsFiles.find(tmp_path))
    assert [tuple(r.values()) for r in terminology.retired.to_pylist()] == [
        ("C7", "C1", "same"),
        ("C8", "C2", "broader"),
        ("C9", None, "deleted"),
    ]
    assert terminology.metadata["releases"] == {"MSH": {"release": "MSH2020", "language": "ENG"}}


def test_umls_invalid_ranks_are_refused(tmp_path):
    files = write(tmp_path, [row()], ranks=[("MSH", "PT", "N")])
    (tmp_path / "MRRANK.RRF").write_text("first|MSH|PT|N|\n")
    with pytest.raises(DataError, match="MRRANK.RRF: expected whole numbers in RANK; .*'first'"):
        read(files)


def test_umls_file_of_malformed_lines_only_is_allowed_by_max_rejects(tmp_path):
    write(tmp_path, [row()], ranks=[("MSH", "PT", "N")], relations=[("C1", "isa", "C2", "N")])
    for name in ("MRRANK", "MRREL", "MRSTY", "MRCUI", "MRSAB"):
        (tmp_path / f"{name}.RRF").write_text("no record\n")
    with Rejects(tmp_path / "rejects.tsv", 5) as rejects:
        assert read(UmlsFiles.find(tmp_path), tradenames=True, rejects=rejects)[1].kept == 1
    assert len(rejects.rows) == 5


def test_umls_rejected_lines_are_listed_and_counted(tmp_path):
    files = write(tmp_path, [row(STR="one"), row(STR="two|2"), row(STR="three")])
    listing = tmp_path / "rejects.tsv"
    with pytest.raises(DataError) as caught, Rejects(listing) as rejects:
        read(files, rejects=rejects)
    assert str(caught.value).startswith(f"{tmp_path}/MRCONSO.RRF:2: expected 18 fields, found 19.")
    way_out = f"(1 malformed row, all listed in {listing}; skip up to N such rows with --max-rejects N)"
    assert str(caught.value).endswith(way_out)
    found = [text.split("\t") for text in listing.read_text().splitlines()]
    offset = (tmp_path / "MRCONSO.RRF").read_bytes().index(b"\n") + 1
    assert [cells[:3] for cells in found] == [
        ["file", "line", "byte offset"][:2] + ["offset"],
        ["MRCONSO.RRF", "2", str(offset)],
    ]
    listing.unlink()
    with Rejects(listing, 1) as rejects:
        terminology, counts = read(files, rejects=rejects)
    assert terminology.names["name"].to_pylist() == ["one", "three"]
    assert (counts.rows_in, counts.kept, dict(counts.dropped)) == (3, 2, {"malformed: see the file of rejects": 1})
    assert len(listing.read_text().splitlines()) == 2


@pytest.mark.slow
def test_umls_terminology_does_not_depend_on_hash_seed(tmp_path):
    rows = [
        row(CUI=f"C{i % 7}", STR=f"name {i % 50}", LAT=("ENG", "SPA")[i % 2], SAB=f"S{i % 5}", CODE=str(i))
        for i in range(300)
    ]
    write(
        tmp_path,
        rows,
        relations=[("C1", "tradename_of", f"C{i}", "N") for i in range(2, 6)],
        retired=[("C8", "SY", "C1"), ("C9", "RB", "C2")],
    )
    contents = set()
    for seed in ("1", "2"):
        command = [
            sys.executable,
            "-m",
            "data_prep",
            "umls",
            str(tmp_path),
            "--tradenames",
            "--out",
            str(tmp_path / seed),
        ]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True)
        contents.add(Terminology.load(tmp_path / seed).content_hash)
    assert len(contents) == 1
