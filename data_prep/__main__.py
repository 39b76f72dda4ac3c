"""The commands of `xsap-prepare` (also `python -m data_prep`): read sources into terminology folders, and work on terminologies.

A command prints on stdout what it read, what it kept and dropped and why, and what the result holds.
"""

from data_prep.source_commands import bitext, fetch, hpo, icd, omop, ontology, snomed, table, umls, wikidata
from data_prep.terminology_commands import (
    describe,
    diff,
    export,
    leakage,
    map_identifiers,
    merge,
    split,
    update_mentions,
)
from xsap.terminal import create_app, run

app = create_app("Build terminologies from UMLS, OMOP, SNOMED CT, HPO and others; merge, compare and split them.")
for command in (
    *(umls, omop, snomed, hpo, ontology, icd, table, wikidata, bitext),
    *(merge, map_identifiers, diff, split, leakage, update_mentions, describe, export, fetch),
):
    app.command("map" if command is map_identifiers else None)(command)


def main() -> None:
    """The entry point of `xsap-prepare`."""
    run(app, "xsap-prepare")


if __name__ == "__main__":
    main()
