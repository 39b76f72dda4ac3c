"""Tune an encoder on mentions with known concepts, test it against its base on mentions that were held out, and publish it if it is no worse.

The tuned model and its base each link the held-out mentions into the terminology, and are compared by stratum with a paired test. What harms
the mentions of which neither the string nor a concept was annotated would harm most of a terminology, so a model that is significantly worse on them
is kept in its run's folder, but not published, unless that is asked for.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from accelerate import PartialState

from xsap.config import Settings
from xsap.encoding.encoder import Encoder
from xsap.encoding.model_card import FUSION_WEIGHT, TUNED
from xsap.errors import ConfigError, DataError
from xsap.evaluation.calibration_report import ALL, CalibrationReport, calibrate
from xsap.evaluation.folds import FoldsBy, assign_folds
from xsap.evaluation.gold import check_gold
from xsap.evaluation.metrics import Ranks
from xsap.evaluation.protocols import K, concept_ranks
from xsap.evaluation.strata import Stratum, StratumComparison, compare_by_stratum, strata_of, strata_table
from xsap.linking.encoder_spec import EncoderSpec
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.page import Block, Heading, Paragraph, Table, charts, write_page
from xsap.plots import risk_coverage_diagram
from xsap.terms.mentions import write_mentions
from xsap.terms.terminology import Terminology
from xsap.training.run import train

TRAINED_MENTIONS, TESTED_MENTIONS, REPORT = "trained_mentions.parquet", "tested_mentions.parquet", "tuning.html"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TuningReport:
    """What tuning changed on the mentions that were held out.

    Attributes:
        trained: Mentions that the model was tuned on.
        tested: Mentions that were held out.
        comparisons: Stratum → base and tuned model.
        fusion_weight: Weight of string similarity in the scores of the tuned model.
        before: Calibration of the base model on the held-out mentions; None where there are too few.
        after: That of the tuned model.
        published: Whether the model was published.
    """

    trained: int
    tested: int
    comparisons: Mapping[str, StratumComparison]
    fusion_weight: float
    before: CalibrationReport | None
    after: CalibrationReport | None
    published: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        strata = {name: each.to_dict() for name, each in self.comparisons.items()}
        areas = {
            name: None if each is None else each.rows[ALL].area
            for name, each in (("before", self.before), ("after", self.after))
        }
        counts = {"trained": self.trained, "tested": self.tested}
        return {**counts, "strata": strata, FUSION_WEIGHT: self.fusion_weight, "risk_coverage_area": areas}


def hold_out_mentions(mentions: pa.Table, folds: int, *, by: FoldsBy, seed: int) -> tuple[pa.Table, pa.Table]:
    """The mentions to tune on, and one fold to test on.

    Args:
        mentions: A table of `terms.mentions.SCHEMA`.
        folds: How many folds; one is held out.
        by: What must not be split.
        seed: Of the folds.
    """
    held_out = pa.array(assign_folds(mentions, folds, by=by, seed=seed) == 0)
    return mentions.filter(pc.invert(held_out)), mentions.filter(held_out)


def tune_encoder(
    settings: Settings,
    trained: pa.Table,
    tested: pa.Table,
    out: Path,
    *,
    index: Path | None = None,
    publish_worse: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> TuningReport | None:
    """Tune, test, calibrate and publish.

    Args:
        settings: Of the run, whose folder also gets the two tables of mentions and the report; `tuning.mentions` is set here.
        trained: Mentions to tune on, a table of `terms.mentions.SCHEMA`.
        tested: Mentions to test on and to calibrate with.
        out: The model folder to write.
        index: An index folder to write, of the terminology by the tuned model, with its weight and calibration; None for none.
        publish_worse: Whether to publish a model that is significantly worse where neither string nor concept was annotated.
        overwrite: Whether `out` and `index` may be replaced.
        progress: Whether to show progress bars.

    Returns:
        The report; None in all processes but the first.

    Raises:
        XsapError: A setting or an input is not usable.
    """
    state, run = PartialState(), settings.output
    terminology = Terminology.load(settings.terminology or Path())
    check_gold(tested["concept_ids"].to_pylist(), set(terminology.concepts["concept_id"].to_pylist()))
    _warn_of_shared_documents(trained, tested)
    if state.is_main_process:
        run.mkdir(parents=True, exist_ok=True)
        write_mentions(trained, run / TRAINED_MENTIONS)
        write_mentions(tested, run / TESTED_MENTIONS)
    state.wait_for_everyone()
    tuning = settings.tuning.model_copy(update={"mentions": run / TRAINED_MENTIONS})
    model = train(settings.model_copy(update={"tuning": tuning}), progress_bar=progress)
    if not state.is_main_process:
        return None
    base, tuned = _open_base(settings), Encoder.from_pretrained(model)
    weight = float(tuned.provenance.get(FUSION_WEIGHT, 0.0))
    before, after = (
        Linker(encoder, replace(Index.build(terminology, encoder, progress=progress), fusion_weight=fusion))
        for encoder, fusion in ((base, 0.0), (tuned, weight))
    )
    report = compare_models(before, after, trained, tested, seed=settings.seed)
    worse = str(Stratum.NEITHER) in report.comparisons and report.comparisons[str(Stratum.NEITHER)].significantly_worse
    report = replace(report, published=publish_worse or not worse)
    _write_report(report, run)
    if report.published:
        stated = {FUSION_WEIGHT: weight, TUNED: report.to_dict()}
        tuned.save_pretrained(out, overwrite=overwrite, metadata=stated)
        if index is not None:
            _save_index(after.index, Encoder.from_pretrained(out), out, index, report, overwrite=overwrite)
    return report


def compare_models(before: Linker, after: Linker, trained: pa.Table, tested: pa.Table, *, seed: int) -> TuningReport:
    """Link the held-out mentions with both models. Mentions without a concept (NIL) count for the calibration alone.

    Args:
        before: Of the base model.
        after: Of the tuned model.
        trained: Mentions that the model was tuned on.
        tested: Mentions that were held out.
        seed: Of intervals and of the calibration's folds.
    """
    scored = tested.filter(pc.greater(pc.list_value_length(tested["concept_ids"]), 0))
    first, second = (_ranks(linker, scored) for linker in (before, after))
    comparisons = compare_by_stratum(first, second, strata_of(scored, trained), seed=seed)
    return TuningReport(
        trained.num_rows,
        tested.num_rows,
        comparisons,
        after.index.fusion_weight,
        _calibrate(before, tested, seed),
        _calibrate(after, tested, seed),
        published=False,
    )


def to_text(report: TuningReport) -> str:
    """The report as a table for people."""
    rows = strata_table(dict(report.comparisons))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"tuned on {report.trained:,} mentions, tested on {report.tested:,}; percent, with 95 % intervals"]
    lines += [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    lines.append(f"weight of string similarity in the scores of the tuned model: {report.fusion_weight:.3f}")
    if report.before and report.after:
        areas = [100 * each.rows[ALL].area for each in (report.before, report.after)]
        lines.append(f"area under the risk-coverage curve, percent: {areas[0]:.1f} before, {areas[1]:.1f} after")
    return "\n".join(lines)


def _open_base(settings: Settings) -> Encoder:
    return Encoder.from_pretrained(
        settings.base,
        pooling=settings.pooling,
        max_length=settings.max_length,
        prompt=settings.prompt,
        revision=settings.revision,
        override=True,
    )


def _warn_of_shared_documents(trained: pa.Table, tested: pa.Table) -> None:
    shared = set(trained["document_id"].to_pylist()) & set(tested["document_id"].to_pylist()) - {None}
    if shared:
        logger.warning(
            "%s documents have mentions to tune on and mentions to test on, such as '%s'; scores will be too high",
            f"{len(shared):,}",
            min(shared),
        )


def _ranks(linker: Linker, mentions: pa.Table) -> Ranks:
    return np.array(concept_ranks(linker, mentions, K)[0], np.int64)


def _calibrate(linker: Linker, mentions: pa.Table, seed: int) -> CalibrationReport | None:
    try:
        return calibrate(linker, mentions, seed=seed)
    except DataError as error:
        logger.warning("not calibrated: %s", error)
        return None


def _save_index(
    built: Index, encoder: Encoder, model: Path, path: Path, report: TuningReport, *, overwrite: bool
) -> None:
    """Save the index that was tested, bound to the model as it was published."""
    replace(built, model=EncoderSpec.from_encoder(encoder, model)).save(path, overwrite=overwrite)
    saved = Index.load(path).with_fusion_weight(report.fusion_weight)
    if report.after is not None:
        saved.with_calibration(report.after.calibration)


def _write_report(report: TuningReport, run: Path) -> None:
    title = "Tuning on mentions"
    blocks: list[Block] = [Heading(1, title), Paragraph(to_text(report).split("\n")[0])]
    blocks.append(Table(strata_table(dict(report.comparisons))))
    if not report.published:
        blocks.append(
            Paragraph(
                "The model is significantly worse on mentions whose string and concept were not tuned on, so it was not published.",
                warning=True,
            )
        )
    if report.before and report.after:
        curves = [each.rows[ALL].curve for each in (report.before, report.after)]
        plot = risk_coverage_diagram(curves[1], title="Risk and coverage; grey: before", background=curves[0])
        blocks += [Heading(2, "Risk and coverage"), *charts([plot], "Risk and coverage, before and after")]
    blocks += [Heading(2, "As JSON"), Paragraph(json.dumps(report.to_dict()))]
    write_page(blocks, run / REPORT, title)


def check_settings(settings: Settings) -> None:
    """Raise ConfigError for settings that tuning has no use for."""
    if settings.base == "scratch":
        raise ConfigError("tune needs a model to start from, found base = scratch; train one first: xsap train")
    if settings.max_steps == 0:
        raise ConfigError("tune needs at least one step, found max_steps = 0")
