"""Settings: files and `--set`, errors with suggestions, and the help text."""

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import settings as trials
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tests.fixtures.commands import ROOT
from tests.fixtures.examples import examples
from xsap.config import OTHER_NAMES, Settings, describe_settings, load_settings
from xsap.errors import ConfigError
from xsap.settings_files import MEMORY_RECIPES, setting_names

RECIPES = sorted(
    file for file in (ROOT / "configs" / "train").glob("*.toml") if not file.name.startswith(MEMORY_RECIPES)
)
NEEDED = ["output=out", "terminology=names"]
steady = trials(max_examples=examples(60), deadline=None)


def settings(*overrides):
    return load_settings(None, [*NEEDED, *overrides])


def error_of(*overrides, file=None):
    with pytest.raises(ConfigError) as raised:
        load_settings(file, [*NEEDED, *overrides])
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def write(tmp_path):
    def write(content):
        (tmp_path / "run.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "run.toml"

    return write


def test_defaults_are_the_original_recipe():
    found = settings()
    assert (found.sampling.mode, found.sampling.pairs_per_concept, found.batch.pairs) == ("pairs", 50, 256)
    assert (found.loss.name, found.loss.miner, found.loss.margin) == ("multi_similarity", "triplet_margin", 0.2)
    assert (found.loss.alpha, found.loss.beta, found.loss.base) == (1.0, 60.0, 0.5)
    assert (found.optim.learning_rate, found.optim.weight_decay, found.optim.schedule) == (2e-5, 0.01, "constant")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.name)
def test_each_recipe_loads_and_sets_what_it_states(recipe):
    assert_tree(load_settings(recipe, NEEDED), tomllib.loads(recipe.read_text(encoding="utf-8")))


def assert_tree(section, tree):
    for key, value in tree.items():
        if isinstance(value, dict):
            assert_tree(getattr(section, key), value)
        else:
            assert getattr(section, key) == value, key


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.name)
def test_each_recipe_states_only_what_differs_from_the_defaults(recipe):
    defaults = settings("text={}").model_dump(mode="json")
    for key, value in tomllib.loads(recipe.read_text(encoding="utf-8")).items():
        for name, inner in value.items() if isinstance(value, dict) else [(None, value)]:
            assert inner != (defaults[key] if name is None else defaults[key][name]), (key, name)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.name)
def test_recipe_is_found_by_its_name(recipe):
    assert load_settings(recipe.stem, NEEDED) == load_settings(recipe, NEEDED)


def test_file_of_a_recipes_name_takes_precedence(write, tmp_path, monkeypatch):
    write("seed = 9\n").rename(tmp_path / "small")
    monkeypatch.chdir(tmp_path)
    assert load_settings("small", NEEDED) == settings("seed=9")


def test_unknown_recipe_names_all_or_the_one_meant():
    names = ", ".join(file.stem for file in RECIPES)
    assert (
        error_of(file="sml")
        == "--config sml: found neither such a file nor a recipe of that name; did you mean 'small'?"
    )
    assert error_of(file="quux") == (
        f"--config quux: found neither such a file nor a recipe of that name; recipes are {names}; a file is given by its path"
    )


def test_recipes_exist():
    assert {file.name for file in RECIPES} >= {
        "sapbert_reference.toml",
        "all_syn.toml",
        "en_syn.toml",
        "en_es_syn.toml",
        "small.toml",
        "from_pretrained.toml",
        "e5_small_cpu.toml",
    }


def test_file_differs_from_the_defaults_only_where_it_says_so(write):
    file = write('output = "out"\nterminology = "names"\nseed = 3\n\n[optim]\nlearning_rate = 1e-3\n')
    assert load_settings(file) == settings("seed=3", "optim.learning_rate=1e-3")
    assert load_settings(file).model_dump() != settings().model_dump()


def test_later_setting_takes_precedence_over_earlier_one_and_file(write):
    file = write('output = "out"\npairs = "p.txt"\nseed = 3\n[batch]\npairs = 8\nnames = 9\n')
    found = load_settings(file, ["seed=4", "seed=5", "batch.pairs=7"])
    assert (found.seed, found.batch.pairs, found.batch.names, found.pairs) == (5, 7, 9, Path("p.txt"))


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("optim.learning_rate=1e-4", "optim.learning_rate", 1e-4),
        ("optim.learning_rate=1", "optim.learning_rate", 1.0),
        ("seed = 7", "seed", 7),
        ("batch.pairs=1_024", "batch.pairs", 1024),
        ("sampling.shuffle=false", "sampling.shuffle", False),
        ("overwrite=true", "overwrite", True),
        ("base=scratch", "base", "scratch"),
        ('base="scratch"', "base", "scratch"),
        ("base = scratch ", "base", "scratch"),
        ("sampling.anchor_language = null", "sampling.anchor_language", None),
        ("base=org/model-base", "base", "org/model-base"),
        ("base=a=b", "base", "a=b"),
        ("sampling.languages=en+es_syn", "sampling.languages", "en+es_syn"),
        ("output=/data/run 1/x", "output", Path("/data/run 1/x")),
        ("output=../x", "output", Path("../x")),
        ("output=C:\\new\\table", "output", Path("C:\\new\\table")),
        ("output=2026-10-17", "output", Path("2026-10-17")),
        ("output=12:30:00", "output", Path("12:30:00")),
        ("sampling.anchor_language=null", "sampling.anchor_language", None),
        ("max_steps=0", "max_steps", 0),
        ("text.case=lower", "text.case", "lower"),
        ('text={case = "lower"}', "text.unicode", "NFC"),
    ],
)
def test_set_parses_numbers_booleans_words_paths_and_null(override, path, value):
    found = settings("sampling.anchor_language=en", override)
    for part in path.split("."):
        found = getattr(found, part)
    assert (found, type(found)) == (value, type(value))


def test_null_undoes_a_setting_of_the_file(write):
    assert load_settings(write('output = "o"\npairs = "p"\ntracker = "wandb"\n'), ["tracker=null"]).tracker is None


def test_error_is_one_line_even_if_the_key_has_two():
    assert error_of("seed\nx=1") == "unknown setting 'seed x' in --set seed x=1; did you mean 'seed'?"


@pytest.mark.parametrize("text", ["seed", "=3", " = 3", "", "seed=", "seed= ", ".=3", "optim.=3", ".lr=3"])
def test_set_without_key_or_value_is_rejected(text):
    assert re.fullmatch(rf"--set takes key=value, found '{text}'; for example .*", error_of(text))


def test_one_set_makes_one_setting():
    assert settings("base=3\nepochs = 9").epochs == 1


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("sampling.langauges", "sampling.languages"),
        ("sedd", "seed"),
        ("optim.warmup", "optim.warmup_steps"),
        ("evaluation.precison", "mixed_precision"),
        ("loss.layers", "scratch.layers"),
        ("learning_rate", "optim.learning_rate"),
        ("case", "text.case"),
        ("temperature", "loss.temperature"),
        ("text.cas", "text.case"),
        ("scratch.layer", "scratch.layers"),
        ("batch.pair", "batch.pairs"),
        ("Epochs", "epochs"),
    ],
)
def test_unknown_setting_suggests_one_of_similar_spelling(key, known):
    assert error_of(f"{key}=1") == f"unknown setting '{key}' in --set {key}=1; did you mean '{known}'?"


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("lr", "optim.learning_rate"),
        ("loss.lr", "optim.learning_rate"),
        ("optim.lr", "optim.learning_rate"),
        ("clip", "optim.max_grad_norm"),
        ("batch_size", "batch.pairs' or 'batch.names"),
        ("per_device_train_batch_size", "batch.pairs' or 'batch.names"),
        ("fp16", "mixed_precision"),
        ("precision", "mixed_precision"),
        ("save_steps", "checkpoint.save_steps"),
        ("eval_steps", "evaluation.eval_steps"),
        ("num_train_epochs", "epochs"),
        ("model", "base"),
        ("model_name_or_path", "base"),
        ("output_dir", "output"),
        ("max_seq_length", "max_length"),
        ("train_dir", "terminology' or 'pairs"),
        ("agg_mode", "pooling"),
        ("report_to", "tracker"),
    ],
)
def test_unknown_setting_suggests_one_of_the_same_meaning(key, known):
    assert error_of(f"{key}=1") == f"unknown setting '{key}' in --set {key}=1; did you mean '{known}'?"


def test_every_suggestion_by_meaning_names_known_settings_and_only_unknown_names():
    known = set(setting_names(Settings))
    assert {key for keys in OTHER_NAMES for key in keys.split("' or '")} <= known
    others = [name for names in OTHER_NAMES.values() for name in names]
    assert len(set(others)) == len(others)
    assert not set(others) & {key.rpartition(".")[2] for key in known}


def test_unknown_setting_in_a_file_names_file_and_key(write):
    file = write('[sampling]\nlangauges = "en_syn"\n')
    assert error_of(file=file) == f"unknown setting 'sampling.langauges' in {file}; did you mean 'sampling.languages'?"


def test_unknown_section_in_a_file_names_file_and_key(write):
    file = write("[optimm]\nlr = 1.0\n")
    assert error_of(file=file) == f"unknown setting 'optimm' in {file}; did you mean 'optim'?"


def test_unknown_setting_without_a_similar_one_gets_no_suggestion():
    assert error_of("qqqqzzzz=1") == "unknown setting 'qqqqzzzz' in --set qqqqzzzz=1"


@pytest.mark.parametrize(
    "override",
    [
        "seed=abc",
        "seed=1.5",
        "seed=-1",
        "seed=9223372036854775808",
        "epochs=0",
        "max_steps=-1",
        "max_minutes=0",
        "max_length=2",
        "batch.pairs=0",
        "sampling.shuffle=perhaps",
        "sampling.mode=triples",
        "sampling.names_per_concept=1",
        "loss.name=softmax",
        "loss.temperature=0",
        "loss.margin=-0.1",
        "loss.base=nan",
        "optim.learning_rate=0",
        "optim.learning_rate=-1e-5",
        "optim.learning_rate=inf",
        "optim.learning_rate=fast",
        "optim.max_grad_norm=-1",
        "checkpoint.save_total_limit=0",
        "scratch.dropout=1",
        "pooling=max",
        "mixed_precision=fp64",
        "resume=always",
        "text.case=upper",
        "text.unicode=NFD",
        "tracker=3",
        "output=[1]",
        "seed=null",
    ],
)
def test_invalid_value_names_its_key_source_and_value(override):
    key, _, value = override.partition("=")
    message = error_of(override)
    assert message.startswith(f"setting '{key}' in --set {override}: ")
    assert message.rpartition("; found ")[2].strip("'") == {"-1e-5": "-1e-05", "null": "None"}.get(value, value)


def test_invalid_value_in_a_file_names_the_file(write):
    file = write("[optim]\nlearning_rate = -1.0\n")
    assert re.fullmatch(rf"setting 'optim.learning_rate' in {file}: .*greater than 0; found -1.0", error_of(file=file))


def test_invalid_value_names_where_it_was_last_set(write):
    assert "in --set epochs=-2:" in error_of("epochs=-2", file=write("epochs = -1\n"))


def test_section_is_not_a_value_and_value_not_a_section():
    assert "setting 'sampling' in --set sampling=groups" in error_of("sampling=groups")
    assert error_of("seed=1", "seed.x=2") == "--set seed.x=2: 'seed' is a value, not a section"


@pytest.mark.parametrize("overrides", [["output=o"], ["output=o", "terminology=null"]])
def test_neither_terminology_nor_pairs_is_rejected(overrides):
    with pytest.raises(
        ConfigError,
        match="exactly one of 'terminology' and 'pairs' must be set, found none; add --set terminology=FOLDER",
    ):
        load_settings(None, overrides)


def test_both_terminology_and_pairs_are_rejected_with_a_remedy():
    assert re.match(
        "exactly one of 'terminology' and 'pairs' must be set, found both; add --set pairs=null",
        error_of("pairs=p.txt"),
    )
    assert settings("pairs=p.txt", "terminology=null").pairs == Path("p.txt")


def test_output_must_be_given():
    with pytest.raises(ConfigError, match="the setting 'output' must be given; add --set output="):
        load_settings(None, ["terminology=x"])


def test_all_missing_settings_are_reported_at_once():
    with pytest.raises(ConfigError) as raised:
        load_settings(None)
    assert str(raised.value) == (
        "the setting 'output' must be given; exactly one of 'terminology' and 'pairs' must be set, found none; "
        "add --set output=… --set terminology=FOLDER"
    )


@pytest.mark.parametrize(
    "content", ["seed = ", "seed = 1\nseed = 2\n", "[optim\n", b"base = '\xff'\n", b"\x00", "seed: 1\n"]
)
def test_file_that_is_not_toml_is_named(write, content):
    file = write(content)
    assert error_of(file=file).startswith(f"{file}: not a TOML file: ")


def test_missing_file_and_folder_are_named(tmp_path):
    assert (
        error_of(file=tmp_path / "x.toml")
        == f"{tmp_path / 'x.toml'}: expected a TOML file of settings, found nothing there"
    )
    assert error_of(file=tmp_path).startswith(f"{tmp_path}: not a TOML file: ")


def test_file_with_byte_order_mark_and_crlf_is_read(write):
    assert load_settings(write("\ufeffseed = 3\r\n[optim]\r\nlearning_rate = 0.5\r\n"), NEEDED) == settings(
        "seed=3", "optim.learning_rate=0.5"
    )


def test_settings_are_frozen():
    found = settings()
    for section in [found, *(value for _, value in found if isinstance(value, BaseModel))]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, next(iter(type(section).model_fields)), "x")


def test_settings_round_trip_through_json():
    found = settings("text.case=lower", "max_minutes=0.5", "sampling.anchor_language=en")
    assert Settings.model_validate_json(found.model_dump_json()) == found


@steady
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@example("\n")
@example("'\n'")
@example("3\n")
def test_any_base_is_kept_as_text_or_rejected_in_one_line(text):
    try:
        base = settings(f"base={text}").base
    except ConfigError:
        assert "base" in error_of(f"base={text}")
        return
    assert base == text.strip() or text.lstrip()[0] in "\"'" or "#" in text


@steady
@given(st.text("abcdefilmnoprstx_.", min_size=1, max_size=16))
def test_any_key_is_known_or_rejected(key):
    try:
        settings(f"{key}=1")
    except ConfigError:
        assert key.split(".")[0] in error_of(f"{key}=1")


def test_help_describes_every_setting_within_80_columns():
    text = describe_settings()
    assert max(map(len, text.splitlines())) <= 80
    described = re.findall(r"^  ([\w.]+) \((.*)", text, re.MULTILINE)
    sections = {name for name, _ in re.findall(r"^\[(\w+)\] (.+)", text, re.MULTILINE)}
    assert {name for name, _ in described} | sections == set(setting_names(Settings))
    assert "  output (path; required)\n      Folder of the run, to write.\n" in text
    assert "  optim.learning_rate (number > 0; default 2e-05)\n      Peak learning rate.\n" in text
    assert "  sampling.language_temperature (number >= 0 and <= 1; default 1)\n" in text
    assert "  resume (auto | never; default never)\n" in text
    assert "  max_length (integer >= 3; default none)\n" in text
    assert max(map(len, describe_settings(60).splitlines())) <= 60
