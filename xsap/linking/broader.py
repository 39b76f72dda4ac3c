"""Broader answers: where no candidate is certain enough, the concept that the close ones have in common.

It is the lowest common ancestor of the first CLOSE candidates, or if they have none within MAX_STEPS above each of them, of the first four, and so
on down to two. A concept with too many others below it says too little and is no answer. Its confidence is the probability that what is meant is
the concept or one a few steps below it, by a calibration of its own (`calibration.BroaderCalibration`): on the score of the best candidate below
it and its lead over the best one that is not. On held-out translations of HPO, 77 % of such concepts were right where the first candidate had a
confidence below 0.5, which was right itself for 40 % of them.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xsap.errors import ConfigError
from xsap.linking.calibration import BroaderCalibration, features_of
from xsap.linking.dictionary import row_of, values_at
from xsap.linking.index import Index
from xsap.linking.name_keys import BROADER
from xsap.linking.ranking import FilteredDictionary
from xsap.linking.results import Candidate, Result
from xsap.terms.hierarchy import Hierarchy

FETCHED = 10  # candidates that are looked at
CLOSE = 5  # of these, those that a broader concept is sought for, at most
MAX_STEPS = 2  # from a candidate to the broader concept
RIGHT_STEPS = 3  # from a right concept up to a broader one that still counts as right
MAX_FRACTION, MIN_BELOW = 0.01, 20  # of all concepts may be below an answer; or so many, if that is more


class BroaderConcept(NamedTuple):
    """A concept above the close candidates of a mention.

    Attributes:
        concept: Its number.
        nearest: The best candidate that is equal to it or below it.
        other: The score of the best candidate that is not, which is at most that of the last one if all of them are below.
    """

    concept: int
    nearest: Candidate
    other: float


class BroaderFinder:
    """Finds the concepts above candidates."""

    def __init__(self, index: Index, hierarchy: Hierarchy, kept: FilteredDictionary | None = None) -> None:
        """Find concepts of an index.

        Args:
            index: The index.
            hierarchy: The parents of its concepts.
            kept: Which concepts may be answers; None for all.
        """
        self._ids, self._concepts, self._hierarchy = index.concepts["concept_id"], index.concepts, hierarchy
        self._limit = max(MIN_BELOW, int(MAX_FRACTION * len(hierarchy)))
        self._allowed: NDArray[np.bool_] | None = None
        if kept is not None and kept.rows is not None:
            self._allowed = np.zeros(len(hierarchy), bool)
            self._allowed[kept.name_concepts.concepts] = True
        self._fits: dict[int, bool] = {}

    @classmethod
    def of_index(cls, index: Index, kept: FilteredDictionary | None = None) -> "BroaderFinder | None":
        """A finder for an index; None if the index has no relations between concepts."""
        details = index.dictionary.details
        if details is None or not len(details.hierarchy.parents):
            return None
        return cls(index, details.hierarchy, kept)

    def find(self, candidates: Sequence[Candidate]) -> BroaderConcept | None:
        """The concept above the first candidates; None if there is none.

        Args:
            candidates: FETCHED candidates or fewer, best first.
        """
        candidates = candidates[:FETCHED]
        rows = [row_of(self._ids, candidate.concept_id) for candidate in candidates]
        numbers = [row for row in rows if row is not None]
        for count in range(min(CLOSE, len(numbers)), 1, -1):
            above = self._hierarchy.lowest_common_ancestor(numbers[:count], MAX_STEPS)
            if above is not None and self._may_be_answer(above):
                is_below = [above in self._hierarchy.ancestors(number, MAX_STEPS) for number in numbers]
                nearest = candidates[is_below.index(True)]
                others = [each.score for each, below in zip(candidates, is_below, strict=True) if not below]
                return BroaderConcept(above, nearest, max(others, default=candidates[-1].score))
        return None

    def steps_above(self, found: BroaderConcept, gold: Collection[str]) -> int | None:
        """The fewest steps from one of the right concepts up to a broader one, RIGHT_STEPS at most; None if it is above none of them."""
        numbers = [row for concept_id in gold if (row := row_of(self._ids, concept_id)) is not None]
        steps = [self._hierarchy.ancestors(number, RIGHT_STEPS).get(found.concept) for number in numbers]
        return min((each for each in steps if each is not None), default=None)

    def describe(self, found: BroaderConcept, confidence: float) -> Candidate:
        """A broader concept as the answer."""
        columns = ("concept_id", "preferred_name", "semantic_types", "codes", "vocabulary", "code")
        concept_id, name, types, codes, vocabulary, code = (
            values_at(self._concepts[column], [found.concept])[0] for column in columns
        )
        return replace(
            found.nearest,
            concept_id=concept_id,
            name=name,
            semantic_types=tuple(types),
            codes=tuple(codes),
            confidence=confidence,
            match=BROADER,
            vocabulary=vocabulary,
            code=code,
        )

    def _may_be_answer(self, concept: int) -> bool:
        if concept not in self._fits:
            allowed = self._allowed is None or bool(self._allowed[concept])
            self._fits[concept] = allowed and not self._hierarchy.has_more_below(concept, self._limit)
        return self._fits[concept]


class BroaderAnswers:
    """Gives broader answers where linking abstains."""

    def __init__(
        self, index: Index, kept: FilteredDictionary, threshold: float | None, min_precision: float | None
    ) -> None:
        """Answers of an index.

        Args:
            index: The index, with relations and a calibration of broader answers.
            kept: Which concepts may be answers.
            threshold: The confidence below which a first candidate is no answer.
            min_precision: The precision that answers keep; None for those whose confidence reaches `threshold`.

        Raises:
            ConfigError: There is no threshold, or the index can't give broader answers of this precision.
        """
        if threshold is None:
            raise ConfigError(
                "broader answers need a limit for the first candidate; found neither min_confidence nor min_precision, add one"
            )
        finder = BroaderFinder.of_index(index, kept)
        if finder is None:
            raise ConfigError(
                "broader answers need relations between concepts, which the index does not have; create its terminology again with "
                "xsap-prepare (UMLS: with --hierarchy) and index it"
            )
        if index.calibration is None or index.calibration.broader is None:
            raise ConfigError(
                "broader answers need a calibration of their own, which the index does not have; calibrate it again, if necessary on more mentions: "
                "xsap calibrate MENTIONS --index INDEX"
            )
        self._finder, self._calibration = finder, index.calibration.broader
        self._threshold = threshold
        if min_precision is not None:
            self._threshold = self._calibration.threshold_for(min_precision, below=threshold)

    def complete(self, result: Result, language: str | None, top_k: int) -> Result:
        """A result with a broader answer before its uncertain candidates, if there is one that is certain enough.

        Args:
            result: With FETCHED candidates or more.
            language: Of the mention.
            top_k: How many candidates it has in the end, at most.
        """
        found = self._finder.find(result.uncertain) if result.uncertain else None
        confidence = 0.0 if found is None else confidence_of(found, self._calibration, language)
        if found is None or confidence < self._threshold:
            return replace(result, candidates=result.candidates[:top_k], uncertain=result.uncertain[:top_k])
        answer = self._finder.describe(found, confidence)
        others = [each for each in result.uncertain if each.concept_id != answer.concept_id]
        return replace(result, candidates=(answer, *others)[:top_k], reason=None, uncertain=())


def confidence_of(found: BroaderConcept, calibration: BroaderCalibration, language: str | None) -> float:
    """The probability that a broader concept is right."""
    features = features_of(np.array([found.nearest.score]), np.array([found.other]))
    return float(calibration.model.confidence(features, [language])[0])
