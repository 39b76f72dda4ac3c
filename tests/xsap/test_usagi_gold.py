"""`xsap evaluate`, `calibrate` and `index --mentions` on a save file of Usagi, against loops over `Linker.link`."""

import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from xsap import Encoder, Index, Linker, Terminology
from xsap.exchange.decided_mentions import read_gold
from xsap.exchange.mapping import Equivalence, MappedConcept, Mapping, Status
from xsap.exchange.usagi_writer import write_usagi


@pytest.fixture(scope="module")
def saved(tiny_folder, sample_folder, tmp_path_factory):
    """An index of the sample's concepts, numbered as OMOP's are, and a save file: each name of some of them without a letter."""
    folder = tmp_path_factory.mktemp("usagi")
    names = Terminology.load(sample_folder).names
    ids = pc.index_in(names["concept_id"], pc.unique(names["concept_id"]))
    numbered = names.set_column(0, "concept_id", pc.cast(pc.add(ids, 1000), pa.string()))
    Terminology.build(numbered)[0].save(folder / "terminology")
    encoder = Encoder.from_pretrained(tiny_folder)
    index = Index.build(Terminology.load(folder / "terminology"), encoder, model_path=tiny_folder)
    index.save(folder / "index")
    mappings = []
    for i, row in enumerate(numbered.slice(0, 240).to_pylist()):
        text, concept = row["name"][:2] + row["name"][3:], (MappedConcept(row["concept_id"]),)
        fields = {"columns": {"language": row["language"]}, "language": row["language"]}
        if i % 12 == 0:
            mappings.append(Mapping(str(i), f"{text} nowhere", (), Status.NO_MATCH, Equivalence.UNMATCHED, **fields))
        else:
            status = Status.UNREVIEWED if i % 12 == 1 else Status.FLAGGED if i % 12 == 2 else Status.APPROVED
            mappings.append(Mapping(str(i), text, concept, status, **fields))
    write_usagi(mappings, folder / "saved.csv")
    known = dict.fromkeys(
        (each.source_name, each.language, each.gold) for each in mappings if each.status is Status.APPROVED
    )
    return SimpleNamespace(folder=folder, index=folder / "index", file=folder / "saved.csv", known=list(known))


def test_evaluate_scores_what_was_approved(saved, run_here):
    done = run_here("-m", "xsap", "evaluate", saved.file, "--index", saved.index, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["without_concept"]["n"] == 20
    assert report["mentions"]["n"] == len(saved.known) + 20
    assert f"Usagi, {len(saved.known) + 20} decided terms; " in done.stderr
    assert "unreviewed: 20" in done.stderr
    assert "mention names of the index" not in done.stderr
    assert "flagged, so undecided: 20" in done.stderr
    linker = Linker.load(saved.index)
    answers = linker.link([text for text, *_ in saved.known], 1, languages=[code for _, code, _ in saved.known])
    for language, row in report["languages"].items():
        right = [
            answer.candidates[0].concept_id in gold
            for answer, (_, code, gold) in zip(answers, saved.known, strict=True)
            if code == language
        ]
        assert row["n"] == len(right)
        assert row["acc@1"] == pytest.approx(sum(right) / len(right))


def test_calibrate_fits_on_what_was_approved(saved, run_here):
    done = run_here("-m", "xsap", "calibrate", saved.file, "--index", saved.index)
    assert done.returncode == 0, done.stderr
    assert f"calibrated on {len(saved.known) + 20} mentions" in done.stderr
    assert "20 mentions have no concept (NIL)" in done.stdout
    assert Linker.load(saved.index).link(saved.known[0][0]).candidates[0].confidence is not None


@pytest.mark.slow
def test_terms_of_several_save_files_become_names_of_one_index(saved, tiny_folder, tmp_path, run_here):
    """One of them as a spreadsheet program wrote it: semicolons, in the encoding of Windows."""
    (tmp_path / "second.csv").write_text("Term;Code\nWasserk\xf6pfchen;1003\n", encoding="cp1252")
    words = ["-m", "xsap", "index", tiny_folder, saved.folder / "terminology", "--mentions", tmp_path / "second.csv"]
    words += [
        "--column",
        "Term",
        "--column",
        "concept_ids=Code",
        "--mention-weight",
        "0.5",
        "--out",
        tmp_path / "index",
    ]
    done = run_here(*words)
    assert (done.returncode, "--encoding" in done.stderr) == (2, True)
    done = run_here(*words, "--encoding", "cp1252")
    assert done.returncode == 0, done.stderr
    assert Linker.load(tmp_path / "index").link("wasserk\xf6pfchen").candidates[0].concept_id == "1003"
    (tmp_path / "third.tsv").write_text("mention\tconcept_ids\nWasserk\xf6pfchen\t1003\n", encoding="utf-8")
    words = ["-m", "xsap", "index", tiny_folder, saved.folder / "terminology", "--reuse", tmp_path / "index"]
    words += ["--mention-weight", "0.5", "--mentions", saved.file, "--mentions", tmp_path / "third.tsv"]
    done = run_here(*words, "--out", tmp_path / "both")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'index'}: its 1 mention names were replaced" in done.stderr
    names = Index.load(tmp_path / "both").mention_names
    strings = {text.lower() for text, *_ in saved.known} | {"wasserk\xf6pfchen"}
    assert {name.lower() for name in names.names["name"].to_pylist()} == strings
    assert int(names.totals.sum()) == len(saved.known) + 1
    done = run_here("-m", "xsap", "evaluate", saved.file, "--index", tmp_path / "both")
    assert "warning: 100 % of the mentions are mention names of the index" in done.stderr
    done = run_here(*words[:7], "--out", tmp_path / "neither")
    assert "mention names were left out; to keep them, give the same files: --mentions" in done.stderr
    assert read_gold(saved.file).num_rows == len(saved.known) + 20
