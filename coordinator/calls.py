"""The calls of `coordinator.v1` in one table: what each is of, whether it writes, its answer.

What a call is of decides where it is carried out (design note 0004): a call about one shard at
the leader of the shard's cell, one about a whole log or the cluster at the leader of cell "0", and
a call of anyone at any coordinator.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from coordinator.answers.announced import AddedEvent, Events, Profiles, Removed, SetProfile
from coordinator.answers.catalog import (
    CellRow,
    CopyRow,
    DeletedLog,
    DrainProgress,
    InstanceRow,
    LogCount,
    RestoredLog,
    RetiredInstance,
)
from coordinator.answers.plans import AutopilotMode, PlanAnswer, PlannerSettings, ShardWeight
from coordinator.answers.statistics import ForecastAnswer, Heatmap, LogCorrelations, Shares, Stats
from coordinator.migration.answers import DryMove, Migration, MigrationRows, Reshape
from logstore.meta.records import LogOptions, ShardRecord


class Of(Enum):
    """What a call is of."""

    SHARD = "one shard, a migration of it, or the parents of a split or merge"
    LOG = "a whole log"
    CLUSTER = "the whole cluster"
    ANYONE = "anyone: every coordinator answers it"


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    `json`: the fields of its answer that hold JSON, each with the types that its document may have
    (the request decides between several). Answers without such fields are messages of their own.
    """

    of: Of
    writes: bool
    json: Mapping[str, tuple[type, ...]] = field(default_factory=dict)


def _reads(of: Of, *kinds: type) -> Call:
    return Call(of, False, {"json": kinds} if kinds else {})


def _writes(of: Of, *kinds: type) -> Call:
    return Call(of, True, {"json": kinds} if kinds else {})


_LOG_INFO: Mapping[str, tuple[type, ...]] = {
    "options_json": (LogOptions,),
    "shards_json": (ShardRecord,),
}
_LOG_INFOS: Mapping[str, tuple[type, ...]] = {f"logs.{k}": v for k, v in _LOG_INFO.items()}

CALLS: Mapping[tuple[str, str], Call] = {
    # Every coordinator asks the instances.
    ("Accesses", "Correlation"): _reads(Of.ANYONE, LogCorrelations),
    ("Accesses", "Read"): _reads(Of.ANYONE),
    ("Announcements", "AddEvent"): _writes(Of.CLUSTER, AddedEvent),
    ("Announcements", "ListEvents"): _reads(Of.ANYONE, Events),
    ("Announcements", "ListProfiles"): _reads(Of.ANYONE, Profiles),
    ("Announcements", "RemoveEvent"): _writes(Of.CLUSTER, Removed),
    ("Announcements", "SetProfile"): _writes(Of.CLUSTER, SetProfile, Removed),
    ("Catalog", "AdoptCopy"): _writes(Of.LOG, RestoredLog),
    ("Catalog", "CountRecords"): _reads(Of.ANYONE, LogCount),
    ("Catalog", "CreateLog"): Call(Of.LOG, True, _LOG_INFO),
    ("Catalog", "DeleteLog"): _writes(Of.LOG, DeletedLog),
    ("Catalog", "DescribeLog"): Call(Of.ANYONE, False, _LOG_INFO),
    ("Catalog", "DiscardCopy"): _writes(Of.CLUSTER, CopyRow),
    ("Catalog", "ListCells"): _reads(Of.ANYONE, list[CellRow]),
    ("Catalog", "ListCopies"): _reads(Of.ANYONE, list[CopyRow]),
    ("Catalog", "ListInstances"): Call(Of.ANYONE, False, {"instances_json": (InstanceRow,)}),
    ("Catalog", "ListLogs"): Call(Of.ANYONE, False, _LOG_INFOS),
    ("Catalog", "RestoreLog"): _writes(Of.LOG, RestoredLog),
    ("Catalog", "RetireInstance"): _writes(Of.CLUSTER, RetiredInstance),
    ("Drains", "Begin"): _writes(Of.CLUSTER, DrainProgress),
    ("Drains", "Cancel"): _writes(Of.CLUSTER, DrainProgress),
    ("Drains", "List"): _reads(Of.ANYONE, list[DrainProgress]),
    # Callers of these write under leases of their own, not under a cell's leadership.
    ("Metadata", "Get"): _reads(Of.ANYONE),
    ("Metadata", "LeaseGrant"): _writes(Of.ANYONE),
    ("Metadata", "LeaseKeepAlive"): _writes(Of.ANYONE),
    ("Metadata", "LeaseRevoke"): _writes(Of.ANYONE),
    ("Metadata", "Range"): _reads(Of.ANYONE),
    ("Metadata", "Txn"): _writes(Of.ANYONE),
    ("Metadata", "Watch"): _reads(Of.ANYONE),
    ("Migrations", "Control"): _writes(Of.SHARD, Migration),
    ("Migrations", "Get"): _reads(Of.ANYONE, Migration),
    ("Migrations", "List"): _reads(Of.ANYONE, MigrationRows),
    ("Migrations", "ListReshapes"): _reads(Of.ANYONE, list[Reshape], Reshape),
    ("Migrations", "Move"): _writes(Of.SHARD, Migration, DryMove),
    # Cell "0" merges two shards that are not of one cell.
    ("Migrations", "Reshape"): _writes(Of.SHARD, Reshape),
    ("Migrations", "Watch"): _reads(Of.ANYONE, Migration),
    ("Placement", "GetPartition"): _writes(Of.LOG),
    ("Placement", "GetPartitions"): _writes(Of.LOG),
    # Read where keys are placed: the book of a log is there.
    ("Placement", "Shares"): _reads(Of.LOG, Shares),
    # Made where the loop runs, which has the view and the switch.
    ("Plans", "GetPlanner"): _reads(Of.CLUSTER, PlannerSettings),
    ("Plans", "Plan"): _reads(Of.CLUSTER, PlanAnswer),
    ("Plans", "SetAutopilot"): _writes(Of.CLUSTER, AutopilotMode),
    ("Plans", "SetPlanner"): _writes(Of.CLUSTER, PlannerSettings),
    ("Plans", "SetWeight"): _writes(Of.SHARD, ShardWeight),
    ("Plans", "Weights"): _reads(Of.ANYONE, list[ShardWeight]),
    # Instances report to every coordinator, and each learns from the reports.
    ("Statistics", "Forecast"): _reads(Of.ANYONE, ForecastAnswer),
    ("Statistics", "Heatmap"): _reads(Of.ANYONE, Heatmap),
    ("Statistics", "Report"): _writes(Of.ANYONE),
    ("Statistics", "Stats"): _reads(Of.ANYONE, Stats),
}
"""By service and method."""
