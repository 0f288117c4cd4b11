"""Our own C-ECHO and C-FIND, for probes and searches: one fresh association each, no pynetdicom.

It reads what an upstream says and turns it into data sets or errors; what follows from them is for others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydicom import Dataset

from failover.dicom.data_sets import decoded, encoded
from failover.dicom.dimse import Category, cancel_rq, category, echo_rq, find_rq
from failover.dicom.exchange import Association
from failover.dicom.negotiation import VERIFICATION, propose
from failover.dicom.requestor import open_association
from failover.errors import (
    AssociationEnded,
    LimitExceeded,
    MalformedMessage,
    UnreadableDataSet,
    UpstreamBroke,
    UpstreamRefused,
    UpstreamTimeout,
)
from failover.model import DicomPeer

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
_MAX_IDENTIFIER_BYTES = 1 << 20  # of one match; a longer one counts as broken


async def echo(peer: DicomPeer, calling_ae: str, *, timeout_s: float) -> None:
    """C-ECHO within `timeout_s`, association and all.

    Raises UpstreamUnreachable, UpstreamRefused (rejected, or a failure status), UpstreamTimeout,
    UpstreamBroke.
    """
    async with _association(peer, calling_ae, VERIFICATION, timeout_s) as association:
        await association.send(1, echo_rq(1))
        message = await association.receive()
        if message is None:
            raise UpstreamBroke("released instead of an answer to C-ECHO")
        status = message.command.status
        if status != 0:
            raise UpstreamRefused(f"C-ECHO answered with status {status:#06x}", transient=True)


async def find(
    peer: DicomPeer, calling_ae: str, model_uid: str, identifier: Dataset, *, timeout_s: float, limit: int
) -> list[Dataset]:
    """C-FIND: return at most `limit` matches; the rest is cancelled. `timeout_s` covers all of it.

    Raises UpstreamUnreachable, UpstreamRefused (rejected, or a failure status), UpstreamTimeout,
    UpstreamBroke.
    """
    matches: list[Dataset] = []
    async with _association(peer, calling_ae, model_uid, timeout_s) as association:
        syntax = association.contexts[1].transfer_syntax
        await association.send(1, find_rq(1, model_uid), encoded(identifier, syntax))
        cancelled = False
        while True:
            message = await association.receive()
            if message is None:
                raise UpstreamBroke("released in the middle of a C-FIND")
            status = message.command.status
            kind = category(status)
            if kind is Category.PENDING:
                raw = await association.whole_data_set(_MAX_IDENTIFIER_BYTES)
                if len(matches) < limit:
                    matches.append(decoded(raw, syntax))
                elif not cancelled:
                    cancelled = True
                    await association.send(1, cancel_rq(1))
                continue
            if kind in (Category.SUCCESS, Category.WARNING) or (cancelled and kind is Category.CANCEL):
                return matches
            raise UpstreamRefused(f"C-FIND answered with status {status:#06x}", transient=True)


@asynccontextmanager
async def _association(
    peer: DicomPeer, calling_ae: str, abstract_syntax: str, timeout_s: float
) -> AsyncIterator[Association]:
    """An association with one context (ID 1); errors inside become those of upstreams."""
    association: Association | None = None
    finished = False
    try:
        async with asyncio.timeout(timeout_s):
            association = await open_association(
                peer, calling_ae, propose([abstract_syntax]), timeout_s=timeout_s
            )
            if 1 not in association.contexts:
                raise UpstreamRefused("the presentation context was not accepted", transient=False)
            yield association
            finished = True
    except TimeoutError:
        raise UpstreamTimeout(f"no answer within {timeout_s:g} s") from None
    except (AssociationEnded, MalformedMessage, LimitExceeded, UnreadableDataSet) as error:
        raise UpstreamBroke(str(error)) from error
    finally:
        if association is not None:
            if finished or 1 not in association.contexts:
                await association.release(timeout_s=min(timeout_s, 1.0))
            else:
                association.abort("no longer wanted")
