"""The requestor: opens an association to a peer, within a limit. What is said in it is for its user."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from failover.clock import Clock, SystemClock
from failover.dicom.connection import Connection
from failover.dicom.exchange import Association
from failover.dicom.negotiation import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION,
    MAX_LENGTH_TOO_SMALL,
    contexts_in_force,
    is_too_small,
)
from failover.dicom.units import (
    AbortReason,
    AssociateAc,
    AssociateRj,
    AssociateRq,
    CommonExtendedNegotiation,
    ExtendedNegotiation,
    ProposedContext,
    RoleSelection,
    UserIdentity,
    UserInformation,
    padded_ae,
)
from failover.errors import (
    AssociationEnded,
    AssociationRejected,
    MalformedPdu,
    TlsUnusable,
    UpstreamBroke,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from failover.model import DicomPeer
from failover.tls import client_context, failure

RequestorAssociation = Association

DEFAULT_MAX_PDU_BYTES = 65536


async def open_association(
    peer: DicomPeer,
    calling_ae: str | bytes,
    contexts: Sequence[ProposedContext],
    *,
    timeout_s: float,
    implementation_version: str = IMPLEMENTATION_VERSION,
    roles: Sequence[RoleSelection] = (),
    extended: Sequence[ExtendedNegotiation] = (),
    common_extended: Sequence[CommonExtendedNegotiation] = (),
    identity: UserIdentity | None = None,
    max_pdu_bytes: int = DEFAULT_MAX_PDU_BYTES,
    clock: Clock | None = None,
) -> RequestorAssociation:
    """Open an association; `calling_ae` may be the 16 bytes of another's RQ, to be passed on unchanged.

    `timeout_s` covers connection and A-ASSOCIATE-AC. Raises UpstreamUnreachable (no connection: nothing was
    sent), AssociationRejected, UpstreamTimeout (no AC within the limit), UpstreamBroke (died before its AC,
    or answered rubbish). Nothing stays open then.
    """
    rq = AssociateRq(
        called_bytes=padded_ae(peer.ae_title),
        calling_bytes=calling_ae if isinstance(calling_ae, bytes) else padded_ae(calling_ae),
        contexts=tuple(contexts),
        user=UserInformation(
            max_pdu_bytes=max_pdu_bytes,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version=implementation_version,
            roles=tuple(roles),
            extended=tuple(extended),
            common_extended=tuple(common_extended),
            identity=identity,
        ),
    )
    return await open_by(peer, rq, timeout_s=timeout_s, clock=clock or SystemClock())


async def open_by(peer: DicomPeer, rq: AssociateRq, *, timeout_s: float, clock: Clock) -> Association:
    """As `open_association`, by an RQ that is made already."""
    connection = Connection(requestor=True, max_pdu_bytes=rq.user.max_pdu_bytes, clock=clock)
    connected = False
    try:
        async with asyncio.timeout(timeout_s):
            loop = asyncio.get_running_loop()
            host, tls = peer.address.host, peer.tls
            await loop.create_connection(
                lambda: connection,
                host,
                peer.address.port,
                ssl=None if tls is None else client_context(tls),
                server_hostname=None if tls is None else tls.name_for(host),
            )
            connected = True
            connection.send_rq(rq)
            answer = await connection.handshake()
            if isinstance(answer, AssociateRj):
                raise AssociationRejected(answer.result, answer.source, answer.reason)
            assert isinstance(answer, AssociateAc)
            if is_too_small(answer.user.max_pdu_bytes):
                raise MalformedPdu(MAX_LENGTH_TOO_SMALL.sentence, reason=AbortReason.INVALID_PARAMETER)
            agreed = contexts_in_force(rq, answer)
            return Association(connection, rq, answer, agreed)
    except TimeoutError:
        connection.abort("no A-ASSOCIATE-AC in time")
        if connected:
            raise UpstreamTimeout(f"no A-ASSOCIATE-AC within {timeout_s:g} s") from None
        raise UpstreamUnreachable(f"no answer of {peer.address} within {timeout_s:g} s") from None
    except ConnectionError as error:  # refused, reset: by whoever has the address
        raise UpstreamUnreachable(f"{failure(error)} by {peer.address}") from error
    except OSError as error:
        why = f": {failure(error)}" if error.errno else ""  # None when several addresses failed differently
        raise UpstreamUnreachable(f"no connection to {peer.address}{why}") from error
    except TlsUnusable as error:
        raise UpstreamUnreachable(f"no connection: {error}") from error
    except AssociationEnded as error:
        connection.drop()
        raise UpstreamBroke(f"no A-ASSOCIATE-AC: {error}") from error
    except MalformedPdu as error:
        connection.abort_as_provider(error.reason, str(error))
        connection.close()
        raise UpstreamBroke(f"an A-ASSOCIATE-AC that cannot be: {error}") from error
    except BaseException:
        connection.abort("no longer wanted")
        connection.close()
        raise
