"""What is the matter with the archive and wants a person: told once to the log, shown while it lasts.

Whoever finds a trouble says so with a sentence that stays the same while it lasts, and says when it is over.
The router asks for all of them together with the ledger's numbers: status, page and events have them.
"""

from __future__ import annotations

from enum import StrEnum

import structlog

from failover.metrics import ArchiveMetrics

_log = structlog.get_logger(__name__)


class Trouble(StrEnum):
    """Each is the `trouble` of the metric, the code of the status and of the event."""

    NO_ROOM = "no_room"  # stores are refused
    INDEX_DAMAGED = "index_damaged"  # stores are refused, and reads may fail
    INDEX_NOT_WRITTEN = "index_not_written"  # stores are refused: the disk failed; reads go on
    CLOCK_DOUBTED = "clock_doubted"  # nothing is evicted by age
    OBJECTS_DAMAGED = "objects_damaged"  # in quarantine, and not yet here again


class Troubles:
    """One per archive. May be told from any thread."""

    def __init__(self, metrics: ArchiveMetrics) -> None:
        self._metrics = metrics
        self._sentences: dict[Trouble, str] = {}
        for trouble in Trouble:
            metrics.trouble.labels(trouble).set(0)

    def tell(self, trouble: Trouble, sentence: str | None) -> None:
        """`sentence` says what is the matter and what to do; None: it is over, or was never there."""
        before = self._sentences.get(trouble)
        if sentence == before:
            return
        if sentence is None:
            self._sentences = {one: text for one, text in self._sentences.items() if one is not trouble}
            _log.info("trouble is over", trouble=trouble.value)
        else:
            self._sentences = {**self._sentences, trouble: sentence}
            _log.error("trouble", trouble=trouble.value, what=sentence)
        self._metrics.trouble.labels(trouble).set(float(sentence is not None))

    def sentences(self) -> dict[str, str]:
        """Return what is the matter now, by code."""
        return {trouble.value: sentence for trouble, sentence in self._sentences.items()}
