"""Files in a zip, read without unpacking it.

A file in a zip is read as a stream, so it needs no more memory than a file on disk. The limit of its size is that of the parts of a workbook.
"""

import errno
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from xsap.errors import DataError
from xsap.files import MAX_ZIP_RATIO, ZIP_ERRORS, file_ending, is_compressed, is_zip_bomb, open_bytes
from xsap.terms.corpus import visible_names

_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")  # of a zip, and of one without files
_ENCRYPTED = 1  # of a file's flags


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A file in a zip. member: its path in the zip. As a string, it is a path for messages."""

    archive: Path
    member: str

    def __str__(self) -> str:
        return f"{self.archive}/{''.join(c if c.isprintable() else '?' for c in self.member)}"

    @property
    def name(self) -> str:
        """The file's name without its folders."""
        return PurePosixPath(self.member).name

    @contextmanager
    def open_bytes(self) -> Iterator[IO[bytes]]:
        """The file's bytes. Raises DataError, also while the block reads."""
        with _open_zip(self.archive) as archive:
            info = archive.getinfo(self.member)
            if is_zip_bomb(info):
                raise DataError(
                    f"{self}: expected at most {MAX_ZIP_RATIO} times the compressed size, found {info.file_size:,} bytes. "
                    "Is it a damaged file, or a zip bomb? If it is neither, unpack it"
                )
            if info.compress_type == zipfile.ZIP_LZMA:  # its errors are of a module that not every Python has
                raise DataError(f"{self}: expected a deflated file in the zip, found one in LZMA; unpack it")
            with archive.open(info) as stream:
                yield stream


InputFile = Path | ZipMember


@contextmanager
def open_file(file: InputFile) -> Iterator[IO[bytes]]:
    """The bytes of a file on disk, decompressed, or in a zip. Raises DataError, also while the block reads."""
    with file.open_bytes() if isinstance(file, ZipMember) else open_bytes(file) as stream:
        yield stream


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip does. Raises DataError without a file."""
    with open_bytes(path) as stream:
        return stream.read(4) in _SIGNATURES


def zip_members(path: Path, ending: str) -> list[ZipMember]:
    """The files in a zip whose names end so, in order; hidden files and those of macOS are left out. Raises DataError."""
    with _open_zip(path) as archive:
        if any(info.flag_bits & _ENCRYPTED for info in archive.infolist()):
            raise DataError(f"{path}: expected a zip without a password, found an encrypted one; unpack it")
        names = visible_names({info.filename for info in archive.infolist() if not info.is_dir()})
    files = {name: Path(name) for name in names}
    return [
        ZipMember(path, name) for name, file in files.items() if file_ending(file) == ending and not is_compressed(file)
    ]


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    with open_bytes(path) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                yield archive
        except (*ZIP_ERRORS, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a position before the beginning
                raise
            found = str(error).splitlines()[0] if str(error) else "its end too early"
            raise DataError(
                f"{path}: expected a zip file, found: {found}. Is it damaged? Then download it again"
            ) from None
