"""Code systems: what a vocabulary is called as a CURIE prefix, an IRI and a FHIR system; one table for SSSOM and FHIR.

The IRIs are those of Bioregistry (https://bioregistry.io), the FHIR systems those of HL7 (https://terminology.hl7.org/external_terminologies.html),
and OMOP's is the one that OHDSI's terminology server has. The writers ask for the URI of a vocabulary that is not in the table; they never guess one.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import unquote

from xsap.errors import ConfigError, did_you_mean
from xsap.exchange.mapping import MappedConcept

_OBO = "http://purl.obolibrary.org/obo/"
_CUI = re.compile(r"C\d{7}")  # a concept of the UMLS
_UNSAFE = re.compile(
    r"[^\w\-.~!$&'()*+,;=:@/]"
)  # in the local part of a CURIE; \w has letters of every script, as IRIs do
_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class CodeSystem(NamedTuple):
    """A vocabulary. prefix: of CURIEs. iri: what a code is appended to. uri: its FHIR system. whole: codes begin with the prefix, as HP:0000118."""

    prefix: str
    iri: str
    uri: str
    whole: bool = False


_TABLE: tuple[tuple[CodeSystem, str], ...] = (  # and the names that OMOP and the UMLS have for it
    (CodeSystem("SNOMEDCT", "http://snomed.info/id/", "http://snomed.info/sct"), "SNOMED SNOMEDCT_US SCTSPA"),
    (CodeSystem("LOINC", "https://loinc.org/", "http://loinc.org"), "LNC"),
    (CodeSystem("UMLS", "https://uts.nlm.nih.gov/uts/umls/concept/", "http://www.nlm.nih.gov/research/umls"), ""),
    (CodeSystem("OMOP", "https://athena.ohdsi.org/search-terms/terms/", "https://fhir-terminology.ohdsi.org"), "OHDSI"),
    (
        CodeSystem(
            "RXNORM", "http://purl.bioontology.org/ontology/RXNORM/", "http://www.nlm.nih.gov/research/umls/rxnorm"
        ),
        "RxNorm",
    ),
    (CodeSystem("ATC", "http://purl.bioontology.org/ontology/ATC/", "http://www.whocc.no/atc"), ""),
    (CodeSystem("ICD10", "https://icd.who.int/browse10/2019/en#/", "http://hl7.org/fhir/sid/icd-10"), "ICD-10"),
    (CodeSystem("ICD10CM", "http://purl.bioontology.org/ontology/ICD10CM/", "http://hl7.org/fhir/sid/icd-10-cm"), ""),
    (CodeSystem("ICD9CM", "http://purl.bioontology.org/ontology/ICD9CM/", "http://hl7.org/fhir/sid/icd-9-cm"), ""),
    (
        CodeSystem(
            "ICD10PCS",
            "http://purl.bioontology.org/ontology/ICD10PCS/",
            "http://www.cms.gov/Medicare/Coding/ICD10",
        ),
        "",
    ),
    (CodeSystem("mesh", "http://id.nlm.nih.gov/mesh/", "urn:oid:2.16.840.1.113883.6.177"), "MSH MeSH MESH"),
    (
        CodeSystem("MEDDRA", "http://purl.bioontology.org/ontology/MEDDRA/", "urn:oid:2.16.840.1.113883.6.163"),
        "MDR MedDRA",
    ),
    (
        CodeSystem("NCIT", f"{_OBO}NCIT_", "http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl"),
        "NCI NCIt",
    ),
    (CodeSystem("OMIM", "https://omim.org/entry/", "http://www.omim.org"), "MIM"),
    (CodeSystem("ORPHA", "http://www.orpha.net/ORDO/Orphanet_", "http://www.orpha.net"), "ORPHANET Orphanet"),
    (CodeSystem("wikidata", "http://www.wikidata.org/entity/", "http://www.wikidata.org"), "Wikidata WIKIDATA"),
    (CodeSystem("UCUM", "http://unitsofmeasure.org/#", "http://unitsofmeasure.org"), ""),
    (CodeSystem("CVX", "http://purl.bioontology.org/ontology/CVX/", "http://hl7.org/fhir/sid/cvx"), ""),
    (CodeSystem("HP", f"{_OBO}HP_", "http://human-phenotype-ontology.org", whole=True), "HPO"),
    (CodeSystem("MONDO", f"{_OBO}MONDO_", f"{_OBO}mondo.owl", whole=True), ""),
    (CodeSystem("MP", f"{_OBO}MP_", f"{_OBO}mp.owl", whole=True), ""),
    (CodeSystem("DOID", f"{_OBO}DOID_", f"{_OBO}doid.owl", whole=True), ""),
    (CodeSystem("UBERON", f"{_OBO}UBERON_", f"{_OBO}uberon.owl", whole=True), ""),
    (CodeSystem("CHEBI", f"{_OBO}CHEBI_", f"{_OBO}chebi.owl", whole=True), ""),
    (CodeSystem("GO", f"{_OBO}GO_", f"{_OBO}go.owl", whole=True), ""),
    (CodeSystem("CL", f"{_OBO}CL_", f"{_OBO}cl.owl", whole=True), ""),
)
CODE_SYSTEMS: Mapping[str, CodeSystem] = {
    name: system for system, names in _TABLE for name in (system.prefix, *names.split())
}
LOCAL = CodeSystem("LOCAL", "https://example.org/local/", "https://example.org/local")  # of the source's own codes


class Coded(NamedTuple):
    """A concept as a code of a code system. code: as FHIR has it, with the prefix where codes of the system begin with it."""

    system: CodeSystem
    code: str

    @property
    def curie(self) -> str:
        """Such as SNOMEDCT:22298006 or HP:0000118."""
        return f"{self.system.prefix}:{escape_code(self.code.removeprefix(f'{self.system.prefix}:'))}"


class Vocabularies:
    """Finds the code system of a concept, and remembers what it did not find."""

    def __init__(self, given: Mapping[str, str] | None = None, *, concept_vocabulary: str = "") -> None:
        """Take what the user states beside the table.

        Args:
            given: Vocabulary → its IRI or its FHIR system.
            concept_vocabulary: The vocabulary of concept ids whose concept states none, such as OMOP.
        """
        own = {}
        for name, uri in (given or {}).items():
            known = CODE_SYSTEMS.get(name)
            prefix = known.prefix if known else re.sub(r"[^A-Za-z0-9_.-]", "_", name) or "_"
            prefix = prefix if _PREFIX.fullmatch(prefix) else f"_{prefix}"
            own[name] = CodeSystem(prefix, uri, uri, known.whole if known else False)
        self._known = {**CODE_SYSTEMS, **own}
        self._default = concept_vocabulary
        self.unknown: dict[str, str] = {}  # vocabulary → a concept of it

    def find(self, concept: MappedConcept, *, required: bool = True) -> Coded | None:
        """A concept's code: its own where its vocabulary is known, else its id where that tells its vocabulary; None if neither does.

        Args:
            concept: The concept.
            required: Whether `check_all_known` shall raise if there is none.
        """
        own, identifier = self._known.get(concept.vocabulary), concept.concept_id
        prefix, _, local = identifier.partition(":")
        if own and concept.code:
            system, code = own, concept.code
        elif local and prefix in self._known:
            system, code = self._known[prefix], identifier
        else:
            known = self._known.get("UMLS" if _CUI.fullmatch(identifier) else self._default) or own
            if known is None or not identifier:
                if required:
                    self.unknown.setdefault(concept.vocabulary or self._default, identifier or concept.name)
                return None
            system, code = known, identifier
        local = code.removeprefix(f"{system.prefix}:")
        return Coded(system, f"{system.prefix}:{local}" if system.whole else local)

    def prefixes(self) -> dict[str, str]:
        """Prefix → IRI of all vocabularies."""
        return {system.prefix: system.iri for system in self._known.values()}

    def check_all_known(self, option: str) -> None:
        """Raise ConfigError if a concept's vocabulary was not found.

        Args:
            option: The option that states a vocabulary's URI.
        """
        if not self.unknown:
            return
        if "" in self.unknown:
            raise ConfigError(
                f"concept '{self.unknown['']}' has no vocabulary, so no URI is known for it; "
                "name the vocabulary of the concepts: --vocabulary OMOP"
            )
        name = min(self.unknown)
        also = f" (and {len(self.unknown) - 1:,} more)" if len(self.unknown) > 1 else ""
        hint = did_you_mean(name, CODE_SYSTEMS)
        raise ConfigError(
            f"no URI is known for the vocabulary '{name}' of concept '{self.unknown[name]}'{also}; "
            f"state it: {option} {name}=URI{hint}"
        )


def read_concept(system: CodeSystem | None, code: str, name: str) -> MappedConcept:
    """A concept as a code states it. system: None for one that is not in the table; then `code` has its prefix, if any."""
    if system is None:
        return MappedConcept(code, name)
    local = code.removeprefix(f"{system.prefix}:")
    whole = f"{system.prefix}:{local}" if system.whole else local
    return MappedConcept(whole, name, system.prefix, whole)


def system_of_uri(uri: str) -> CodeSystem | None:
    """The code system that a FHIR system names; None if it is not in the table."""
    return next((system for system, _ in _TABLE if system.uri == uri), None)


def escape_code(code: str) -> str:
    """A code as the local part of a CURIE: what an IRI may not have is percent-encoded."""
    return _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), code)


def unescape_code(local: str) -> str:
    """The code that `escape_code` wrote; another text as it is."""
    code = unquote(local)
    return code if escape_code(code) == local else local


def parse_uris(stated: Iterable[str], option: str) -> dict[str, str]:
    """Vocabulary → URI, from words such as `HPO=http://human-phenotype-ontology.org`.

    Args:
        stated: The words.
        option: The option that they come from, for an error.

    Raises:
        ConfigError: A word has no name or no absolute URI.
    """
    found = {}
    for word in stated:
        name, equals, uri = word.partition("=")
        if not (name and equals and re.match(r"[A-Za-z][A-Za-z0-9+.-]*:\S+$", uri)):
            raise ConfigError(
                f"{option} takes NAME=URI, such as HPO=http://human-phenotype-ontology.org; found '{word}'"
            )
        found[name] = uri
    return found
