"""A run's log → one HTML page that shows it: what came out, what was chosen, the curves, every evaluation.

The page needs nothing else, neither network nor script nor plotting library, so it can be made where the training ran, while it runs or
after it, and be opened years later from the run's folder.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xsap.artifacts import write_atomically
from xsap.config import Settings
from xsap.errors import ArtifactError, DataError
from xsap.languages import to_name
from xsap.training.chart import POINTS, STYLE, Line, Values, chart, look_of, number, safe, smoothed

_FIELDS = ("loss", "lr", "seconds", "names", "tokens")
_MEAN = "mean"
_ROWS = 100  # evaluations shown, and the best
_WIDTH = 1040


class Score(NamedTuple):
    """Acc@1 in [0, 1] with its interval, nan where there is none, and the number of mentions."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0


@dataclass(frozen=True, slots=True)
class Log:
    """What metrics.jsonl says. steps: (n,) ascending; columns: (n,) each, nan where a line has none; evaluations: step → code → Score."""

    steps: Values
    columns: Mapping[str, Values]
    evaluations: Mapping[int, Mapping[str, Score]]

    @property
    def best(self) -> int:
        """The step of the highest mean Acc@1, the earliest of equals. There must be an evaluation."""
        return max(self.evaluations, key=lambda step: np.nan_to_num(self.evaluations[step][_MEAN].value, nan=-1.0))


def write_report(run: Path) -> Path:
    """Write `run`/report.html from the run's settings and its log, as far as it goes → its path. Raises ArtifactError where no run is."""
    settings = _read_settings(run)
    log = read_log(run / "metrics.jsonl")
    title = safe(f"Training run {run.resolve().name}")
    body = [f"<h1>{title}</h1>", _summary(run, settings, log), _settings(settings)]
    body += [part(log) for part in (_loss, _accuracy, _rates, _evaluations)]
    head = f'<meta charset="utf-8"/><meta name="viewport" content="width=device-width, initial-scale=1"/><title>{title}</title>'
    with write_atomically(run / "report.html") as stream:
        stream.write(f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head><body>\n')
        stream.writelines(f"{part}\n" for part in body)
        stream.write("</body></html>\n")
    return run / "report.html"


def read_log(file: Path) -> Log:
    """What metrics.jsonl says; nothing where there is none. A line that a kill cut is passed over; of a step told twice the later holds."""
    rows: dict[int, list[float]] = {}
    evaluations: dict[int, dict[str, Score]] = {}
    text = (
        file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    )  # neither steps nor evaluations: no file
    for line in text.split("\n"):
        try:
            entry = json.loads(line)
            if "evaluation" in entry:
                scores = entry["evaluation"]["languages"] | {_MEAN: entry["evaluation"]["mean"]}
                evaluations[int(entry["step"])] = {code: _score(row) for code, row in scores.items()}
            else:
                rows[int(entry["step"])] = [
                    _number(entry["loss"]),
                    *(_number(entry.get(field)) for field in _FIELDS[1:]),
                ]
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    steps = sorted(rows)
    table = np.array([rows[step] for step in steps], np.float64).reshape(-1, len(_FIELDS))
    return Log(np.array(steps, np.float64), dict(zip(_FIELDS, table.T, strict=True)), dict(sorted(evaluations.items())))


def _score(row: Mapping[str, Any]) -> Score:
    low, high = row.get("acc@1_interval") or (None, None)
    return Score(_number(row.get("acc@1")), _number(low), _number(high), int(row.get("n") or 0))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _read_settings(run: Path) -> dict[str, Any]:
    try:
        settings: object = json.loads((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = None
    if not isinstance(settings, dict) or "sampling" not in settings:
        raise ArtifactError(
            f"{run}: expected the folder of a training run, found no config.json with its settings; is the path right?"
        )
    return settings


def _summary(run: Path, settings: Mapping[str, Any], log: Log) -> str:
    """Tiles of a title, a figure, and what it is of; below them what should make a reader wary."""
    steps, loss, warnings = log.steps, log.columns["loss"], []
    done, planned, epochs = int(steps[-1]) if len(steps) else 0, settings.get("max_steps"), settings.get("epochs")
    tiles = [
        (
            "Steps",
            f"{done:,}",
            f"of {planned:,} planned" if isinstance(planned, int) else f"planned: {epochs} epoch{'s'[: epochs != 1]}",
        ),
        ("Minutes", number(float(np.nansum(log.columns["seconds"])) / 60, 3), "in steps; evaluations not counted"),
        ("Last loss", number(float(loss[-1])) if done else "–", f"of step {done:,}" if done else "no step was done"),
    ]
    if log.evaluations:
        last, best = max(log.evaluations), log.best
        mean, languages = log.evaluations[last][_MEAN], len(log.evaluations[last]) - 1
        tiles.append(
            (
                "Mean Acc@1, %",
                _percent(mean),
                f"{languages} language{'s'[: languages != 1]}, n = {mean.n:,}, at step {last:,}",
            )
        )
        kept = "" if (run / "checkpoints" / f"step-{best}").is_dir() else "not "
        note = f"at step {best:,}; {'the last' if best == done else f'its checkpoint is {kept}kept'}"
        tiles.append(("Best mean Acc@1, %", _percent(log.evaluations[best][_MEAN]), note))
        if len({tuple((code, score.n) for code, score in scores.items()) for scores in log.evaluations.values()}) > 1:
            warnings.append("Not all evaluations are of the same mentions; their means can't be compared.")
    if len(bad := steps[~np.isfinite(loss)]):
        warnings.append(
            f"The loss of {len(bad):,} of {len(loss):,} steps is not a finite number, first at step {int(bad[0]):,}."
        )
    parts = [(title, *figure.partition(" ")[::2], note) for title, figure, note in tiles]
    shown = "".join(
        f"<div><span>{title}</span><b>{a} <i>{b}</i></b><span>{safe(note)}</span></div>" for title, a, b, note in parts
    )
    return f'<div class="facts">{shown}</div>' + "".join(f'<p class="warning">{warning}</p>' for warning in warnings)


def _settings(settings: Mapping[str, Any]) -> str:
    """What differs from the defaults, the place of the output aside."""
    defaults = _flat(Settings(output=Path()).model_dump(mode="json"))
    chosen = {
        key: value
        for key, value in _flat(settings).items()
        if key != "output" and (key not in defaults or value != defaults[key])
    }
    codes = [
        f'<code title="default: {_plain(defaults.get(key))}">{safe(key)} = {_plain(value)}</code>'
        for key, value in chosen.items()
    ]
    return f'<p class="settings">Settings that differ from the defaults: {" ".join(codes) or "none"}</p>'


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _plain(value: object) -> str:
    return safe(value if isinstance(value, str) else "not set" if value is None else json.dumps(value))


def _loss(log: Log) -> str:
    if not len(log.steps):
        return _section("Loss", "No step was logged.")
    half = _half(log, least=2)
    at, smooth = smoothed(log.columns["loss"], np.ones(len(log.steps)), half)
    faint = "each step" if len(log.steps) <= POINTS else "the lowest and the highest of neighboring steps"
    lines = [Line("each step", log.steps, log.columns["loss"], "raw"), Line("mean", log.steps[at], smooth, label="")]
    svg = chart(lines, "Loss over steps", last=_last(log), width=_WIDTH, height=280, from_zero=False)
    return _section("Loss", f"Faint: {faint}. Strong: the mean of the {2 * half + 1:,} steps around it.", svg)


def _accuracy(log: Log) -> str:
    shown = _shown(log)
    if not shown:
        return _section("Acc@1", "No evaluation was logged. The setting evaluation.mentions says on what to evaluate.")
    steps = np.array(shown, np.float64)
    percent = {
        code: 100 * np.array([log.evaluations[step].get(code, Score())[:3] for step in shown])
        for code in [*_codes(log), _MEAN]
    }
    looks = [*map(look_of, range(len(percent) - 1)), "strong"]
    lines = [
        Line(_name(code), steps, percent[code][:, 0], look, label=_name(code))
        for code, look in zip(percent, looks, strict=True)
    ]
    known = np.isfinite(percent[_MEAN]).all(1)
    around = steps[known], percent[_MEAN][known, 1], percent[_MEAN][known, 2]
    svg = chart(lines, "Acc@1 over steps", last=_last(log), width=_WIDTH, height=320, decimals=1, band=around)
    note = "Mentions whose right concept came first, per cent. The mean takes each language alike; grey: its 95 % interval."
    return _section("Acc@1 by language", note, svg)


def _rates(log: Log) -> str:
    """Learning rate and throughput beside one another, for each has its unit. Logs without names and tokens still have steps."""
    if not len(log.steps):
        return ""
    half = _half(log, least=10)  # the trainer logs seconds as means of up to 20 steps
    curves = [("Learning rate", "Of each step.", log.steps, log.columns["lr"])]
    known = {
        f"{field.title()} per second": log.columns[field]
        for field in _FIELDS[3:]
        if np.isfinite(log.columns[field]).any()
    }
    for title, amounts in (known or {"Steps per second": np.ones(len(log.steps))}).items():
        at, rate = smoothed(amounts, log.columns["seconds"], half)
        curves.append((title, f"Over the {2 * half + 1:,} steps around.", log.steps[at], rate))
    width = (_WIDTH - 20 * (len(curves) - 1)) // len(curves)
    sections = [
        _section(
            title,
            note,
            chart([Line(title, x, y, label="")], f"{title} over steps", last=_last(log), width=width, height=200),
        )
        for title, note, x, y in curves
    ]
    return f'<div class="row">{"".join(sections)}</div>'


def _evaluations(log: Log) -> str:
    """A table of the evaluations: a row a step, a column a language."""
    shown, codes = _shown(log), [_MEAN, *_codes(log)]
    if not shown:
        return ""
    head = "".join(
        f"<th>{safe(_name(code))}<small>n = {log.evaluations[shown[-1]].get(code, Score()).n:,}</small></th>"
        for code in codes
    )
    best, rows = log.best, []
    for step in shown:
        cells = "".join(
            f"<td>{_percent(log.evaluations[step].get(code, Score()), interval=code == _MEAN)}</td>" for code in codes
        )
        mark = ' class="best"' if step == best else ""
        rows.append(f"<tr{mark}><td>{step:,}</td>{cells}</tr>")
    some = (
        f" Here are {len(shown):,} of {len(log.evaluations):,}; metrics.jsonl has all."
        if len(shown) < len(log.evaluations)
        else ""
    )
    table = f"<table><thead><tr><th>step</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return _section(
        "Evaluations", f"Acc@1, per cent, in brackets the 95 % interval; the best mean is marked.{some}", table
    )


def _shown(log: Log) -> list[int]:
    """The evaluations on the page: all, or a hundred evenly spaced from the first to the last, and the best."""
    steps = list(log.evaluations)
    places = np.linspace(0, len(steps) - 1, min(len(steps), _ROWS), dtype=int)
    return sorted({*(steps[i] for i in places), log.best}) if steps else []


def _codes(log: Log) -> list[str]:
    return sorted({code for scores in log.evaluations.values() for code in scores} - {_MEAN}, key=_name)


def _last(log: Log) -> float:
    """The last step of the log: where all charts end."""
    return float(max([*log.steps[-1:], *log.evaluations], default=0))


def _half(log: Log, *, least: int) -> int:
    """How many steps before and after one are smoothed with it: one in a hundred of the run."""
    return max(least, len(log.steps) // 100)


def _percent(score: Score, *, interval: bool = True) -> str:
    if not math.isfinite(score.value):
        return "–"
    known = interval and math.isfinite(score.low) and math.isfinite(score.high)
    return f"{100 * score.value:.1f}" + (f" [{100 * score.low:.1f}, {100 * score.high:.1f}]" if known else "")


def _name(code: str) -> str:
    try:
        return "mean" if code == _MEAN else to_name(code)
    except DataError:
        return code


def _section(title: str, note: str, content: str = "") -> str:
    return f"<section><h2>{title}</h2><p>{note}</p><div>{content}</div></section>"
