"""Few tokens are computed with one thread, and no other thread of the process is left with one."""

import threading

import numpy as np
import pytest
import torch

from tests.fixtures.encoders import TRAIN_TOKENIZER, tiny_encoder
from xsap.encoding.threads import TOKENS_ON_ONE_THREAD, threads_for

NAMES = ["fever", "high fever", "chest pain", "knee joint"]


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("tokens", "expected"), [(1, 1), (TOKENS_ON_ONE_THREAD, 1), (TOKENS_ON_ONE_THREAD + 1, 3), (8192, 3)]
)
def test_few_tokens_take_one_thread(tokens, expected, three_threads):
    with threads_for(tokens):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 3


def test_number_of_threads_is_restored_after_an_error(three_threads):
    with pytest.raises(ValueError, match="stopped"), threads_for(1):
        raise ValueError("stopped")
    assert torch.get_num_threads() == 3


def test_thread_that_starts_meanwhile_keeps_all_threads(three_threads):
    entered, leave, seen = threading.Event(), threading.Event(), []

    def large():
        with threads_for(8192):
            seen.append(torch.get_num_threads())

    def small():
        with threads_for(1):
            entered.set()
            leave.wait(10)

    first, second = threading.Thread(target=small), threading.Thread(target=large)
    first.start()
    assert entered.wait(10)
    second.start()
    second.join(0.2)
    leave.set()
    first.join()
    second.join()
    assert seen == [3]


def test_encoder_uses_one_thread_for_a_mention_and_all_for_many(three_threads):
    encoder, used = tiny_encoder(TRAIN_TOKENIZER["Unigram"](NAMES), "Unigram"), []
    encoder.register_forward_pre_hook(lambda *_: used.append(torch.get_num_threads()))
    alone, many = encoder.encode(NAMES[:1]), encoder.encode(NAMES * 50, tokens_per_batch=8192)
    assert used == [1, 3]
    assert np.allclose(alone[0], many[0], atol=1e-6)
