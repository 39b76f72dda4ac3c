"""The benchmark of the service: answers are compared, targets are judged, and a small run goes through."""

import json
import re

import pytest

from benchmarks.__main__ import main
from benchmarks.speed.harness import Machine, target
from benchmarks.speed.serve import Serving, compare_serving, sample_mentions, to_text
from xsap.encoding.encoder import Encoder
from xsap.errors import ConfigError
from xsap.linking.index import Index
from xsap.terminal import Dtype
from xsap.terms.terminology import Terminology


@pytest.fixture(scope="module")
def index(tmp_path_factory, tiny_folder, sample_folder):
    folder = tmp_path_factory.mktemp("serve") / "index"
    encoder = Encoder.from_pretrained(tiny_folder)
    Index.build(Terminology.load(sample_folder), encoder, languages={"en"}, model_path=tiny_folder).save(folder)
    return folder


def test_half_of_the_mentions_are_names_and_half_are_changed():
    names = [f"name {i}" for i in range(50)]
    mentions = sample_mentions(names, 100)
    assert sum(mention in names for mention in mentions) == 50
    assert mentions == sample_mentions(names, 100)


def test_more_than_fits_into_the_queue_is_refused(index):
    with pytest.raises(ConfigError, match="at most 256 mentions in a request and 1024 under way, found 120 and 1200"):
        compare_serving(index, model=None, mentions=10, clients=10, batch=120, rounds=1, dtype=Dtype.FLOAT32)


def test_figures_are_written_for_people():
    machine = Machine("CPU", 2, 2, {"python": "3.11"})
    targets = [target("mentions a second by the service", 50.0, 100.0)]
    serving = Serving(
        machine, 2000, 16, 10, [40.0, 50.0, 60.0], [100.0], 1.0, 2.0, 0, {"200": 8, "503": 24}, 0.1, targets
    )
    text = to_text(serving)
    assert re.search(r"\| xsap serve +\| +50 \| +0\.50 \|", text)
    assert "200: 8, 503: 24" in text
    assert "MISSED: mentions a second by the service 50" in text


@pytest.mark.slow
def test_a_small_run_has_equal_answers_and_loses_no_request(index, tmp_path, capsys):
    options = ["--index", str(index), "--mentions", "120", "--clients", "4", "--batch", "5", "--rounds", "1"]
    with pytest.raises(SystemExit):  # the speed of a busy machine may miss its target
        main(["speed", "serve", *options, "--json", str(tmp_path / "serve.json")])
    figures = json.loads((tmp_path / "serve.json").read_text(encoding="utf-8"))
    assert figures["different"] == 0
    assert set(figures["statuses"]) <= {"200", "503"}
    assert sum(figures["statuses"].values()) == 16
    assert [each["met"] for each in figures["targets"][1:]] == [True, True]
    assert "xsap serve" in capsys.readouterr().out
