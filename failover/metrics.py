"""Every metric, defined once. Base units, closed label sets, never a patient, UID or accession number.

Each process makes one `Metrics` and hands it to its parts; the router's /metrics joins those of the others.
A number that nobody knows is absent: use `Known` for gauges whose value can be unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from failover.footprint import Footprint
from failover.tallies import Spread, Tally

FAST_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Known(Collector):
    """A gauge whose value may be unknown; it is absent then, so that no alert reads a stale number."""

    def __init__(
        self, registry: CollectorRegistry, name: str, documentation: str, labels: tuple[str, ...] = ()
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._values: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def set(self, value: float | None, *labels: str) -> None:
        """Set the value for `labels`; None makes it absent."""
        if value is None:
            self._values.pop(labels, None)
        else:
            self._values[labels] = float(value)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, value in sorted(self._values.items()):
            family.add_metric(labels, value)
        yield family


def _from_zero(counter: Counter, *values: str) -> None:
    """Show 0 for each value of the label: Prometheus sees no increase in a series that begins at 1."""
    for value in values:
        counter.labels(value)


class RouterMetrics:
    """What the router counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        r = registry
        self.registry = r
        self.footprint = Footprint(r, "router")
        self.upstream_up = Known(
            r, "failover_upstream_up", "1 when the verdict is not down", ("upstream", "service")
        )
        self.upstream_suspect = Known(
            r, "failover_upstream_suspect", "1 while the verdict is suspect", ("upstream", "service")
        )
        self.active_upstream = Known(
            r, "failover_active_upstream", "1 for the upstream that answers reads", ("service", "upstream")
        )
        self.phase = Known(
            r, "failover_phase", "1 for the phase that routing of the service is in", ("service", "phase")
        )
        self.mode = Gauge("failover_mode", "1 for the operator's intent in force", ("mode",), registry=r)
        self.transitions = Counter(
            "failover_transitions",
            "Phase changes, by the code of the edge",
            ("service", "to", "reason"),
            registry=r,
        )
        self.probe_duration = Histogram(
            "failover_probe_duration_seconds",
            "How long a probe took",
            ("upstream", "service", "part"),
            buckets=FAST_S,
            registry=r,
        )
        self.probes = Counter(
            "failover_probes",
            "Probes by result: passed, failed, void",
            ("upstream", "service", "part", "result"),
            registry=r,
        )
        self.component_up = Gauge(
            "failover_component_up",
            "1 when the process answers on its control channel",
            ("component",),
            registry=r,
        )
        self.state_not_persisted = Counter(
            "failover_state_not_persisted", "Moves that had to act before the disk answered", registry=r
        )
        self.failback_allowed = Gauge("failover_failback_allowed", "1 when the gate is open", registry=r)
        self.start_time = Gauge(
            "failover_router_start_time_seconds", "When the router started, Unix time", registry=r
        )
        self.audit_unwritten = Gauge(
            "failover_audit_unwritten", "Entries of the audit trail that are not on disk yet", registry=r
        )
        self.spool_bytes = Gauge(
            "failover_spool_bytes",
            "Bodies kept until they are answered: memory, disk",
            ("place",),
            registry=r,
        )
        self.spool_limit_bytes = Gauge(
            "failover_spool_limit_bytes", "What the spool may hold: memory, disk", ("place",), registry=r
        )
        self.certificate_expiry = Known(
            r,
            "failover_tls_certificate_expiry_timestamp_seconds",
            "When the first certificate of the listener's file expires, Unix time; absent without TLS",
            ("listener",),
        )
        # proxy
        self.http_requests = Tally(
            r, "failover_http_requests", "Answers sent to callers", ("upstream", "route", "code")
        )
        self.http_duration = Spread(
            r,
            "failover_http_request_duration_seconds",
            "From the last byte of the request's head to the last byte of its answer",
            ("upstream", "route"),
            buckets=FAST_S,
        )
        self.http_log_lost = Counter(
            "failover_http_log_lost",
            "Lines of the access log not written because standard error took them too slowly",
            registry=r,
        )
        self.http_moved = Counter(
            "failover_http_moved",
            "Requests answered by the other upstream, by cause",
            ("reason",),
            registry=r,
        )
        self.http_copies = Counter(
            "failover_http_copies",
            "Copies of stores on their way to the primary: copied, dropped (backup too slow or down), failed",
            ("result",),
            registry=r,
        )
        self.http_resumed = Counter(
            "failover_http_resumed",
            "Answers that broke while the caller got them, of which this upstream gave the rest",
            ("upstream",),
            registry=r,
        )
        self.http_connections = Gauge(
            "failover_http_connections", "Connections of callers open now", registry=r
        )
        self.http_turned_away = Counter(
            "failover_http_turned_away",
            "Connections of callers answered 503 for want of room: max_per_address, reserve (what is left is "
            "kept for known addresses)",
            ("reason",),
            registry=r,
        )
        _from_zero(self.http_turned_away, "max_per_address", "reserve")
        self.http_in_flight = Gauge(
            "failover_http_in_flight", "Requests at an upstream now", ("upstream",), registry=r
        )
        self.http_unprotected = Counter(
            "failover_http_unprotected",
            "Requests or answers that went on without protection: spool_full, hold_full",
            ("reason",),
            registry=r,
        )
        self.http_hedges = Counter(
            "failover_http_hedges",
            "Slow reads asked of the backup too: won, lost, failed (its answer did not count), over_budget "
            "(not asked)",
            ("result",),
            registry=r,
        )
        _from_zero(self.http_hedges, "won", "lost", "failed", "over_budget")
        self.logins = Counter(
            "failover_logins",
            "Passwords shown to us, by the login page or Basic, and logins at the identity provider:"
            " accepted, refused, too_often (not looked at: the address must wait), busy (too many at once),"
            " not_allowed (in none of its groups), unavailable (the provider)",
            ("result",),
            registry=r,
        )
        _from_zero(
            self.logins, "accepted", "refused", "too_often", "busy", "not_allowed", "unavailable"
        )  # fmt: skip
        self.identity_provider_up = Known(
            r,
            "failover_identity_provider_up",
            "1 when the identity provider of access.web.oidc shows what it can do and its keys, asked each"
            " minute; absent without one",
        )
        _from_zero(self.http_unprotected, "spool_full", "hold_full")
        _from_zero(self.http_copies, "copied", "dropped", "failed")
        _from_zero(self.http_resumed, "primary", "backup")
        # relay
        self.dicom_associations = Counter(
            "failover_dicom_associations",
            "Associations of callers: accepted, rejected, over_limit, refused_by_upstream, aborted, "
            "failed (ended by a fault of ours)",
            ("upstream", "result"),
            registry=r,
        )
        for result in ("rejected", "over_limit", "failed"):
            self.dicom_associations.labels("none", result)
        self.dicom_open = Gauge(
            "failover_dicom_associations_open", "Associations of callers open now", registry=r
        )
        self.dicom_operations = Counter(
            "failover_dicom_operations",
            "DIMSE operations ended",
            ("operation", "upstream", "status"),
            registry=r,
        )
        self.dicom_moved = Counter(
            "failover_dicom_moved",
            "Operations or associations taken by the other upstream",
            ("operation",),
            registry=r,
        )
        self.dicom_copies = Counter(
            "failover_dicom_copies",
            "Copies of stores on their way to the primary: copied, dropped (backup too slow or down), failed",
            ("result",),
            registry=r,
        )
        # replication, as the router last heard it
        self.lag_objects = Known(
            r, "failover_replication_lag_objects", "Objects in the archive not proven on the primary"
        )
        self.lag_seconds = Known(r, "failover_replication_lag_seconds", "Age of the oldest owed object")
        self.pending = Known(r, "failover_replication_pending", "Objects still to be sent", ("direction",))
        self.refused = Known(
            r, "failover_replication_refused", "Objects refused for good, or lost before they were sent"
        )
        self.vanished = Known(
            r,
            "failover_replication_vanished",
            "Studies that vanished from the primary and wait for a decision",
        )
        self.coverage = Known(
            r,
            "failover_coverage_ratio",
            "Part of the primary's instances in the window that the archive holds",
        )


# Modalities with a number of their own (PS3.3 C.7.3.1.1.1); all others are "other".
COMPRESSED_MODALITIES: Final = (
    "CR", "CT", "DX", "ES", "IO", "MG", "MR", "NM", "OP", "OPT", "PT", "PX", "RF", "SM", "US",
    "XA", "XC", "other",
)  # fmt: skip


class ArchiveMetrics:
    """What the archive counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        r = registry
        self.registry = r
        self.footprint = Footprint(r, "archive")
        self.instances = Gauge("failover_archive_instances", "Instances held", registry=r)
        self.studies = Gauge("failover_archive_studies", "Studies held", registry=r)
        self.bytes = Gauge("failover_archive_bytes", "Bytes of the instances held", registry=r)
        self.limit_bytes = Gauge(
            "failover_archive_limit_bytes", "What it may hold: archive.retention.max_bytes", registry=r
        )
        self.free_bytes = Gauge("failover_archive_free_bytes", "Free space on the archive's disk", registry=r)
        self.min_free_bytes = Gauge(
            "failover_archive_min_free_bytes",
            "Below so much free space stores are refused: archive.retention.min_free_bytes",
            registry=r,
        )
        self.stored = Counter(
            "failover_archive_stored", "Instances made durable, by origin", ("origin",), registry=r
        )
        self.store_duration = Histogram(
            "failover_archive_store_duration_seconds",
            "From the last byte of an instance until it is durable",
            buckets=FAST_S,
            registry=r,
        )
        self.refused_stores = Counter(
            "failover_archive_refused_stores",
            "Instances not kept: disk_full, unreadable, conflict",
            ("reason",),
            registry=r,
        )
        _from_zero(self.refused_stores, "disk_full", "unreadable", "conflict")
        self.commitments = Counter(
            "failover_archive_commitments",
            "Reports of storage commitment: committed (all), failed (some or all), undelivered (given up)",
            ("result",),
            registry=r,
        )
        _from_zero(self.commitments, "committed", "failed", "undelivered")
        self.commitments_waiting = Gauge(
            "failover_archive_commitments_waiting",
            "Requests for storage commitment that wait for a proof, or for who takes the report",
            registry=r,
        )
        self.compressed = Counter(
            "failover_archive_compressed",
            "Instances looked at by lossless compression: done, or why the original stays: no_pixels,"
            " compressed (as it came), lossy, float, palette, signed, unsupported, not_smaller, differs,"
            " failed; unrestorable: owed again, and sent compressed",
            ("result",),
            registry=r,
        )
        _from_zero(
            self.compressed, "done", "no_pixels", "compressed", "lossy", "float", "palette", "signed",
            "unsupported", "not_smaller", "differs", "failed", "unrestorable",
        )  # fmt: skip
        self.compression_waiting = Gauge(
            "failover_archive_compression_waiting",
            "Proven instances that lossless compression has still to look at; 100000 stands for more",
            registry=r,
        )
        self.compression_bytes = Gauge(
            "failover_archive_compression_bytes",
            "Bytes of all instances that were ever compressed: before, after",
            ("modality", "side"),
            registry=r,
        )
        for modality in COMPRESSED_MODALITIES:
            self.compression_bytes.labels(modality, "before")
            self.compression_bytes.labels(modality, "after")
        self.compression_ratio = Known(
            r,
            "failover_archive_compression_ratio",
            "Bytes before by bytes after, of all that was ever compressed; absent before the first",
            ("modality",),
        )
        self.trouble = Gauge(
            "failover_archive_trouble",
            "1 while a person is wanted: no_room, index_damaged, index_not_written, clock_doubted,"
            " objects_damaged",
            ("trouble",),
            registry=r,
        )
        self.scrubbed = Counter(
            "failover_archive_scrubbed", "Instances read again and compared with their digest", registry=r
        )
        self.damaged = Counter(
            "failover_archive_damaged", "Instances that were found damaged, and quarantined", registry=r
        )
        self.evicted = Counter("failover_archive_evicted", "Instances that went by retention", registry=r)
        self.requests = Counter(
            "failover_archive_requests", "DICOMweb requests", ("route", "code"), registry=r
        )
        self.operations = Counter(
            "failover_archive_operations", "DIMSE operations", ("operation", "status"), registry=r
        )


class ReplicatorMetrics:
    """What the replicator counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        r = registry
        self.registry = r
        self.footprint = Footprint(r, "replicator")
        self.fetched = Counter(
            "failover_replication_fetched",
            "Instances brought from the primary: wado, get, move",
            ("via",),
            registry=r,
        )
        self.sent = Counter(
            "failover_replication_sent", "Instances sent to the primary: stow, store", ("via",), registry=r
        )
        self.proven = Counter("failover_replication_proven", "Instances shown by the primary", registry=r)
        self.failures = Counter(
            "failover_replication_failures",
            "Steps that failed and will be tried again",
            ("step",),
            registry=r,
        )
        self.poll_duration = Histogram(
            "failover_replication_poll_duration_seconds",
            "How long one comparison took",
            buckets=FAST_S,
            registry=r,
        )
