"""Systems as given on the command line; recipes that are trained first; and HPO's held-out names, by the commands that a user would run."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pyarrow as pa
import pytest

from benchmarks.__main__ import app
from benchmarks.accuracy.baselines import FusedLinker, NameLinker
from benchmarks.accuracy.dictionary import SearchSpace
from benchmarks.accuracy.hpo import held_out_hpo, prepare_hpo
from benchmarks.accuracy.models import CachedEncoder, IndexLinker
from benchmarks.accuracy.systems import RECIPES, System, WorkDir, open_system, open_systems, train_recipe
from xsap.artifacts import manifest_hash, read_manifest
from xsap.encoding.encoder import Encoder
from xsap.errors import ArtifactError, ConfigError, DataError, XsapError
from xsap.evaluation.protocols import ReferenceDictionary
from xsap.linking.index import Index
from xsap.terminal import run as run_app
from xsap.terms.mentions import read_mentions
from xsap.terms.terminology import NAMES_SCHEMA, Terminology
from xsap.text import TextPolicy

BODY_PARTS = ["arm", "leg", "eye", "ear", "hand", "foot", "nose", "heart", "liver", "skin", "bone", "lung"]
SPACE = SearchSpace(ReferenceDictionary(["D1", "D2"], ["arm pain", "leg pain"]), "synthetic", {}, {})


@pytest.fixture(scope="module")
def terminology(tmp_path_factory):
    """A folder with 36 names of 12 concepts in two languages."""
    rows = []
    for i, part in enumerate(BODY_PARTS):
        for language, name in (("en", f"{part} pain"), ("en", f"pain in the {part}"), ("de", f"{part}schmerz")):
            rows.append(
                {"concept_id": f"C{i:02}", "language": language, "name": name, "kind": "synonym", "source": "X"}
            )
    folder = tmp_path_factory.mktemp("systems") / "synthetic"
    Terminology.build(pa.Table.from_pylist(rows, NAMES_SCHEMA))[0].save(folder)
    return folder


@pytest.fixture(scope="module")
def index_folder(terminology, tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "my index"
    encoder = Encoder.from_pretrained(tiny_folder)
    Index.build(Terminology.load(terminology), encoder, languages={"en"}, model_path=tiny_folder).save(folder)
    return folder


@pytest.fixture
def trained():
    """Every call of the stand-in for training."""
    return []


@pytest.fixture
def work(tmp_path, terminology, trained, tiny_folder):
    """A work folder whose recipes are not trained: their model is there already."""

    def train(*arguments):
        trained.append(arguments)
        return tiny_folder

    return WorkDir(tmp_path / "work", terminology, 0.02, train=train)


# Systems on the command line


@pytest.mark.parametrize(
    ("given", "label", "kind"),
    [
        ("exact", "exact", "exact"),
        ("tfidf", "tfidf", "tfidf"),
        ("n-grams=tfidf", "n-grams", "tfidf"),
        ("My system 1.0=tfidf", "My system 1.0", "tfidf"),
        (" =exact", "exact", "exact"),
        ("exact+tfidf", "exact+tfidf", "fused"),
        ("both=tfidf+exact", "both", "fused"),
    ],
)
def test_lexical_systems_have_names(work, given, label, kind):
    system = open_system(given, work)
    assert (system.label, system.metadata["kind"], system.model) == (label, kind, None)
    assert [c.concept_id for c in system.link_into(SPACE).link(["Leg  pain"], 1)[0].candidates] == ["D2"]


def test_model_by_its_folder(tiny_folder, work):
    system = open_system(str(tiny_folder), work)
    assert system.label == "model"  # the folder's name
    for label in ("tiny", "tiny model, 2 layers", "xsap-0.25"):
        assert open_system(f"{label}={tiny_folder}@mean", work).label == label
    assert system.metadata == {"kind": "model"} | system.model.metadata()
    assert isinstance(system.link_into(SPACE), NameLinker)
    assert system.model.cache == work.folder / "vectors"
    assert system.model.cache.is_dir()
    half = open_system(str(tiny_folder), WorkDir(work.folder, None, 1, "bfloat16"))
    assert half.metadata["dtype"] == "bfloat16"


def test_short_paths_and_hub_ids_are_their_own_names(monkeypatch, work):
    values = {"pooling": "cls", "max_length": 25, "policy": TextPolicy(), "prompts": ("", ""), "dtype": "float32"}
    encoder = SimpleNamespace(content_hash="a" * 64, **values)
    monkeypatch.setattr(CachedEncoder, "from_name", lambda spec, cache, **_: CachedEncoder(encoder, cache))
    names = {
        given: open_system(given, work).label
        for given in ("sapbert-xlmr", "someone/model@cls", "runs/x/model", "runs/x/", "./a/b@cls")
    }
    assert names == {
        "sapbert-xlmr": "sapbert-xlmr",
        "someone/model@cls": "someone/model@cls",
        "runs/x/model": "model",
        "runs/x/": "x",
        "./a/b@cls": "b@cls",
    }


def test_index_by_its_folder(index_folder, terminology, work, monkeypatch):
    system = open_system(f"index:{index_folder}", work)
    assert system.label == "my index"
    assert system.metadata == {"kind": "index", "index": manifest_hash(read_manifest(index_folder, "index"))}
    assert system.model is None
    linking = system.link_into(SearchSpace.from_terminology(Terminology.load(terminology), "synthetic"))
    assert isinstance(linking, IndexLinker)
    assert linking.link(["arm pain"], 1)[0].candidates[0].concept_id == "C00"
    monkeypatch.chdir(index_folder)
    assert open_system("index:.", work).label == "my index"


def test_fusion_with_model_or_index(tiny_folder, index_folder, terminology, work, trained):
    space = SearchSpace.from_terminology(Terminology.load(terminology), "synthetic")
    for given, label in [
        (f"tfidf+{tiny_folder}", "model"),
        (f"{tiny_folder}+exact", f"{tiny_folder}+exact"),
        (f"F=index:{index_folder}+tfidf", "F"),
        (f"F=tfidf+index:{index_folder}", "F"),
        ("recipe:xsap+tfidf", "recipe:xsap+tfidf"),
        ("exact+tfidf+recipe:xsap", "exact+tfidf+recipe:xsap"),
    ]:
        system = open_system(given, work)
        assert system.metadata["kind"] == "fused"
        assert label in system.label
        assert system.model is None
        linking = system.link_into(space)
        assert isinstance(linking, FusedLinker)
        assert linking.link(["arm pain"], 3)[0].candidates[0].concept_id == "C00"
        assert linking.dictionary_rows(["arm pain"], 3)[0, 0] == space.rows.names.index("arm pain")
    one, two = (open_system(given, work).metadata for given in (f"tfidf+{tiny_folder}", f"exact+{tiny_folder}"))
    assert one != two
    assert one["of"] == [{"kind": "tfidf"}, open_system(str(tiny_folder), work).metadata]


def test_path_may_contain_plus(tiny_folder, tmp_path, work):
    shutil.copytree(tiny_folder, tmp_path / "a+b" / "model")
    assert open_system(str(tmp_path / "a+b" / "model"), work).metadata["kind"] == "model"
    assert open_system(f"{tmp_path}/a+b/model+exact", work).metadata["of"][1] == {"kind": "exact"}


def test_recipe_is_trained_on_given_terminology(terminology, work, tiny_folder, trained):
    system = open_system("recipe:xsap", work)
    assert system.label == "xsap recipe"
    assert (
        system.metadata
        == {"kind": "recipe", "given": "xsap", "minutes": 0.02}
        | CachedEncoder.from_name(str(tiny_folder), work.folder).metadata()
    )
    assert system.model is not None
    assert open_system("ours=recipe:reference", work).label == "ours"
    assert trained == [(recipe, terminology, 0.02, work.folder, None) for recipe in ("xsap", "reference")]


def test_recipes_continue_from_the_base(terminology, work, trained, tiny_folder):
    system = open_system("recipe:xsap", replace(work, base=str(tiny_folder)))
    assert system.metadata["base"] == "model"  # no folder in a report
    assert trained == [("xsap", terminology, 0.02, work.folder, str(tiny_folder))]


def test_open_systems_keeps_order_and_trains_recipes_last(index_folder, work, trained, tmp_path):
    given = ["recipe:xsap", "exact", f"index:{index_folder}", "R=recipe:reference", "tfidf"]
    systems = open_systems(given, work)
    assert [system.label for system in systems] == ["xsap recipe", "exact", "my index", "R", "tfidf"]
    assert all(isinstance(system, System) for system in systems)
    assert [recipe for recipe, *_ in trained] == ["xsap", "reference"]
    with pytest.raises(ArtifactError, match="nowhere"):
        open_systems(["recipe:xsap", "index:nowhere"], work)
    assert len(trained) == 2  # the other system came first


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (
            ["exact", "tfidf", "exact"],
            ConfigError,
            "expected different names for all systems, found 'exact' twice; write --system NAME=…",
        ),
        (["A=exact", "A=tfidf"], ConfigError, "found 'A' twice"),
        (["a/x/model", "b/x/model"], ConfigError, "found 'model' twice"),
        (
            ["recipe:reference", "index:nothing"],
            ArtifactError,
            "^nothing: expected an index folder, found nothing there",
        ),
        (
            ["recipe:reference", "./no/model"],
            ArtifactError,
            "^./no/model: expected a model folder, found nothing there",
        ),
        (["recipe:reference", "recipe:mine"], ConfigError, "^unknown recipe 'mine'; they are xsap and reference$"),
        (["index:"], ArtifactError, "expected an index folder made by xsap"),
        (["exat"], ArtifactError, "^exat: expected a model folder or an id of the Hugging Face hub"),
        (["exact+tfdf"], ArtifactError, "^tfdf: expected a model folder or an id of the Hugging Face hub"),
    ],
)
def test_errors_are_one_line_before_anything_is_trained(given, kind, message, work, trained):
    with pytest.raises(kind, match=message) as error:
        open_systems(["recipe:xsap", *given], work)
    assert "\n" not in str(error.value)
    assert trained == []


def test_recipe_needs_training_terminology(work, trained):
    with pytest.raises(
        ConfigError,
        match="^'recipe:xsap' must be trained first, .*; give --data training=TERMINOLOGY, or a task of HPO$",
    ):
        open_systems(["recipe:xsap"], replace(work, training=None))
    assert trained == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--system", "exact", "--system", "x=exact", "--system", "exact"], "found 'exact' twice"),
        (
            ["--system", "recipe:xsap"],
            "'recipe:xsap' must be trained first, and there is no terminology for it; give --data training=TERMINOLOGY",
        ),
        (["--system", "recipe:best", "--data", "training={terminology}"], "unknown recipe 'best'"),
        (["--system", "index:{terminology}"], "expected an index folder, found a terminology folder"),
        (
            ["--system", "exact", "--dtype", "fp8"],
            "--dtype must be float32, bfloat16 or float16, found 'fp8'",
        ),
        (
            ["--system", "exact", "--data", "xlbel"],
            "expected --data CORPUS=PATH such as mantra=Mantra-GSC-brat.zip, found 'xlbel'",
        ),
        (
            ["--system", "exact", "--data", "mantra=nowhere"],
            "--data mantra: expected files at nowhere, found nothing there",
        ),
        (["--system", "exact", "--languages", "ja"], "expected names in ja, found none to link into"),
        (["--system", "exact", "--dictionary", "nowhere"], "nowhere: expected a file, found nothing there"),
    ],
)
def test_each_command_line_error_is_one_line(options, message, terminology, tmp_path, capsys):
    queries = tmp_path / "de_1k_test_query.txt"
    queries.write_text("C00||Armschmerz\n")
    command = ["linking", "--task", "xlbel-v0", "--out", str(tmp_path / "out"), "--data", f"xlbel={queries}"]
    command += [] if "--dictionary" in options else ["--dictionary", str(terminology)]
    with pytest.raises(SystemExit) as end:
        run_app(
            app, "python -m benchmarks", [*command, *(option.format(terminology=terminology) for option in options)]
        )
    printed = capsys.readouterr()
    assert (end.value.code, printed.out) == (2, "")
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out" / "results.json").exists()


# Recipes


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_trained_once(recipe, terminology, tmp_path, capfd, forked_python):
    model = train_recipe(recipe, terminology, 0.001, tmp_path)
    assert f"training by the recipe '{recipe}', 0.001 minutes" in capfd.readouterr().err
    assert Encoder.from_pretrained(model).encode(["arm pain"]).shape == (1, 256)
    shutil.copytree(terminology, tmp_path / "elsewhere")
    for folder in (terminology, tmp_path / "elsewhere"):  # the same names in another folder
        again = train_recipe(recipe, folder, 0.001, tmp_path, run_command=lambda _: pytest.fail("trained again"))
        assert again == model


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_continues_from_a_base(recipe, terminology, tiny_folder, tmp_path, capfd, forked_python):
    model = train_recipe(recipe, terminology, 0.01, tmp_path, str(tiny_folder))
    assert f"training by the recipe '{recipe}', 0.01 minutes, from {tiny_folder}" in capfd.readouterr().err
    base, trained = Encoder.from_pretrained(tiny_folder), Encoder.from_pretrained(model)
    assert trained.tokenizer.get_vocab() == base.tokenizer.get_vocab()
    assert (trained.pooling, trained.max_length) == (("mean", 32) if recipe == "xsap" else ("cls", 25))
    assert trained.policy == (TextPolicy("lower", "NFKC") if recipe == "xsap" else TextPolicy("cased", "none"))
    moved = [
        float((after - before).detach().abs().max())
        for after, before in zip(trained.transformer.parameters(), base.transformer.parameters(), strict=True)
    ]
    assert 0 < max(moved) < 1e-2  # some steps of a small learning rate, from the base's weights
    again = train_recipe(recipe, terminology, 0.01, tmp_path, str(tiny_folder), run_command=lambda _: 7)
    assert again == model
    with pytest.raises(XsapError, match="exit code 7"):
        train_recipe(recipe, terminology, 0.01, tmp_path, run_command=lambda _: 7)  # another start


def test_pooling_of_the_base_is_that_of_its_name(terminology, tiny_folder, tmp_path):
    commands = []
    shutil.copytree(tiny_folder, tmp_path / "bare")
    for file in ("xsap.json", "manifest.json", "modules.json"):  # without them, a bare Hugging Face folder
        (tmp_path / "bare" / file).unlink()
    with pytest.raises(ArtifactError, match="its pooling is unknown"):
        train_recipe("xsap", terminology, 1, tmp_path, str(tmp_path / "bare"), run_command=lambda _: 0)
    for recipe in RECIPES:
        base = f"{tmp_path / 'bare'}@mean"
        train_recipe(recipe, terminology, 1, tmp_path, base, run_command=lambda words: commands.append(words) or 0)
    ours, original = commands
    assert {f"base={tmp_path / 'bare'}", "pooling=mean"} <= set(ours)
    assert original[original.index("--base") + 1] == str(tmp_path / "bare")
    assert original[original.index("--learning-rate") + 1] == "2e-05"


def test_recipe_folder_depends_on_time_and_terminology_and_failure_is_one_line(terminology, tmp_path):
    commands = []

    def failing(arguments):
        commands.append(arguments)
        return 7

    other = Terminology.load(terminology)
    Terminology.build(other.names.slice(1))[0].save(tmp_path / "other")
    for recipe in RECIPES:
        for folder, minutes in [(terminology, 1), (terminology, 2), (tmp_path / "other", 1)]:
            message = f"^training by the recipe '{recipe}' ended with exit code 7; its own message is above$"
            with pytest.raises(XsapError, match=message):
                train_recipe(recipe, folder, minutes, tmp_path / "work", run_command=failing)
    folders = [next(word for word in arguments if "recipe-" in word) for arguments in commands]
    assert len(set(folders)) == len(commands) == 6
    with pytest.raises(ConfigError, match="unknown recipe 'best'; they are xsap and reference"):
        train_recipe("best", terminology, 1, tmp_path)
    with pytest.raises(ArtifactError, match="expected a terminology folder"):
        train_recipe("xsap", tmp_path / "nothing", 1, tmp_path)


# HPO


def _obo(ids):
    terms = "".join(f'\n[Term]\nid: HP:{i:07d}\nname: Pain of place {i}\nsynonym: "Ache {i}" EXACT []\n' for i in ids)
    return f"format-version: 1.2\nontology: hp\n{terms}"


HEADER = "subject_id\tsource_language\ttranslation_language\tpredicate_id\tsource_value\ttranslation_status\ttranslation_value\n"


def _translations(ids):
    """Of each concept an OFFICIAL and a CANDIDATE one."""
    rows = []
    for i in ids:
        for status, value in (("OFFICIAL", f"Schmerz {i}"), ("CANDIDATE", f"Weh {i}")):
            predicate = "rdfs:label" if status == "OFFICIAL" else "oio:hasExactSynonym"
            rows.append(f"HP:{i:07d}\ten\tde\t{predicate}\tPain of place {i}\t{status}\t{value}\n")
    return HEADER + "".join(rows)


@pytest.fixture
def hpo_folder(tmp_path):
    """Concepts 1 to 8, of which the split holds out 2, 3 and 5 (test_prep_split pins that)."""
    folder = tmp_path / "hpo"
    (folder / "translations").mkdir(parents=True)
    (folder / "hp.obo").write_text(_obo(range(1, 9)), encoding="utf-8")
    (folder / "translations" / "hp-de.babelon.tsv").write_text(_translations(range(1, 9)), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_held_out_hpo_splits_once(hpo_folder, tmp_path):
    split = held_out_hpo(hpo_folder, tmp_path / "work")
    mentions = read_mentions(split / "mentions.tsv").select(["mention", "language", "concept_ids"]).to_pylist()
    assert mentions == [
        {"mention": f"Schmerz {i}", "language": "de", "concept_ids": [f"HP:{i:07d}"]} for i in (2, 3, 5)
    ]
    names = Terminology.load(split / "terminology").names.select(["concept_id", "language", "name"]).to_pylist()
    assert len([row for row in names if row["language"] == "en"]) == 16
    foreign = {row["name"] for row in names if row["language"] == "de"}
    assert foreign == {f"{word} {i}" for word in ("Schmerz", "Weh") for i in (1, 4, 6, 7, 8)}
    commands = []

    def recording(*arguments):
        commands.append(arguments)

    assert held_out_hpo(hpo_folder, tmp_path / "work", prepare=recording) == split
    shutil.copytree(hpo_folder, tmp_path / "moved")
    assert held_out_hpo(tmp_path / "moved", tmp_path / "work", prepare=recording) == split
    assert commands == []
    shutil.rmtree(split)  # a run that was interrupted between the two commands
    assert held_out_hpo(hpo_folder, tmp_path / "work", prepare=lambda *a: recording(*a) or prepare_hpo(*a)) == split
    assert [arguments[0] for arguments in commands] == ["split"]
    (hpo_folder / "translations" / "hp-de.babelon.tsv").write_text(_translations(range(1, 8)), encoding="utf-8")
    assert held_out_hpo(hpo_folder, tmp_path / "work", prepare=recording) != split
    assert [arguments[0] for arguments in commands[1:]] == ["hpo", "split"]
    assert commands[2][-4:] == ("--test-fraction", "0.2", "--test-status", "OFFICIAL")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda folder: (folder / "hp.obo").unlink(), r"0 .obo file\(s\) and 1 table\(s\)"),
        (lambda folder: shutil.copy(folder / "hp.obo", folder / "other.obo"), r"2 .obo file\(s\) and 1 table\(s\)"),
        (lambda folder: shutil.rmtree(folder / "translations"), r"1 .obo file\(s\) and 0 table\(s\)"),
        (shutil.rmtree, r"0 .obo file\(s\) and 0 table\(s\)"),
    ],
)
def test_folder_without_hpo_files_is_reported(hpo_folder, tmp_path, change, found):
    change(hpo_folder)
    with pytest.raises(DataError, match=f"^{hpo_folder}: expected a folder with an .obo file .*; found {found}$"):
        held_out_hpo(hpo_folder, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_unreadable_hpo_file_is_reported_in_readers_words(hpo_folder, tmp_path):
    (hpo_folder / "translations" / "hp-de.babelon.tsv").write_text("no\theader\n")
    with pytest.raises(XsapError, match="^xsap-prepare hpo ended with exit code 2: .*hp-de.babelon.tsv") as error:
        held_out_hpo(hpo_folder, tmp_path / "work")
    assert "error:" not in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "work").rglob("whole"))
