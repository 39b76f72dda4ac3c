"""Licenses of the sources of names, as far as they let anybody share the names; any other source is taken for one that doesn't.

A source is listed here only if its own license lets anybody pass its names on. The names of a source that came inside the UMLS have its own
license; those of SNOMED CT, MedDRA, CPT, LOINC's partners and most translations do not allow it. Lists of one's own are never listed: whether
they may be shared, only their owner knows.
"""

from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from xsap.text import EXACT_MATCH, normalize

_HPO = "HPO license: free with attribution, contents unchanged (https://hpo.jax.org/license)"
_CC_BY_4 = "CC BY 4.0"
_US_GOVERNMENT = "work of the US government, free with attribution"
_OPEN = {
    "HPO": _HPO,
    "HPO-translations": _HPO,
    "HP": _HPO,
    "MONDO": f"{_CC_BY_4} (https://mondo.monarchinitiative.org)",
    "DOID": "CC0 1.0 (https://disease-ontology.org)",
    "GO": f"{_CC_BY_4} (https://geneontology.org)",
    "CHEBI": f"{_CC_BY_4} (https://www.ebi.ac.uk/chebi)",
    "UBERON": "CC BY 3.0 (https://uberon.github.io)",
    "ORDO": f"{_CC_BY_4} (https://www.orphadata.com)",
    "NCIT": f"{_CC_BY_4} (https://evs.nci.nih.gov)",
    "NCI": f"{_CC_BY_4} (https://evs.nci.nih.gov)",
    "NCBI": _US_GOVERNMENT,
    "MSH": _US_GOVERNMENT,
    "RXNORM": _US_GOVERNMENT,
    "ICD10CM": _US_GOVERNMENT,
    "ICD10PCS": _US_GOVERNMENT,
    "ICD9CM": _US_GOVERNMENT,
    "Wikidata": "CC0 1.0 (https://www.wikidata.org)",
    "XSAP": "MIT, the sample terminology of xsap",
}
_BY_NAME = {normalize(source, EXACT_MATCH): terms for source, terms in _OPEN.items()}


def license_of(source: str) -> str | None:
    """The license with which anybody may share a source's names; None if none is known."""
    return _BY_NAME.get(normalize(source, EXACT_MATCH))


def restricted(sources: Iterable[str]) -> list[str]:
    """Those sources whose names may be shared by nobody, or by license holders only, as far as is known; in their order, once each."""
    return [source for source in dict.fromkeys(sources) if license_of(source) is None]


def count_sources(sources: pa.ChunkedArray | pa.Array) -> dict[str, int]:
    """How many names each source has, most first.

    Args:
        sources: The source of each name, or lists of them.
    """
    if pa.types.is_list(sources.type):
        sources = pc.list_flatten(sources)
    counts = {row["values"]: row["counts"] for row in pc.value_counts(sources).to_pylist()}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def describe_sources(counts: Mapping[str, int]) -> str:
    """Sources with the numbers of their names, for a message."""
    return ", ".join(f"{source} ({count:,} names)" for source, count in counts.items())
