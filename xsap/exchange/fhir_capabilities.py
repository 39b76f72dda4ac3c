"""The capability statements of a FHIR terminology service on an index, with the code systems of its concepts."""

from xsap import __version__
from xsap.exchange.fhir import FhirJson
from xsap.exchange.fhir_terminology import IndexTerminology, system_name

FHIR_VERSIONS = {"r4": "4.0.1", "r5": "5.0.0"}


def capability_statement(terminology: IndexTerminology) -> FhirJson:
    """What `metadata` answers."""
    operations = (("CodeSystem", "lookup"), ("ValueSet", "expand"), ("ConceptMap", "translate"))
    resources: list[FhirJson] = [
        {
            "type": kind,
            "operation": [{"name": name, "definition": f"http://hl7.org/fhir/OperationDefinition/{kind}-{name}"}],
        }
        for kind, name in operations
    ]
    resources[0] |= {
        "interaction": [{"code": "search-type"}],
        "searchParam": [{"name": "url", "type": "uri"}],
    }
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": terminology.now(),
        "kind": "instance",
        "software": {"name": "xsap", "version": __version__},
        "implementation": {
            "description": "Links terms in any language to the concepts of one index",
            "url": terminology.url,
        },
        "fhirVersion": FHIR_VERSIONS[terminology.release],
        "format": ["json"],
        "rest": [{"mode": "server", "resource": resources}],
    }


def terminology_capabilities(terminology: IndexTerminology) -> FhirJson:
    """What `metadata?mode=terminology` answers."""
    content = {} if terminology.release == "r4" else {"content": "complete"}
    names = ("filter", "count", "offset", "includeDesignations", "displayLanguage")
    return {
        "resourceType": "TerminologyCapabilities",
        "status": "active",
        "date": terminology.now(),
        "kind": "instance",
        "software": {"name": "xsap", "version": __version__},
        "implementation": {"description": "The concepts of one index", "url": terminology.url},
        "codeSystem": [
            {"uri": system, "version": [{"code": terminology.version, "isDefault": True}], **content}
            for system in terminology.systems
        ],
        "expansion": {"hierarchical": False, "paging": True, "parameter": [{"name": name} for name in names]},
        "translation": {"needsMap": False},
    }


def code_systems(terminology: IndexTerminology, url: str | None = None) -> FhirJson:
    """What a search of CodeSystems answers: a Bundle. url: of the one that is sought; None for all."""
    found = [system for system in terminology.systems if url is None or url.startswith(system)]
    resources = [
        {
            "resourceType": "CodeSystem",
            "id": f"system-{at}",
            "url": system,
            "version": terminology.version,
            "name": system_name(terminology, system),
            "title": system_name(terminology, system),
            "status": "active",
            "content": "not-present",
        }
        for at, system in enumerate(terminology.systems)
        if system in found
    ]
    entries = [{"fullUrl": f"{terminology.url}/CodeSystem/{each['id']}", "resource": each} for each in resources]
    return {
        "resourceType": "Bundle",
        "type": "searchset",
        "total": len(entries),
        **({"entry": entries} if entries else {}),
    }
