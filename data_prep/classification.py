"""What a reader of a classification returns: its names, kept or not, definitions, the code above each code, and what else it found."""

from collections import Counter
from dataclasses import dataclass, field

from data_prep.ontology_model import LABEL, NameRecord
from xsap.languages import ENGLISH

INCLUSION = "inclusion term"  # the scope of a name that a classification gives beside a title
MAX_DEPTH = 100  # of elements in each other: codes nest five deep, and their notes three
WITHOUT_DTD = "xmllint --dropdtd"  # writes an XML file without its DTD


@dataclass
class ClassificationNames:
    """The names of a classification.

    Attributes:
        names: All names, with the reason where one is not kept.
        definitions: Texts in place of names.
        parents: Pairs of a code and the one above it.
        counts: Codes and other parts, for the report: "codes in the file" → how many.
        source: What the file calls the classification; empty if it does not say.
    """

    names: list[NameRecord] = field(default_factory=list)
    definitions: list[NameRecord] = field(default_factory=list)
    parents: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    source: str = ""

    def add(self, code: str, name: str, scope: str, reason: str | None = None, language: str = ENGLISH) -> None:
        """Add a name. scope: LABEL for a title. reason: why it is not kept."""
        kind = "preferred" if scope == LABEL else "synonym"
        self.names.append(NameRecord(code, language, name, scope, kind=kind, rejection_reason=reason))
