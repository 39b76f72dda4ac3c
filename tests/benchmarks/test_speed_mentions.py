"""Few mentions, with one thread and with all."""

import json

import pytest
import torch

from benchmarks.__main__ import app
from benchmarks.speed.mentions import COUNTS, FewMentions, compare_threads
from xsap.encoding.threads import TOKENS_ON_ONE_THREAD
from xsap.errors import ConfigError
from xsap.terminal import run as run_app


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_each_number_of_mentions_is_timed_with_one_thread_and_with_all(
    tiny_folder, sample_folder, two_threads, tmp_path, capsys
):
    words = [
        "speed",
        "mentions",
        tiny_folder,
        "--terminology",
        sample_folder,
        "--rounds",
        1,
        "--json",
        tmp_path / "r.json",
    ]
    with pytest.raises(SystemExit) as end:
        run_app(app, "python -m benchmarks", [str(word) for word in words])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "one thread is faster by" in printed
    assert f"xsap uses one thread for at most {TOKENS_ON_ONE_THREAD} tokens" in printed
    batches = json.loads((tmp_path / "r.json").read_text())["batches"]
    assert [each["mentions"] for each in batches] == list(COUNTS)
    assert all(each["one_thread"] > 0 < each["all_threads"] for each in batches)
    assert [each["xsap_threads"] for each in batches] == [
        1 if each["tokens"] <= TOKENS_ON_ONE_THREAD else 2 for each in batches
    ]
    assert {each["xsap_threads"] for each in batches} == {1, 2}
    assert torch.get_num_threads() == 2


def test_single_thread_has_nothing_to_compare(tiny_folder, sample_folder):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.raises(ConfigError, match="expected several threads to compare with one, found one"):
            compare_threads(str(tiny_folder), sample_folder, rounds=1)
    finally:
        torch.set_num_threads(before)
    assert FewMentions(1, 9, 0.01, 0.02, 1).speedup == 2
