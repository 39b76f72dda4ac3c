"""Progress of long work: a bar on a terminal, else a logged line at most once a minute, so that the log of a long run stays short."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60.0

logger = logging.getLogger(__name__)

Advance = Callable[[int, str], None]
"""How much more is done, and a note such as the last loss; an empty note leaves the last one."""


@contextmanager
def track(
    what: str, unit: str, total: int, *, bar: bool, done: int = 0, seconds: float = SECONDS_BETWEEN_LINES
) -> Iterator[Advance]:
    """Yield a function that counts what is done.

    Args:
        what: What is done, such as `train`.
        unit: What is counted, such as `steps`.
        total: How much there is to do.
        bar: Whether a bar is drawn on stderr. Otherwise lines are logged.
        done: How much was done before.
        seconds: Between two lines, at least. Work that is done sooner logs none.
    """
    if bar:
        with tqdm(total=total, initial=done, desc=what, unit=f" {unit}", mininterval=0.5) as drawn:

            def draw(more: int, note: str) -> None:
                if note:
                    drawn.set_postfix_str(note, refresh=False)
                drawn.update(more)

            yield draw
        return
    count, last_note, started, logged = done, "", time.monotonic(), time.monotonic()

    def log(more: int, note: str) -> None:
        nonlocal count, last_note, logged
        count, last_note, now = count + more, note or last_note, time.monotonic()
        if now - logged >= seconds:
            logged = now
            left = (now - started) / max(1, count - done) * (total - count) / 60
            parts = [f"{count:,} of {total:,} {unit}", *([last_note] if last_note else []), f"{left:,.0f} minutes left"]
            logger.info("%s: %s", what, ", ".join(parts))

    yield log
