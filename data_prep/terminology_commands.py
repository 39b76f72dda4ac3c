"""Commands of `xsap-prepare` that work on terminology folders: merge, compare, split, describe and export."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from data_prep.accounting import Summary, parse_values
from data_prep.assemble import Assembly
from data_prep.command import Languages, Mentions, Out, TerminologyFolder, report_lines, save_assembly
from data_prep.describe import check_plot, describe_terminology, description_lines, save_plot
from data_prep.diff import change_lines, diff_terminologies, write_changes
from data_prep.export import PAIRS_PER_CONCEPT, export_pairs
from data_prep.leakage import build_ledger, hold_out
from data_prep.merge import map_terminology, merge_terminologies
from data_prep.retired import update_gold
from data_prep.split import TERMINOLOGY, overlap_lines, split_terminology
from data_prep.store import StoredTerminology
from xsap.artifacts import check_can_write, sha256_of
from xsap.errors import DataError
from xsap.languages import parse_languages
from xsap.output_paths import check_new_file
from xsap.terminal import Overwrite, print_lines
from xsap.terms.mentions import read_mentions, write_mentions
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy


class Ambiguous(StrEnum):
    """What happens to a concept with several references into the vocabulary."""

    DROP = "drop"
    ALL = "all"


class Case(StrEnum):
    """Letter case of exported names."""

    LOWER = "lower"
    CASED = "cased"


def merge(
    terminologies: Annotated[list[Path], typer.Argument(help="Terminology folders; the first has precedence.")],
    out: Out,
    overwrite: Overwrite = False,
) -> None:
    """Merge terminologies.

    The result has one concept per identifier, with the names of all terminologies.
    """
    check_can_write(out, overwrite=overwrite, kind="terminology")
    with Assembly() as assembly:
        merged = merge_terminologies(terminologies, assembly)
        save_assembly(assembly, merged.counts, merged.metadata, out, overwrite, merged.lines())


def map_identifiers(
    terminology: TerminologyFolder,
    to: Annotated[str, typer.Option(help="Prefix of the cross-references, such as UMLS.")],
    out: Out,
    ambiguous: Annotated[
        Ambiguous, typer.Option(help="A concept with several references: drop it, or copy its names to all.")
    ] = Ambiguous.DROP,
    keep_prefix: Annotated[bool, typer.Option("--keep-prefix", help="Keep the prefix, as in HP:0001945.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Replace concept identifiers by cross-references."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    with Assembly() as assembly:
        mapped = map_terminology(
            terminology, to, assembly, keep_ambiguous=ambiguous is Ambiguous.ALL, keep_prefix=keep_prefix
        )
        save_assembly(assembly, mapped.counts, mapped.metadata, out, overwrite, mapped.lines())


def diff(
    old: Annotated[Path, typer.Argument(help="The older terminology folder.")],
    new: Annotated[Path, typer.Argument(help="The newer terminology folder.")],
    out: Annotated[Path | None, typer.Option(help="A .tsv file for the list of all changes.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare two versions of a terminology.

    Lists names and concepts that were added, removed or moved.
    """
    if out:
        check_new_file(out, overwrite=overwrite)
    with diff_terminologies(old, new) as connection:
        if out:
            write_changes(connection, out)
        print_lines([f"{old} → {new}", *change_lines(connection), *(["", f"{out}: all changes"] if out else [])])


def split(
    terminology: TerminologyFolder,
    out: Annotated[Path, typer.Option(help="The folder to write, with terminology/ and mentions.tsv in it.")],
    test_fraction: Annotated[float, typer.Option(help="Fraction of the concepts that are held out.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Random seed; another seed holds out other concepts.")] = 0,
    test_status: Annotated[str, typer.Option(help="Statuses of test mentions, such as OFFICIAL; or all.")] = "all",
    overwrite: Overwrite = False,
) -> None:
    """Hold out non-English names as test mentions.

    The names of a random sample of the concepts are held out.
    """
    check_can_write(out, overwrite=overwrite, kind="split")
    parts = split_terminology(
        Terminology.load(terminology), fraction=test_fraction, seed=seed, statuses=parse_values(test_status)
    )
    parts.save(out, overwrite=overwrite)
    held_out = f"{parts.names_held_out:,} non-English names of {parts.concepts_held_out:,} concepts are held out"
    print_lines([f"{out}: {held_out}, {parts.mentions.num_rows:,} mentions", *overlap_lines(parts), ""])
    print_lines([f"{out / TERMINOLOGY}: for training", *Summary.from_terminology(parts.training).lines()])


def leakage(
    terminology: TerminologyFolder,
    mentions: Mentions,
    out: Annotated[Path | None, typer.Option(help="A .tsv file for the result of each mention.")] = None,
    hold_out_to: Annotated[
        Path | None,
        typer.Option(
            "--hold-out",
            metavar="FOLDER",
            help="Folder for a copy of the terminology without the names that match a mention of their concept.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Find test mentions that a terminology contains already.

    A mention matches a name, in any language, that equals it except for case,
    or that differs by one inserted, deleted or substituted character.
    """
    if out:
        check_new_file(out, overwrite=overwrite)
    if hold_out_to:
        check_can_write(hold_out_to, overwrite=overwrite, kind="terminology")
    stored = StoredTerminology.open(terminology)
    ledger = build_ledger(stored, read_mentions(mentions))
    if out:
        ledger.write(out)
    print_lines([f"{mentions} in {terminology}", *ledger.lines(), *(["", f"{out}: all mentions"] if out else [])])
    if hold_out_to:
        with Assembly() as assembly:
            counts, metadata = hold_out(stored, ledger, assembly, {mentions.name: sha256_of(mentions)})
            summary, counts = assembly.save(hold_out_to, counts, metadata, overwrite=overwrite)
        nameless = stored.count("concepts") - summary.concepts
        advice = f"{nameless:,} concepts have no name left: train on it, but link into {terminology}"
        print_lines(["", *report_lines(summary, counts, hold_out_to, [advice] if nameless else [])])


def update_mentions(
    mentions: Mentions,
    terminology: Annotated[Path, typer.Option(help="A terminology folder with the retired identifiers.")],
    out: Annotated[Path, typer.Option(help="The file to write: .tsv or .parquet.")],
    overwrite: Overwrite = False,
) -> None:
    """Replace retired concept identifiers of mentions.

    An identifier is replaced where it has exact successors.
    """
    check_new_file(out, overwrite=overwrite)
    stored = StoredTerminology.open(terminology)
    living = stored.read("concepts", ["concept_id"])["concept_id"]
    gold = read_mentions(mentions)
    if not any(map(len, gold["concept_ids"])):
        raise DataError(f"{mentions}: expected gold concepts in the column 'concept_ids', found none")
    update = update_gold(gold, stored.read("retired"), living)
    write_mentions(update.mentions, out)
    print_lines([f"{out}: {update.mentions.num_rows:,} mentions", *update.lines()])


def describe(
    terminology: TerminologyFolder,
    tokenizer: Annotated[str | None, typer.Option(help="A tokenizer folder or model name, for token lengths.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="A .png or .svg file for charts.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count the names of a terminology.

    The counts are by language, source, kind, semantic type and length.
    """
    if plot:
        check_plot(plot)
    description = describe_terminology(StoredTerminology.open(terminology), tokenizer)
    if plot:
        save_plot(description, plot)
    if as_json:
        print_lines([json.dumps(description.to_dict(), indent=1, ensure_ascii=False)])
    else:
        print_lines(description_lines(description))


def export(
    terminology: TerminologyFolder,
    out: Annotated[Path, typer.Option(help="The text file to write; OUT.json describes how it was made.")],
    languages: Languages = "all",
    pairs_per_concept: Annotated[
        int, typer.Option(min=1, help="Maximum pairs per concept; of more, a random sample.")
    ] = PAIRS_PER_CONCEPT,
    case: Annotated[Case, typer.Option(help="Letter case of names; SapBERT's own code lowercases.")] = Case.LOWER,
    seed: Annotated[int, typer.Option(help="Random seed of the sample of pairs.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write training pairs for the original SapBERT code.

    They are lines `id||name||name`. Equal input gives equal bytes on any machine.
    """
    check_new_file(out, overwrite=overwrite)
    counts = export_pairs(
        terminology,
        out,
        policy=TextPolicy(case=case.value),
        languages=parse_languages(languages),
        pairs_per_concept=pairs_per_concept,
        seed=seed,
    )
    print_lines(
        [
            f"{out}: {counts.pairs:,} pairs of {counts.concepts:,} concepts; {counts.sampled:,} of them sampled",
            f"policy: {case.value}, unordered pairs of each concept's different names, at most {pairs_per_concept:,} per concept, seed {seed}",
            *counts.row_counts().lines(),
        ]
    )
