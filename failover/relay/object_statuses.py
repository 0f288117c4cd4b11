"""When statuses that speak of an object (C-STORE 0xA9xx, 0xCxxx, 0x0122; PS3.4 B.2.3) speak of the archive.

Objects of two calling AE titles got one within 10 s and none was accepted: then it is the archive that takes
nothing. One modality that sends bad objects never proves that. The rule is that of `health.stores`; time and
what follows are for `carrying`.
"""

from __future__ import annotations

from failover.health.stores import WITHIN_S, StoreRecord, caller_stored, store_suspicion
from failover.model import UpstreamName


class ObjectStatuses:
    """What each upstream said of objects lately. For one thread."""

    def __init__(self) -> None:
        self._records = {name: StoreRecord() for name in UpstreamName}

    def accepted(self, upstream: UpstreamName) -> None:
        """It took an object: it takes objects."""
        self._records[upstream] = StoreRecord()

    def refused(self, upstream: UpstreamName, calling_ae: str, now_s: float) -> list[str]:
        """It found fault with an object of `calling_ae`. Returns whose objects it refused when that says
        that the archive is at fault, else none."""
        record = self._records[upstream] = caller_stored(self._records[upstream], calling_ae, False, now_s)
        if store_suspicion(record, now_s) is None:
            return []
        return [caller for caller, at_s in record.failures if now_s - at_s <= WITHIN_S]
