"""The files of a UMLS release that are read: their columns, where they lie, and the order in which they rank names.

Columns: https://www.ncbi.nlm.nih.gov/books/NBK9685/ chapter 3, section 3.3.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.rejects import Rejects
from data_prep.rrf import find_rrf, read_rrf
from xsap.errors import DataError

# fmt: off
MRCONSO = (
    "CUI", "LAT", "TS", "LUI", "STT", "SUI", "ISPREF", "AUI", "SAUI", "SCUI", "SDUI", "SAB", "TTY", "CODE", "STR", "SRL", "SUPPRESS", "CVF",
)
MRSTY = ("CUI", "TUI", "STN", "STY", "ATUI", "CVF")
MRREL = (
    "CUI1", "AUI1", "STYPE1", "REL", "CUI2", "AUI2", "STYPE2", "RELA", "RUI", "SRUI", "SAB", "SL", "RG", "DIR", "SUPPRESS", "CVF",
)
MRRANK = ("RANK", "SAB", "TTY", "SUPPRESS")
MRSAB = (
    "VCUI", "RCUI", "VSAB", "RSAB", "SON", "SF", "SVER", "VSTART", "VEND", "IMETA", "RMETA", "SLC", "SCC", "SRL", "TFR", "CFR", "CXTY",
    "TTYL", "ATNL", "LAT", "CENC", "CURVER", "SABIN", "SSN", "SCIT",
)
MRCUI = ("CUI1", "VER", "REL", "RELA", "MAPREASON", "CUI2", "MAPIN")
# fmt: on
_FILES = {"mrsty": "MRSTY.RRF", "mrrel": "MRREL.RRF", "mrrank": "MRRANK.RRF", "mrsab": "MRSAB.RRF", "mrcui": "MRCUI.RRF"}


@dataclass(frozen=True, slots=True)
class UmlsFiles:
    """Where each file lies; None for one that there is not."""

    mrconso: Path
    mrsty: Path | None = None
    mrrel: Path | None = None
    mrrank: Path | None = None
    mrsab: Path | None = None
    mrcui: Path | None = None

    @classmethod
    def find(cls, place: Path, **given: Path | None) -> "UmlsFiles":
        """In a META folder, or beside the MRCONSO file that `place` is; `given` names single ones. Raises DataError without MRCONSO."""
        folder = place if place.is_dir() else place.parent
        mrconso = find_rrf(place, "MRCONSO.RRF") if place.is_dir() else place
        if mrconso is None:
            raise DataError(
                f"{place}: expected MRCONSO.RRF or MRCONSO.RRF.gz in this folder, found neither. Is it the META folder of a release?"
            )
        found = cls(mrconso, *(find_rrf(folder, name) for name in _FILES.values()))
        return replace(found, **{name: path for name, path in given.items() if path})

    def need(self, name: str, why: str) -> Path:
        """A file that `why` can't do without. Raises DataError."""
        path: Path | None = getattr(self, name)
        if path is None:
            verb = "needs" if why.startswith("a ") else "need"
            raise DataError(f"{self.mrconso}: {why} {verb} {_FILES[name]}, found none beside it; give its path, or leave that out")
        return path

    def present(self) -> list[Path]:
        """The files that there are."""
        return [path for field in fields(self) if (path := getattr(self, field.name))]


def ranks(mrrank: Path, rejects: Rejects | None = None) -> pa.Table:
    """MRRANK as key (SAB|TTY|SUPPRESS) and rank (int32, the highest is best)."""
    none = pa.schema([(column, pa.string()) for column in MRRANK]).empty_table()
    table = pa.concat_tables([none, *read_rrf(mrrank, MRRANK, rejects=rejects)])
    try:
        rank = table["RANK"].cast(pa.int32())
    except pa.ArrowInvalid as error:
        raise DataError(f"{mrrank}: expected whole numbers in RANK; {error}") from None
    return pa.table({"key": pc.binary_join_element_wise(table["SAB"], table["TTY"], table["SUPPRESS"], "|"), "rank": rank})
