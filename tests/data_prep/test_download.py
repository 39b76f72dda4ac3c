import re
from hashlib import sha256

import pytest

from data_prep import download as sources
from data_prep.download import SOURCES, OpenDataset, RemoteFile, download
from xsap.artifacts import read_manifest
from xsap.errors import ArtifactError, DataError


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """A source of two files on this disk."""
    files = []
    for name, data in (("a.txt", b"one"), ("deep/b.txt", b"two" * 1_000_000)):
        (tmp_path / name.replace("/", "-")).write_bytes(data)
        files.append(RemoteFile(name, (tmp_path / name.replace("/", "-")).as_uri(), sha256(data).hexdigest()))
    monkeypatch.setitem(sources.SOURCES, "mine", OpenDataset("Mine", "CC0", "https://example.org", tuple(files)))
    return tmp_path


def test_download_writes_files_and_license(offered):
    download("mine", offered / "out")
    assert (offered / "out" / "a.txt").read_bytes() == b"one"
    assert (offered / "out" / "deep" / "b.txt").read_bytes() == b"two" * 1_000_000
    manifest = read_manifest(offered / "out", "download")
    assert (manifest["license"], sorted(manifest["files"])) == ("CC0", ["a.txt", "deep/b.txt"])
    with pytest.raises(ArtifactError, match="exists already"):
        download("mine", offered / "out")


@pytest.mark.parametrize(
    ("fault", "message"),
    [("changed", "expected sha256 .*, found "), ("missing", "could not be downloaded")],
)
def test_download_of_wrong_file_leaves_nothing(offered, fault, message):
    if fault == "changed":
        (offered / "deep-b.txt").write_bytes(b"other")
    else:
        (offered / "deep-b.txt").unlink()
    with pytest.raises(DataError, match=message):
        download("mine", offered / "out")
    assert not [p for p in offered.iterdir() if "out" in p.name]


def test_unknown_data_set_error_suggests_nearest(tmp_path):
    with pytest.raises(DataError, match="xsap-prepare fetch has no data set 'hop'; did you mean 'hpo'?"):
        download("hop", tmp_path / "out")


def test_download_records_the_hash_of_a_file_without_a_fixed_one(offered, monkeypatch):
    files = tuple(RemoteFile(file.path, file.address, None) for file in SOURCES["mine"].files)
    monkeypatch.setitem(sources.SOURCES, "mine", OpenDataset("Mine", "CC0", "https://example.org", files))
    download("mine", offered / "out")
    assert read_manifest(offered / "out", "download")["files"]["a.txt"]["sha256"] == sha256(b"one").hexdigest()


UPDATED_IN_PLACE = {"https://purl.obolibrary.org/obo/hp.obo"}


@pytest.mark.parametrize("name", SOURCES)
def test_addresses_contain_a_commit_and_paths_stay_inside(name):
    for file in SOURCES[name].files:
        if file.address not in UPDATED_IN_PLACE:
            assert re.search(r"^https://raw\.githubusercontent\.com/[\w-]+/[\w-]+/[0-9a-f]{40}/", file.address)
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert not file.path.startswith("/")
        assert ".." not in file.path
    assert len({file.path for file in SOURCES[name].files}) == len(SOURCES[name].files)
