"""Amounts of memory as options take them."""

import pytest

from xsap.errors import ConfigError
from xsap.terminal import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4_000_000_000),
        ("4gb", 4_000_000_000),
        ("500MB", 500_000_000),
        (" 1.5 GB ", 1_500_000_000),
        ("2GiB", 2**31),
        ("1kB", 1000),
        ("3MiB", 3 * 2**20),
        ("1TB", 10**12),
    ],
)
def test_parse_size_reads_units_of_1000_and_1024(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "4", "4G", "GB", "-4GB", "4 B", "4GB and more", "four GB", "1e3MB", "0GB", "0.0001kB", "٤GB\n4GB"]
)
def test_parse_size_rejects_other_text(text):
    with pytest.raises(ConfigError, match="expected an amount of memory such as 4GB or 500MB, found"):
        parse_size(text)
