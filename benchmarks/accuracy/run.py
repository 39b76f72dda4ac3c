"""`python -m benchmarks linking` and `report`: systems × tasks → a results folder with its pages, and the comparison of two such folders."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.accuracy.tasks import CORPORA, TRAINING, Task, brings_dictionary, data_keys, open_task
from xsap.artifacts import manifest_hash, read_manifest
from xsap.errors import ConfigError
from xsap.languages import parse_languages

if TYPE_CHECKING:
    from benchmarks.accuracy.baselines import Linking


Tasks = Annotated[
    list[str],
    typer.Option(
        "--task",
        help=f"What to link; again for more: hpo, {', '.join(CORPORA)}, bigbio:DATABASE:LANGUAGE, each also as …-in-hpo.",
    ),
]
Systems = Annotated[
    list[str],
    typer.Option(
        "--system",
        help="What links; again for more. exact, tfidf, exact+tfidf, recipe:xsap, recipe:reference, index:FOLDER, a published model's "
        "name (sapbert-xlmr …), a model's folder or hub id (…@cls says how it pools); NAME=… names it.",
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="Where a corpus's files are: hpo=FOLDER, xlbel=FOLDER, mantra=ZIP …; training=TERMINOLOGY: whose names count as seen.",
    ),
]


def linking(
    task: Tasks,
    system: Systems,
    out: Annotated[Path, typer.Option(help="The results folder; what is there already is not run again.")],
    data: Data = None,
    dictionary: Annotated[
        str | None, typer.Option(help="What to link into: a terminology, a file id||name, or xlbel.")
    ] = None,
    languages: Annotated[
        str, typer.Option(help="Whose names of a terminology are the dictionary: 'all', or codes.")
    ] = "en",
    minutes: Annotated[float, typer.Option(min=0, help="Of training for each recipe.")] = 15,
    dtype: Annotated[str, typer.Option(help="Of models' products: float32, bfloat16 or float16.")] = "float32",
    effects: Annotated[bool, typer.Option(help="What case and cosine do to each model, too.")] = True,
    examples: Annotated[
        int, typer.Option(min=0, help="Of each kind of error; 0 leaves all words of the corpora out.")
    ] = 3,
    work: Annotated[
        Path | None, typer.Option(help="Where vectors and trained models are kept; by default a folder in --out.")
    ] = None,
) -> None:
    """Measure systems on tasks, with intervals, and write a report (HTML, Markdown, JSON)."""
    from benchmarks.accuracy.report import write_pages
    from benchmarks.accuracy.results import read_results, write_results

    if dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"--dtype must be float32, bfloat16 or float16, found '{dtype}'")
    chosen = parse_languages(languages)
    given, place = _data(data or []), work or out / "work"
    dictionary_languages = None if chosen is None else tuple(sorted(chosen))
    if dictionary and all(map(brings_dictionary, task)):
        raise ConfigError(f"--dictionary {dictionary}: {', '.join(task)} bring their own dictionary; leave it out")
    tasks = [
        open_task(name, given, place, dictionary=dictionary, languages=dictionary_languages)
        for name in dict.fromkeys(task)
    ]
    results = _run(tasks, system, out, place, given, minutes=minutes, dtype=dtype, effects=effects, examples=examples)
    write_results(results, out)
    write_pages(read_results(out), out)
    _say(f"{out}: report.html, report.md, results.json")


def _run(
    tasks: list[Task],
    given: list[str],
    out: Path,
    place: Path,
    data: dict[str, Path],
    *,
    minutes: float,
    dtype: Any,
    effects: bool,
    examples: int,
) -> dict[str, Any]:
    from benchmarks.accuracy.breakdowns import cached_ablation
    from benchmarks.accuracy.results import of_task, provenance
    from benchmarks.accuracy.scores import answer, kept_answers, key_of
    from benchmarks.accuracy.systems import WorkDir, open_systems

    trained_on = next((t.training for t in tasks if brings_dictionary(t.name)), data.get(TRAINING))
    watched = sys.stderr.isatty()
    systems = open_systems(given, WorkDir(place, trained_on, minutes, dtype, watched))
    results: dict[str, Any] = provenance(["python", "-m", "benchmarks", *sys.argv[1:]])
    results |= {"systems": {each.label: each.metadata for each in systems}, "tasks": {}, "scores": {}, "effects": {}}
    opened: dict[tuple[str, str], Linking] = {}
    for number, task in enumerate(tasks, start=1):
        answers = {}
        opened = {
            asked: linking for asked, linking in opened.items() if asked[1] == task.space.content_hash
        }  # the last dictionary's alone
        for each in systems:
            key = key_of(task, each.metadata)
            kept = kept_answers(out / "answers", key)
            _say(f"[{number}/{len(tasks)}] {task.name} × {each.label}{': kept from before' if kept else ''}")
            asked = (each.label, task.space.content_hash)
            if kept is None and asked not in opened:
                opened[asked] = each.link_into(task.space)
            answers[each.label] = kept or answer(task, opened[asked], out / "answers", key)
        trained = {"training": manifest_hash(read_manifest(task.training, "terminology"))} if task.training else {}
        results["tasks"][task.name] = task.metadata() | trained
        results["scores"][task.name] = of_task(task, answers, examples)
        if effects:
            results["effects"][task.name] = {
                each.label: cached_ablation(
                    task, each.model, out / "answers" / f"{key_of(task, each.metadata)}-effects"
                )
                for each in systems
                if each.model
            }
    return results


def report(
    results: Annotated[Path, typer.Argument(help="A results folder of `linking`.")],
    against: Annotated[Path | None, typer.Option(help="An older results folder to compare with.")] = None,
) -> None:
    """Make a results folder's pages again, or say what changed since an older one; exit code 3 if a system is surely worse."""
    from benchmarks.accuracy.compare import differences, to_text
    from benchmarks.accuracy.report import write_pages
    from benchmarks.accuracy.results import read_results

    new = read_results(results)
    if against is None:
        write_pages(new, results)
        _say(f"{results}: report.html, report.md")
        return
    rows = differences(read_results(against), new, against, results)
    print(to_text(rows, against, results))
    if any(row.verdict == "worse" for row in rows):
        raise typer.Exit(3)


def _data(given: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in given:
        key, equals, path = text.partition("=")
        if not (key and equals and path):
            raise ConfigError(f"expected --data CORPUS=PATH such as mantra=Mantra-GSC-brat.zip, found '{text}'")
        if key not in data_keys():
            raise ConfigError(f"--data {key}: no task reads that; they read {', '.join(data_keys())}")
        if key in found:
            raise ConfigError(f"--data {key}: expected once, found {found[key]} and {path}")
        if not Path(path).exists():
            raise ConfigError(f"--data {key}: expected files at {path}, found nothing there. Is the path right?")
        found[key] = Path(path)
    if TRAINING in found:
        read_manifest(found[TRAINING], "terminology")  # read in earnest only after hours
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
