"""The report of a training run: its log and settings as one HTML page with results, curves and every evaluation.

It is made from the files of the run folder alone, so it can be written where the training ran, while it runs or after it. A log is read as it
comes: a line that was cut short is skipped, and of a step that was logged twice, as after resuming, the later entry counts. Loss and rates are
smoothed over neighboring steps, and the page stays small for a run of any length. Without matplotlib the page has its tables only.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xsap import plots
from xsap.config import Settings
from xsap.encoding.model_card import CardScore
from xsap.errors import ArtifactError, DataError
from xsap.languages import to_name
from xsap.page import Block, Heading, Paragraph, Table, charts, write_page
from xsap.plots import POINTS_PER_LINE, Line, line_chart

MEAN = "mean"
EVALUATIONS_SHOWN = 100  # and the best
_PATHS = {"base", "terminology", "auxiliary", "pairs", "evaluation.mentions", "evaluation.dictionary"}  # settings
_FIELDS = ("loss", "lr", "seconds", "names", "tokens")


class PlottedScore(NamedTuple):
    """Acc@1 in [0, 1] with its interval, nan where there is none, and the number of mentions."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0


@dataclass(frozen=True, slots=True)
class Log:
    """The content of metrics.jsonl.

    steps: (n,) ascending; columns: field → (n,), nan where a line has none; evaluations: step → language or MEAN → Score.
    """

    steps: NDArray[np.float64]
    columns: Mapping[str, NDArray[np.float64]]
    evaluations: Mapping[int, Mapping[str, PlottedScore]]

    @property
    def best(self) -> int:
        """The step of the highest mean Acc@1, the earliest of equals. There must be an evaluation."""
        return max(self.evaluations, key=lambda step: np.nan_to_num(self.evaluations[step][MEAN].value, nan=-1.0))

    @property
    def last(self) -> float:
        """The last step with any entry: where all charts end."""
        return float(max([*self.steps[-1:], *self.evaluations], default=0))

    @property
    def shown(self) -> list[int]:
        """The steps of the evaluations on the page: all, or EVALUATIONS_SHOWN evenly spaced from first to last, and the best."""
        steps = list(self.evaluations)
        chosen = np.linspace(0, len(steps) - 1, min(len(steps), EVALUATIONS_SHOWN), dtype=int)
        return sorted({*(steps[i] for i in chosen), self.best}) if steps else []

    @property
    def languages(self) -> list[str]:
        """The languages evaluated, by name."""
        return sorted({code for scores in self.evaluations.values() for code in scores} - {MEAN}, key=_name)

    def half_window(self, *, at_least: int) -> int:
        """How many steps before and after one are smoothed together with it: one in a hundred of the run."""
        return max(at_least, len(self.steps) // 100)


def write_report(run: Path) -> Path:
    """Write `run`/report.html from the run's settings and its log so far, and return its path. Raises ArtifactError if there is no run."""
    settings = _read_settings(run)
    log = read_log(run / "metrics.jsonl")
    title = f"Training run {run.resolve().name}"
    blocks: list[Block] = [Heading(1, title), *_summary(run, settings, log)]
    if not plots.is_available():
        blocks.append(Paragraph("There are no charts because matplotlib is not installed: pip install 'xsap[plot]'"))
    blocks += [*_accuracy(log), *_loss(log), *_rates(log), *_evaluations(log), *_settings(settings)]
    write_page(blocks, run / "report.html", title)
    return run / "report.html"


def read_log(file: Path) -> Log:
    """Read metrics.jsonl; an empty log if there is none. A damaged line is skipped; the later of two entries of a step counts."""
    rows: dict[int, list[float]] = {}
    evaluations: dict[int, dict[str, PlottedScore]] = {}
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    for line in text.split("\n"):
        try:
            entry = json.loads(line)
            if "evaluation" in entry:
                scores = entry["evaluation"]["languages"] | {MEAN: entry["evaluation"]["mean"]}
                evaluations[int(entry["step"])] = {code: _score(row) for code, row in scores.items()}
            else:
                values = [entry["loss"], *(entry.get(field) for field in _FIELDS[1:])]
                rows[int(entry["step"])] = list(map(_number, values))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    steps = sorted(rows)
    table = np.array([rows[step] for step in steps], np.float64).reshape(-1, len(_FIELDS))
    return Log(np.array(steps, np.float64), dict(zip(_FIELDS, table.T, strict=True)), dict(sorted(evaluations.items())))


def card_scores(log: Log) -> list[CardScore]:
    """The last evaluation as rows of a model card: the mean first, then the languages; none without an evaluation."""
    if not log.evaluations:
        return []
    scores = log.evaluations[max(log.evaluations)]
    named = [("mean of the languages", MEAN), *((_name(code), code) for code in log.languages if code in scores)]
    return [CardScore(name, scores[code].n, *scores[code][:3]) for name, code in named]


def loss_lines(log: Log) -> list[Line]:
    """The loss of each step, and its mean over neighboring steps."""
    chosen, smooth = smoothed(log.columns["loss"], np.ones(len(log.steps)), log.half_window(at_least=2))
    last = format_number(float(smooth[-1])) if len(smooth) else ""
    return [
        Line("each step", log.steps, log.columns["loss"], style="faint"),
        Line(f"mean {last}", log.steps[chosen], smooth, style="strong"),
    ]


def accuracy_lines(log: Log) -> list[Line]:
    """Acc@1 in percent of each language, named with its last value, and of the mean with its interval."""
    lines = []
    for code in [*log.languages, MEAN]:
        rows = [log.evaluations[step].get(code, PlottedScore())[:3] for step in log.shown]
        value, low, high = 100 * np.array(rows, np.float64).reshape(-1, 3).T
        known = value[np.isfinite(value)]
        name = f"{_name(code)} {known[-1]:.1f}" if len(known) else _name(code)
        line = Line(name, np.array(log.shown, np.float64), value)
        lines.append(replace(line, low=low, high=high, style="strong") if code == MEAN else line)
    return lines


def rate_lines(log: Log) -> dict[str, Line]:
    """Title → the learning rate of each step, and names and tokens per second (steps per second in a log without them), smoothed.

    The trainer logs seconds as means of up to 20 steps, so at least as many are smoothed together.
    """
    lines = {"Learning rate": Line("", log.steps, log.columns["lr"])}
    amounts = {field: log.columns[field] for field in ("names", "tokens") if np.isfinite(log.columns[field]).any()}
    for field, amount in (amounts or {"steps": np.ones(len(log.steps))}).items():
        chosen, rate = smoothed(amount, log.columns["seconds"], log.half_window(at_least=10))
        lines[f"{field.title()} per second"] = Line("", log.steps[chosen], rate)
    return lines


def smoothed(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], half: int, *, points: int = POINTS_PER_LINE // 2
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ratios of sums over a sliding window.

    A mean is a ratio over ones; a rate is all names by all seconds of the window, which is not the mean of rates. Only positions where both
    arrays are finite count.

    Args:
        numerator: (n,) values.
        denominator: (n,) values.
        half: Positions before and after one that belong to its window.
        points: Number of positions to evaluate, at most, evenly spaced.

    Returns:
        Positions (m,), and the ratio at each (m,), nan where the window has no values.
    """
    chosen = np.unique(np.linspace(0, len(numerator) - 1, points, dtype=np.int64)) if len(numerator) else np.arange(0)
    both = np.isfinite(numerator) & np.isfinite(denominator)
    windows = [slice(max(0, i - half), i + half + 1) for i in chosen]
    sums = [[float(values[window][both[window]].sum()) for values in (numerator, denominator)] for window in windows]
    return chosen, np.array([above / below if below > 0 else math.nan for above, below in sums])


def format_number(value: float, digits: int = 4) -> str:
    """A number for people: 12,345 or 0.1235 or 2e-5; a dash for nan and infinity.

    >>> format_number(12345.6), format_number(0.123456), format_number(2e-5), format_number(float("nan"))
    ('12,346', '0.1235', '2e-5', '–')
    """
    if not math.isfinite(value):
        return "–"
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    mantissa, e, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def _score(row: Mapping[str, Any]) -> PlottedScore:
    low, high = row.get("acc@1_interval") or (None, None)
    return PlottedScore(_number(row.get("acc@1")), _number(low), _number(high), int(row.get("n") or 0))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _read_settings(run: Path) -> dict[str, Any]:
    try:
        settings: object = json.loads((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = None
    if not isinstance(settings, dict) or "sampling" not in settings:
        found = "found no config.json with its settings; is the path right?"
        raise ArtifactError(f"{run}: expected the folder of a training run, {found}")
    return settings


def _summary(run: Path, settings: Mapping[str, Any], log: Log) -> list[Block]:
    """The results as a table, and warnings."""
    steps, loss, warnings = log.steps, log.columns["loss"], []
    done, planned, epochs = int(steps[-1]) if len(steps) else 0, settings.get("max_steps"), settings.get("epochs")
    plan = f"of {planned:,} planned" if isinstance(planned, int) else f"planned: {epochs} epoch{'s'[: epochs != 1]}"
    minutes = format_number(float(np.nansum(log.columns["seconds"])) / 60, 3)
    rows = [["result", "value", "note"], ["steps", f"{done:,}", plan]]
    rows.append(["minutes", minutes, "in steps; evaluations are not counted"])
    final = [format_number(float(loss[-1])), f"of step {done:,}"] if done else ["–", "no step was made"]
    rows.append(["last loss", *final])
    if log.evaluations:
        last, best = max(log.evaluations), log.best
        mean, languages = log.evaluations[last][MEAN], len(log.evaluations[last]) - 1
        count = f"{languages} language{'s'[: languages != 1]}, n = {mean.n:,}"
        rows.append(["mean Acc@1, %", _percent(mean), f"{count}, at step {last:,}"])
        kept = "" if (run / "checkpoints" / f"step-{best}").is_dir() else "not "
        note = f"at step {best:,}; {'the last' if best == done else f'its checkpoint is {kept}kept'}"
        rows.append(["best mean Acc@1, %", _percent(log.evaluations[best][MEAN]), note])
        if len({tuple((code, score.n) for code, score in scores.items()) for scores in log.evaluations.values()}) > 1:
            warnings.append("Not all evaluations are of the same mentions; their means can't be compared.")
    if len(bad := steps[~np.isfinite(loss)]):
        count = f"{len(bad):,} of {len(loss):,} steps"
        warnings.append(f"The loss of {count} is not a finite number, first at step {int(bad[0]):,}.")
    return [Table(rows, words=True), *(Paragraph(warning, warning=True) for warning in warnings)]


def _settings(settings: Mapping[str, Any]) -> list[Block]:
    """The settings that differ from the defaults, except the output folder; of files and folders the name alone, as a report may be shared."""
    defaults = _flat(Settings(output=Path()).model_dump(mode="json"))
    rows = [
        [key, _without_folders(value) if key in _PATHS else _plain(value), _plain(defaults.get(key))]
        for key, value in _flat(settings).items()
        if key != "output" and (key not in defaults or value != defaults[key])
    ]
    heading = Heading(2, "Settings that differ from the defaults")
    return [heading, Table([["setting", "value", "default"], *rows], words=True) if rows else Paragraph("None.")]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _without_folders(value: object) -> str:
    """A path's last part; an id of the hub, `owner/name`, as it is."""
    text = _plain(value)
    is_id = text.count("/") == 1 and not text.startswith(("/", ".", "~")) and not Path(text).exists()
    return text if is_id else PurePath(text).name


def _plain(value: object) -> str:
    return value if isinstance(value, str) else "not set" if value is None else json.dumps(value)


def _loss(log: Log) -> list[Block]:
    if not len(log.steps):
        return [Heading(2, "Loss"), Paragraph("No step was logged.")]
    faint = "each step" if len(log.steps) <= POINTS_PER_LINE else "the lowest and the highest of neighboring steps"
    window = 2 * log.half_window(at_least=2) + 1
    plot = line_chart(loss_lines(log), x_limits=(0, log.last), y_limits=(None, None))
    note = Paragraph(f"Thin line: {faint}. Thick line: the mean of the {window:,} steps around it.")
    return [Heading(2, "Loss"), note, *charts(plot, "Loss over steps")]


def _accuracy(log: Log) -> list[Block]:
    if not log.evaluations:
        text = "No evaluation was logged. The setting evaluation.mentions says on which mentions to evaluate."
        return [Heading(2, "Acc@1"), Paragraph(text)]
    lines = accuracy_lines(log)
    plot = line_chart(lines, x_limits=(0, log.last), y_label="Acc@1, %", height=max(3.2, 0.5 + 0.18 * len(lines)))
    note = "Mentions whose correct concept came first, in percent. The mean gives each language equal weight; its band is the 95 % interval."
    return [Heading(2, "Acc@1 by language"), Paragraph(note), *charts(plot, "Acc@1 over steps")]


def _rates(log: Log) -> list[Block]:
    """Learning rate and throughput side by side, each with its own unit."""
    if not len(log.steps):
        return []
    lines = rate_lines(log)
    size: dict[str, Any] = {"x_limits": (0, log.last), "width": 9.0 / len(lines), "height": 2.4}
    drawn = [line_chart([line], title=title, **size) for title, line in lines.items()]
    window = 2 * log.half_window(at_least=10) + 1
    note = Paragraph(f"Rates are those of the {window:,} steps around each; the learning rate is that of each step.")
    return [Heading(2, "Learning rate and throughput"), note, *charts(drawn, ", ".join(lines), columns=len(drawn))]


def _evaluations(log: Log) -> list[Block]:
    """A table of the evaluations: a row per step, a column per language."""
    if not log.evaluations:
        return []
    shown, codes = log.shown, [MEAN, *log.languages]
    head = [f"{_name(code)}, n = {log.evaluations[shown[-1]].get(code, PlottedScore()).n:,}" for code in codes]
    rows = [
        [
            f"{step:,}",
            *(_percent(log.evaluations[step].get(code, PlottedScore()), interval=code == MEAN) for code in codes),
        ]
        for step in shown
    ]
    fewer = len(shown) < len(log.evaluations)
    more = f" These are {len(shown):,} of {len(log.evaluations):,}; metrics.jsonl has all." if fewer else ""
    note = Paragraph(f"Acc@1 in percent, with the 95 % interval of the mean; the best mean is marked.{more}")
    return [Heading(2, "Evaluations"), note, Table([["step", *head], *rows], best=shown.index(log.best))]


def _percent(score: PlottedScore, *, interval: bool = True) -> str:
    if not math.isfinite(score.value):
        return "–"
    known = interval and math.isfinite(score.low) and math.isfinite(score.high)
    return f"{100 * score.value:.1f}" + (f" [{100 * score.low:.1f}, {100 * score.high:.1f}]" if known else "")


def _name(code: str) -> str:
    try:
        return "mean" if code == MEAN else to_name(code)
    except DataError:
        return code
