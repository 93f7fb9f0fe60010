"""An instance's Prometheus metrics: rate, errors, duration, saturation, and its copies.

Read from the instance's own state at each scrape, so the hot path pays only for the agent's
counts. Shards beyond `shards_max` are summed up as shard="other": an operator's Prometheus must not
grow with the shards. Names are `logstore_…` in base units (seconds, bytes).
"""

import shutil
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from logstore.replication.events import Role

if TYPE_CHECKING:
    from logstore.node.instance.instance import Instance
    from logstore.node.instance.replica import Replica

OTHER = "other"
SHARD_FIGURES = (
    ("log_end_records", "Offset that the next record gets on this copy."),
    ("high_watermark_records", "Offset below which every in-sync copy holds the records."),
    ("epoch", "Epoch of the shard's configuration as this copy knows it."),
    ("stored_bytes", "Bytes of live batches of this copy."),
    (
        "queue_bytes",
        "Bytes of appends that wait for an offset, or were forwarded and wait for the answer.",
    ),
    ("index_backlog_records", "Records between the key index and the log end."),
    ("replication_lag_records", "Records that the in-sync peer furthest behind has not acked."),
    ("commit_age_seconds", "Since when the oldest record not yet committed waits; 0: none."),
)
NOT_ADDED = ("epoch", "commit_age_seconds")
"""Of several shards the largest is shown."""


class NodeCollector(Collector):
    """Collects on the instance's loop."""

    def __init__(self, instance: "Instance", shards_max: int) -> None:
        self._instance = instance
        self._shards_max = shards_max
        self._uncommitted: dict[str, tuple[int, float]] = {}
        """Shard -> its high watermark, and when it was first seen there with records above."""

    def collect(self) -> Iterator[Metric]:
        yield from self._work()
        yield from self._disk()
        yield from self._copies()
        yield from self._kept()

    def _work(self) -> Iterator[Metric]:
        node = self._instance.node
        counts = node.reporter.totals
        done = CounterMetricFamily("logstore_operations", "Records appended, reads.", labels=["op"])
        size = CounterMetricFamily("logstore_operation_bytes", "Bytes of them.", labels=["op"])
        took = HistogramMetricFamily(
            "logstore_operation_duration_seconds",
            "From arrival to answer, as the instance saw it; one append of many records counts "
            "once a record.",
            labels=["op"],
        )
        for op, total in counts.items():
            done.add_metric([op.value], total.count)
            size.add_metric([op.value], total.bytes)
            took.add_metric([op.value], total.buckets(), total.seconds)
        yield from (done, size, took)
        failed = CounterMetricFamily(
            "logstore_failed_operations",
            "Operations that failed and that this instance is to blame for, by error code.",
            labels=["code"],
        )
        for code, count in node.reporter.failures.items():
            failed.add_metric([code], count)
        yield failed
        yield CounterMetricFamily(
            "logstore_throttled_operations",
            "Operations refused because the instance was at its stated capacity.",
            value=node.admission.throttled,
        )
        limit = GaugeMetricFamily(
            "logstore_capacity",
            "What the instance admits, as stated: a second, and on its disk; absent: no bound.",
            labels=["of"],
        )
        for of, rate in (
            ("operations", node.config.ops_per_s_max),
            ("bytes", node.config.bytes_per_s_max),
            ("space", node.config.stored_bytes_max),
        ):
            if rate is not None:
                limit.add_metric([of], rate)
        yield limit
        yield from self._load()

    def _load(self) -> Iterator[Metric]:
        """As in the last report to the coordinators."""
        status = self._instance.node.reporter.last
        used = GaugeMetricFamily(
            "logstore_used_ratio",
            "Used share of a capacity, stated or estimated; the largest is the load.",
            labels=["of"],
        )
        cost = GaugeMetricFamily(
            "logstore_operation_cost_seconds",
            "Learned CPU seconds of an operation, or of a MiB, by kind.",
            labels=["kind"],
        )
        if status is not None:
            for resource, share in status.loads.items():
                used.add_metric([resource.value], share)
            for kind, seconds in status.costs.items():
                cost.add_metric([kind], seconds)
            yield GaugeMetricFamily(
                "logstore_capacity_operations",
                "Operations/s of the present mix that the instance can serve, stated or estimated.",
                value=status.capacity.ops_per_s,
            )
            yield GaugeMetricFamily(
                "logstore_capacity_cores",
                "Cores that the instance can use: of its quota, the machine and its event loop.",
                value=status.capacity.cpu_share,
            )
            yield GaugeMetricFamily(
                "logstore_loop_lag_seconds",
                "How late the event loop runs, on the mean of a report.",
                value=status.lag_ms / 1e3,
            )
        yield from (used, cost)

    def _disk(self) -> Iterator[Metric]:
        disk = shutil.disk_usage(self._instance.node.config.data)
        yield GaugeMetricFamily(
            "logstore_disk_size_bytes", "Of the file system with the data.", value=disk.total
        )
        yield GaugeMetricFamily(
            "logstore_disk_free_bytes", "Left on it for this process.", value=disk.free
        )
        yield GaugeMetricFamily(
            "logstore_writes_stopped",
            "1: damage made the engine refuse every write; the process restarts.",
            value=self._instance.writes_stopped is not None,
        )

    def _kept(self) -> Iterator[Metric]:
        """Copies on the disk that are not served: orphans, and retired ones until they are
        deleted."""
        instance = self._instance
        retired = instance.node.engine.retired()
        yield GaugeMetricFamily(
            "logstore_orphan_copies",
            "Copies on the disk that no shard's record names and no tombstone ordered away.",
            value=len(instance.orphans()),
        )
        yield GaugeMetricFamily(
            "logstore_retired_copies", "Retired copies that are still kept.", value=len(retired)
        )
        yield GaugeMetricFamily(
            "logstore_retired_bytes",
            "Stored bytes of them.",
            value=sum(r.bytes_stored for r in retired),
        )
        yield CounterMetricFamily(
            "logstore_copies_deleted",
            "Retired copies whose bytes were deleted by this process.",
            value=instance.copies.dropped,
        )
        yield GaugeMetricFamily(
            "logstore_estranged",
            "1: the metadata is not the one that this instance acted on; it follows nothing.",
            value=bool(instance.claim.estranged),
        )

    def _copies(self) -> Iterator[Metric]:
        replicas = sorted(self._instance.replicas.values(), key=lambda r: r.shard)
        roles = dict.fromkeys(Role, 0)
        broken = few = 0
        for replica in replicas:
            roles[replica.role] += 1
            broken += replica.copy.error is not None
            few += _lacks_copies(replica)
        copies = GaugeMetricFamily("logstore_copies", "Copies held, by role.", labels=["role"])
        for known, count in roles.items():
            copies.add_metric([known.value], count)
        yield copies
        yield GaugeMetricFamily(
            "logstore_broken_copies", "Copies that serve nothing because of an error.", value=broken
        )
        yield GaugeMetricFamily(
            "logstore_under_replicated_shards",
            "Shards led here with fewer in-sync copies than their log asks for.",
            value=few,
        )
        families = [
            GaugeMetricFamily(f"logstore_shard_{name}", text, labels=["shard", "role"])
            for name, text in SHARD_FIGURES
        ]
        for label, role, figures in self._shards(replicas):
            for family, figure in zip(families, figures, strict=True):
                family.add_metric([label, role], figure)
        yield from families

    def _shards(self, replicas: Iterable["Replica"]) -> Iterator[tuple[str, str, list[float]]]:
        """Label, role and SHARD_FIGURES of the first `shards_max` copies; the sum of the others."""
        open_copies = [r for r in replicas if r.exists]
        for replica in open_copies[: self._shards_max]:
            yield replica.shard, replica.role.value, self._figures(replica)
        rest = [self._figures(r) for r in open_copies[self._shards_max :]]
        if rest:
            names = [name for name, _ in SHARD_FIGURES]
            columns = zip(*rest, strict=True)
            yield (
                OTHER,
                OTHER,
                [
                    max(column) if name in NOT_ADDED else sum(column)
                    for name, column in zip(names, columns, strict=True)
                ],
            )
        gone = self._uncommitted.keys() - {r.shard for r in open_copies}
        for shard in gone:
            del self._uncommitted[shard]

    def _figures(self, replica: "Replica") -> list[float]:
        log = replica.log
        end, mark = log.end().end, replica.high_watermark
        peers = [p.match.end for p in replica.machine.peers.values()]
        leads = replica.role is Role.PRIMARY
        lag = max(end - min(peers), 0) if leads and peers else 0
        return [
            end,
            mark,
            replica.epoch,
            log.bytes_stored(),
            replica.append_gate.waiting_bytes,
            log.index_backlog(),
            lag,
            self._commit_age_s(replica.shard, end, mark) if leads else 0.0,
        ]

    def _commit_age_s(self, shard: str, end: int, mark: int) -> float:
        if end <= mark:
            self._uncommitted.pop(shard, None)
            return 0.0
        now_s = self._instance.node.now_s()
        seen, since_s = self._uncommitted.get(shard, (-1, now_s))
        if seen != mark:
            seen, since_s = mark, now_s
        self._uncommitted[shard] = (seen, since_s)
        return now_s - since_s


def _lacks_copies(replica: "Replica") -> bool:
    record = replica.machine.record
    leads = record is not None and replica.role is Role.PRIMARY
    return leads and len(replica.record.in_sync) < replica.options.replicas
