"""`python -m benchmarks linking` and `report`: systems × tasks → a results folder with its pages, and its comparison."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xsap.errors import ConfigError, did_you_mean
from xsap.terminal import EXIT_TARGET_MISSED, log, show_progress

if TYPE_CHECKING:
    from benchmarks.accuracy.baselines import DictionaryLinker
    from benchmarks.accuracy.results import RunResults
    from benchmarks.accuracy.scores import RankedAnswers
    from benchmarks.accuracy.systems import System, WorkDir
    from benchmarks.accuracy.tasks import Task
    from benchmarks.accuracy.training_mentions import TrainingMentions


TaskNames = Annotated[
    list[str],
    typer.Option(
        "--task",
        help="Mentions to link; repeatable: hpo, a corpus such as xlbel-v1 or mantra, bigbio:DATABASE:LANGUAGE, "
        "CORPUS-in-hpo, codiesp-in-icd10cm, or mentions:FILE, a table as xsap evaluate reads it. For an unknown name, the error lists all corpora.",
    ),
]
SystemNames = Annotated[
    list[str],
    typer.Option(
        "--system",
        help="System to measure; repeatable: exact, tfidf, exact+tfidf, recipe:xsap, recipe:reference, index:FOLDER, "
        "a published model such as sapbert-xlmr, a model folder or hub id (append @cls for its pooling). "
        "NAME=SYSTEM sets the name in the report.",
    ),
]
DataPaths = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="Files of a corpus, as hpo=FOLDER, xlbel=FOLDER or mantra=ZIP; icd10cm=FOLDER: the terminology of ICD-10-CM; "
        "training=FOLDER: the terminology trained on.",
    ),
]
PAGES = ("report.html", "report.md", "report.csv", "report.tex")
DTYPES = ("float32", "bfloat16", "float16")


def linking(
    task: TaskNames,
    system: SystemNames,
    out: Annotated[Path, typer.Option(help="Results folder. Answers already in it are not computed again.")],
    data: DataPaths = None,
    dictionary: Annotated[
        str | None, typer.Option(help="Dictionary: a terminology folder, a file of id||name lines, or xlbel.")
    ] = None,
    languages: Annotated[
        str, typer.Option(help="Languages of the dictionary's names, such as en,es; or 'all'.")
    ] = "en",
    minutes: Annotated[float, typer.Option(min=0, help="Training time of each recipe, in minutes.")] = 15,
    base: Annotated[
        str | None,
        typer.Option(
            help="Pretrained model that both recipes continue from, as after --system; by default random weights."
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help=f"Number format of models' matrix products: {', '.join(DTYPES)}.")
    ] = "float32",
    ablation: Annotated[
        bool, typer.Option(help="Also measure the effect of case and similarity on each model.")
    ] = True,
    reference: Annotated[
        bool,
        typer.Option(
            "--reference/--no-reference",
            help="Also rank under the reference protocol, for which each model encodes the dictionary a second time.",
        ),
    ] = True,
    training_mentions: Annotated[
        Path | None,
        typer.Option(
            help="Mentions, a file or a corpus as xsap index --mentions reads it: each system is measured without them and with their strings as names."
        ),
    ] = None,
    mention_weight: Annotated[
        list[float] | None,
        typer.Option(help="Weight of these names, 0 to 1; by default it is learned. Repeatable."),
    ] = None,
    examples: Annotated[
        int,
        typer.Option(min=0, help="Examples of each kind of error; with 0 the results have no text of the corpora."),
    ] = 3,
    work: Annotated[
        Path | None, typer.Option(help="Folder for vectors and trained models; by default a folder in --out.")
    ] = None,
) -> None:
    """Measure the accuracy of systems, and write a report.

    Accuracies have 95 % intervals. The report is HTML, Markdown, CSV, LaTeX and JSON.
    """
    from benchmarks.accuracy.report import write_pages
    from benchmarks.accuracy.results import read_results, write_results
    from benchmarks.accuracy.systems import WorkDir
    from benchmarks.accuracy.tasks import TRAINING, brings_dictionary, check_task_names, open_task
    from benchmarks.accuracy.training_mentions import with_ids_of
    from xsap.languages import parse_languages

    if dtype not in DTYPES:
        raise ConfigError(f"--dtype must be {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, found '{dtype}'")
    check_task_names(task)
    chosen = parse_languages(languages)
    paths, work_folder = _parse_data(data or []), work or out / "work"
    if dictionary and all(map(brings_dictionary, task)):
        raise ConfigError(f"--dictionary {dictionary}: {', '.join(task)} have their own dictionary; leave it out")
    names = None if chosen is None else tuple(sorted(chosen))
    tasks = [
        open_task(name, paths, work_folder, dictionary=dictionary, languages=names) for name in dict.fromkeys(task)
    ]
    training = next((each.training for each in tasks if brings_dictionary(each.name)), paths.get(TRAINING))
    trained = WorkDir(work_folder, training, minutes, dtype, show_progress(), base)  # type: ignore[arg-type]
    annotated = _training_mentions(training_mentions, mention_weight or [])
    if annotated:
        given = annotated[0].mentions
        tasks = [replace(each, training_mentions=with_ids_of(each.space, given)) for each in tasks]
        reference = False  # it ranks the rows of the dictionary as it is
    results = _run(tasks, system, out, trained, annotated, ablation=ablation, examples=examples, reference=reference)
    write_results(results, out)
    write_pages(read_results(out), out)
    log(f"{out}: {', '.join(PAGES)}, results.json")


def _run(
    tasks: list["Task"],
    given: list[str],
    out: Path,
    work: "WorkDir",
    annotated: list["TrainingMentions"],
    *,
    ablation: bool,
    examples: int,
    reference: bool,
) -> "RunResults":
    from benchmarks.accuracy.breakdowns import cached_ablation
    from benchmarks.accuracy.results import RunResults, results_of_task
    from benchmarks.accuracy.scores import key_of
    from benchmarks.accuracy.systems import open_systems
    from xsap.artifacts import manifest_hash, read_manifest

    systems = open_systems(given, work, annotated)
    results = RunResults.from_command(["python", "-m", "benchmarks", *sys.argv[1:]])
    results.systems.update({each.label: each.metadata for each in systems})
    linkers: dict[tuple[str, str], DictionaryLinker] = {}
    for number, task in enumerate(tasks, start=1):
        answers = _answers(task, systems, out / "answers", linkers, f"[{number}/{len(tasks)}]", reference=reference)
        trained = {"training": manifest_hash(read_manifest(task.training, "terminology"))} if task.training else {}
        results.tasks[task.name] = task.metadata() | trained
        results.scores[task.name] = results_of_task(task, answers, examples)
        for each in systems:
            for mentions in annotated if each.with_mentions else ():
                _log_strata(task, each.label, mentions.label(each.label), answers)
        if ablation:
            results.ablations[task.name] = {
                each.label: cached_ablation(
                    task, each.model, out / "answers" / f"{key_of(task, each.metadata)}-ablation"
                )
                for each in systems
                if each.model
            }
    return results


def _training_mentions(path: Path | None, weights: list[float]) -> list["TrainingMentions"]:
    from benchmarks.accuracy.training_mentions import TrainingMentions
    from xsap.linking.mention_build import check_mention_weight

    if path is None:
        if weights:
            raise ConfigError(f"--mention-weight {weights[0]:g}: found no --training-mentions; add it")
        return []
    for weight in weights:
        check_mention_weight(weight)
    return [TrainingMentions.read(path, weight) for weight in (weights or (None,))]


def _log_strata(task: "Task", first: str, second: str, answers: dict[str, "RankedAnswers"]) -> None:
    """Compare two systems on the mentions whose string, or whose concept, is among the training mentions, or neither."""
    from benchmarks.accuracy.scores import SEED
    from xsap.evaluation.strata import compare_by_stratum, strata_of, strata_table

    assert task.training_mentions is not None
    strata = strata_of(task.mentions, task.training_mentions)
    before, after = (answers[each].ranks("concept") for each in (first, second))
    compared = compare_by_stratum(before, after, strata, seed=SEED)
    table = strata_table(compared)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    log(f"{task.name}: {first} → {second}")
    for cells in table:
        log("  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def _answers(
    task: "Task",
    systems: list["System"],
    folder: Path,
    linkers: dict[tuple[str, str], "DictionaryLinker"],
    progress: str,
    *,
    reference: bool,
) -> dict[str, "RankedAnswers"]:
    """Answers of all systems, kept or new. linkers: (system, dictionary) → linker, of the last dictionary only."""
    from benchmarks.accuracy.scores import answer, kept_answers, key_of

    dictionary = task.space.content_hash
    for old in [pair for pair in linkers if pair[1] != dictionary]:
        del linkers[old]
    answers = {}
    for system in systems:
        key = key_of(task, system.metadata, reference=reference)
        kept = kept_answers(folder, key)
        log(f"{progress} {task.name} × {system.label}{': kept from an earlier run' if kept else ''}")
        if kept is None and (system.label, dictionary) not in linkers:
            linkers[system.label, dictionary] = system.link_into(task.space)
        answers[system.label] = kept or answer(
            task, linkers[system.label, dictionary], folder, key, reference=reference
        )
    return answers


def report(
    results: Annotated[Path, typer.Argument(help="Results folder, as linking writes it.")],
    against: Annotated[Path | None, typer.Option(help="Older results folder to compare with.")] = None,
) -> None:
    """Write a report again, or compare it with older results.

    The exit code is 3 if a system is significantly worse than in the older results.
    """
    from benchmarks.accuracy.compare import WORSE, changes_to_markdown, find_changes
    from benchmarks.accuracy.report import write_pages
    from benchmarks.accuracy.results import read_results

    new = read_results(results)
    if against is None:
        write_pages(new, results)
        log(f"{results}: {', '.join(PAGES)}")
        return
    changes = find_changes(read_results(against), new, against, results)
    print(changes_to_markdown(changes, against.absolute().name, results.absolute().name))
    if any(change.verdict == WORSE for change in changes):
        raise typer.Exit(EXIT_TARGET_MISSED)


def _parse_data(given: list[str]) -> dict[str, Path]:
    from benchmarks.accuracy.tasks import TRAINING, data_keys
    from xsap.artifacts import read_manifest

    paths: dict[str, Path] = {}
    for text in given:
        key, equals, path = text.partition("=")
        if not (key and equals and path):
            raise ConfigError(f"expected --data CORPUS=PATH such as mantra=Mantra-GSC-brat.zip, found '{text}'")
        if key not in data_keys():
            hint = did_you_mean(key, data_keys(), otherwise=f"they are {', '.join(data_keys())}")
            raise ConfigError(f"--data {key}: unknown key{hint}")
        if key in paths:
            raise ConfigError(f"--data {key}: expected once, found {paths[key]} and {path}")
        if not Path(path).exists():
            raise ConfigError(f"--data {key}: expected files at {path}, found nothing there. Is the path right?")
        paths[key] = Path(path)
    if TRAINING in paths:
        read_manifest(paths[TRAINING], "terminology")  # an error now, not after hours
    return paths
