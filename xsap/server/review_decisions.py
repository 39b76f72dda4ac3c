"""What a decision does to a term: the state before, what a person chose, and the state after.

A decision has no memory: the same choice on the same state gives the same state, whoever asks for it and however often. What is wrong
with a choice is said as a ConfigError, before anything is written.
"""

from dataclasses import dataclass, replace

from xsap.errors import ConfigError
from xsap.exchange.mapping import Equivalence, MappedConcept, Signature, Status

MAX_NOTE = 4000  # characters
DECIDED = (Status.APPROVED, Status.NO_MATCH, Status.REJECTED)  # what a second reviewer can confirm

NOBODY = Signature()


@dataclass(frozen=True, slots=True)
class State:
    """What holds of a term now.

    Attributes:
        status: What people have decided.
        equivalence: How the targets relate to the term.
        targets: The concepts that it is mapped to; where nothing was decided, those that are proposed.
        comment: A note.
        decided: Who set the status.
        confirmed: The second reviewer, who agreed.
    """

    status: Status = Status.UNREVIEWED
    equivalence: Equivalence = Equivalence.UNREVIEWED
    targets: tuple[MappedConcept, ...] = ()
    comment: str = ""
    decided: Signature = NOBODY
    confirmed: Signature = NOBODY


@dataclass(frozen=True, slots=True)
class Choice:
    """What a person chose; None leaves it as it is.

    Attributes:
        status: The new status.
        targets: The new concepts.
        equivalence: How they relate to the term.
        comment: The new note.
        confirm: Whether the decision of another reviewer is confirmed.
    """

    status: Status | None = None
    targets: tuple[MappedConcept, ...] | None = None
    equivalence: Equivalence | None = None
    comment: str | None = None
    confirm: bool = False


def apply_choice(state: State, choice: Choice, signature: Signature, proposal: tuple[MappedConcept, ...]) -> State:
    """The state after a choice.

    Args:
        state: The state before.
        choice: What was chosen.
        signature: Who chose, and when.
        proposal: The concepts that are proposed for the term.

    Raises:
        ConfigError: The choice is not possible in this state.
    """
    if choice.comment is not None:
        if len(choice.comment) > MAX_NOTE:
            raise ConfigError(f"a note must have at most {MAX_NOTE:,} characters, found {len(choice.comment):,}")
        state = replace(state, comment=choice.comment)
    if choice.confirm:
        return replace(state, confirmed=_second_signature(state, signature))
    if choice.status is None and choice.targets is None and choice.equivalence is None:
        return state
    if state.status is Status.UNREVIEWED and choice.targets and _ids(choice.targets) != _ids(proposal):
        state = replace(state, equivalence=Equivalence.UNREVIEWED)  # what was proposed of another concept
    status = choice.status or (Status.APPROVED if choice.targets else state.status)
    changed = _decided(replace(state, status=status), choice, proposal)
    by = NOBODY if status is Status.UNREVIEWED else signature
    return replace(changed, decided=by, confirmed=NOBODY)


def _decided(state: State, choice: Choice, proposal: tuple[MappedConcept, ...]) -> State:
    """The concepts and the equivalence that belong to the state's new status."""
    if state.status is Status.UNREVIEWED:
        return replace(state, targets=proposal, equivalence=Equivalence.UNREVIEWED)
    if state.status in (Status.NO_MATCH, Status.REJECTED):
        if choice.targets or choice.equivalence not in (None, Equivalence.UNMATCHED):
            raise ConfigError("a term without a concept has no equivalence; choose a concept first")
        no_concept = state.status is Status.NO_MATCH
        return replace(state, targets=(), equivalence=Equivalence.UNMATCHED if no_concept else Equivalence.UNREVIEWED)
    targets = choice.targets if choice.targets is not None else state.targets or proposal
    if state.status is Status.APPROVED and not targets:
        raise ConfigError("there is no concept to approve; choose one, or decide that no concept fits")
    equivalence = choice.equivalence or state.equivalence
    if equivalence is Equivalence.UNMATCHED:
        equivalence = Equivalence.UNREVIEWED
    if state.status is Status.APPROVED and equivalence is Equivalence.UNREVIEWED:
        equivalence = Equivalence.EQUIVALENT
    return replace(state, targets=targets, equivalence=equivalence)


def _ids(concepts: tuple[MappedConcept, ...]) -> list[str]:
    return [concept.concept_id for concept in concepts]


def _second_signature(state: State, signature: Signature) -> Signature:
    if state.status not in DECIDED:
        raise ConfigError("only a decision can be confirmed; nothing was decided about this term yet")
    if state.decided.by == signature.by:
        raise ConfigError(f"a second person must confirm; {signature.by or 'the same person'} decided this term")
    return signature
