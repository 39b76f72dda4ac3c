"""`--dtype auto`: the fastest dtype whose answers agree, tried once for each model and processor."""

import json
import logging

import numpy as np
import pytest
import torch

from xsap import Encoder, Linker
from xsap.encoding import precision
from xsap.encoding.int8 import Int8Linear
from xsap.encoding.precision import (
    DtypeTrial,
    fastest,
    open_encoder_in,
    supported_dtypes,
    try_dtypes,
    use_fastest_dtype,
)
from xsap.errors import ConfigError
from xsap.linking.index import Index
from xsap.terms.terminology import Terminology

FLOAT = DtypeTrial(100, 1, True)


@pytest.fixture
def encoder(tiny_folder):
    return Encoder.from_pretrained(tiny_folder)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XSAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("XSAP_DTYPE", raising=False)
    return tmp_path / "cache" / "dtype"


@pytest.fixture
def trials(monkeypatch):
    """A processor with bfloat16; each trial is recorded, and says that bfloat16 is twice as fast."""
    made = []

    def try_them(encoder, dtypes, **_):
        made.append(list(dtypes))
        return {dtype: DtypeTrial(100 if dtype == "float32" else 200, 0.9999, True) for dtype in dtypes}

    monkeypatch.setattr(precision, "supported_dtypes", lambda device: ["float32", "bfloat16"])
    monkeypatch.setattr(precision, "try_dtypes", try_them)
    return made


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({}, "float32"),
        ({"bfloat16": DtypeTrial(200, 0.9995, True)}, "bfloat16"),
        ({"bfloat16": DtypeTrial(200, 0.9989, True)}, "float32"),
        ({"bfloat16": DtypeTrial(200, 1, False)}, "float32"),
        ({"bfloat16": DtypeTrial(109, 1, True)}, "float32"),
        ({"bfloat16": DtypeTrial(200, 1, True), "int8": DtypeTrial(300, 1, True)}, "int8"),
        ({"bfloat16": DtypeTrial(300, 1, True), "int8": DtypeTrial(200, 1, True)}, "bfloat16"),
        ({"bfloat16": DtypeTrial(200, 1, True), "int8": DtypeTrial(300, 1, False)}, "bfloat16"),
    ],
)
def test_fastest_dtype_that_agrees_is_chosen(results, expected):
    assert fastest({"float32": FLOAT} | results) == expected


def test_trial_compares_vectors_and_leaves_the_encoder_in_float32(encoder):
    before = encoder.encode(["fever"])
    results = try_dtypes(encoder, ["float32", "bfloat16"], seconds=0)
    assert results["float32"].cosine == pytest.approx(1, abs=1e-6)
    assert results["float32"].same_nearest
    assert 0.99 < results["bfloat16"].cosine < 1 - 1e-7  # rounded, and not much
    assert all(result.names_per_second > 0 for result in results.values())
    assert encoder.dtype == "float32"
    assert encoder.encode(["fever"]).tobytes() == before.tobytes()


def test_trial_of_int8_restores_the_layers(encoder):
    results = try_dtypes(encoder, ["float32", "int8"], seconds=0)
    assert 0.9 < results["int8"].cosine < 1 - 1e-7
    assert not any(isinstance(module, Int8Linear) for module in encoder.modules())


@pytest.mark.parametrize("kept", [True, False])
def test_auto_replaces_the_layers_where_int8_is_chosen(encoder, cache, trials, tiny_folder, monkeypatch, kept):
    monkeypatch.setattr(precision, "supported_dtypes", lambda device: ["float32", "int8"])
    exact = encoder.encode(["fever", "cough"])
    if kept:
        assert use_fastest_dtype(Encoder.from_pretrained(tiny_folder)) == "int8"
    assert use_fastest_dtype(encoder) == encoder.dtype == "int8"
    assert trials == [["float32", "int8"]]
    assert sum(isinstance(module, Int8Linear) for module in encoder.modules()) == 12  # two layers of six
    near = encoder.encode(["fever", "cough"])
    assert not np.array_equal(near, exact)
    assert (near * exact).sum(1).min() > 0.99


def test_seconds_bound_the_rounds(encoder):
    times = iter(range(1000))
    results = try_dtypes(encoder, ["float32"], seconds=7, clock=lambda: next(times))
    assert results["float32"].names_per_second == 40  # a second from each reading of the clock to the next
    assert next(times) == 10  # the beginning, and three rounds, each with a check whether time is up


@pytest.mark.parametrize(
    ("rows", "cosine", "same"),
    [
        ([[1, 0, 0], [0.9, 0.1, 0], [0, 0, 1]], 1, True),
        ([[1, 0, 0], [0, 0, 1], [0.9, 0.1, 0]], 0, False),
        ([[1, 0, 0], [np.nan, 0, 0], [0, 0, 1]], -1, False),
    ],
)
def test_agreement_is_of_vectors_and_nearest_names(rows, cosine, same):
    expected = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 0, 1]], np.float32)
    units = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (expected, np.array(rows, np.float32))]
    found = precision._agreement(*units)
    assert found == (pytest.approx(cosine, abs=1e-6), same)


def test_another_nearest_name_is_no_difference_where_two_tie():
    expected = np.array([[1, 0, 0], [0.8, 0.6, 0], [0.8, -0.5999, 0.011]], np.float32)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    nearest = [precision._cosines(expected).argmax(1)[0]]
    found = expected.copy()
    found[nearest[0]] += 1e-4 * np.array([-1, 0, 0], np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    assert precision._cosines(found).argmax(1)[0] != nearest[0]
    assert precision._agreement(expected, found)[1]


def test_result_is_kept_and_said_once(encoder, cache, trials, caplog, tiny_folder):
    with caplog.at_level(logging.INFO, "xsap"):
        assert use_fastest_dtype(encoder) == encoder.dtype == "bfloat16"
        again = Encoder.from_pretrained(tiny_folder)
        assert use_fastest_dtype(again) == "bfloat16"
    assert trials == [["float32", "bfloat16"]]
    (line,) = [record.getMessage() for record in caplog.records if "auto" in record.getMessage()]
    assert line == "--dtype auto: bfloat16 (float32 100 names/s; bfloat16 200 names/s)"
    (file,) = cache.iterdir()
    assert json.loads(file.read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"dtype": "int8"}', '{"dtype": "float16"}', '{"dtype": ["float32"]}']
)
def test_kept_result_that_is_damaged_or_not_usable_is_tried_again(encoder, cache, trials, damage):
    use_fastest_dtype(encoder)
    (file,) = cache.iterdir()
    file.write_text(damage)
    encoder.dtype = "float32"
    assert use_fastest_dtype(encoder) == "bfloat16"
    assert len(trials) == 2
    assert json.loads(file.read_text())["dtype"] == "bfloat16"


def test_result_depends_on_model_use_and_threads_and_how_it_was_tried(encoder, cache, trials, monkeypatch):
    first = precision._cache_file(encoder)
    encoder.content_hash = "0" * 64
    second = precision._cache_file(encoder)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        third = precision._cache_file(encoder)
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(precision, "TRIAL_METHOD", precision.TRIAL_METHOD + 1)
    assert len({first, second, third, precision._cache_file(encoder)}) == 4


def test_folder_that_cannot_be_written_costs_only_another_trial(encoder, cache, trials, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert use_fastest_dtype(encoder) == "bfloat16"
    assert use_fastest_dtype(encoder) == "bfloat16"
    assert len(trials) == 2


def test_processor_without_instructions_has_no_trial(encoder, cache, monkeypatch):
    monkeypatch.setattr(precision, "bfloat16_is_slow", lambda: True)
    monkeypatch.setattr(precision, "int8_is_faster", lambda: False)
    monkeypatch.setattr(precision, "try_dtypes", lambda *_, **__: pytest.fail("tried"))
    assert use_fastest_dtype(encoder) == "float32"
    assert not cache.exists()
    assert supported_dtypes(torch.device("cuda")) == ["float32", "bfloat16"]


def test_environment_variable_replaces_the_trial(cache, tiny_folder, monkeypatch):
    monkeypatch.setattr(precision, "try_dtypes", lambda *_, **__: pytest.fail("tried"))
    monkeypatch.setenv("XSAP_DTYPE", "bfloat16")
    opened = open_encoder_in("auto", lambda dtype: Encoder.from_pretrained(tiny_folder, dtype=dtype))
    assert opened.dtype == "bfloat16"
    monkeypatch.setenv("XSAP_DTYPE", "fp8")
    with pytest.raises(ConfigError, match="^XSAP_DTYPE must be float32, bfloat16, float16 or int8; found 'fp8'$"):
        open_encoder_in("auto", lambda dtype: pytest.fail("opened"))
    assert open_encoder_in("float32", lambda dtype: dtype) == "float32"


def test_linker_with_auto_has_the_dtype_that_was_chosen(cache, trials, tiny_folder, sample_folder, tmp_path):
    names = Terminology.load(sample_folder)
    Index.build(names, Encoder.from_pretrained(tiny_folder), languages={"tr"}, model_path=tiny_folder).save(
        tmp_path / "i"
    )
    linker = Linker.load(tmp_path / "i", dtype="auto")
    assert linker.encoder.dtype == "bfloat16"
    assert linker.index.model.dtype == "float32"
    assert linker.link("ateş").candidates
