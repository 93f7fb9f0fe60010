"""How keys are used and what load comes next: agent, heatmap, forecasts with intervals, scores.

Pure: numpy (and river where it is used), no I/O, no clock; it imports no other package of
ours and knows only shard names, slot numbers and key bytes. Forecasts are in `profiler.forecast`.
river takes most of a second to import: only `load_adwin` and `profiler.forecast.slow` do.
"""

from profiler.access_log import AccessLog
from profiler.agent import Agent
from profiler.calendar import Calendar, Event
from profiler.correlation import CoAccess, CorrelationMatrix
from profiler.heatmap import AccessHeatmap
from profiler.heatmap_layers import LayeredHeatmap
from profiler.heavy_hitters import HeavyHitters
from profiler.types import Capacity, DataStoreStatus, Forecast, OpType, ShardStatistics

__all__ = [
    "AccessHeatmap",
    "AccessLog",
    "Agent",
    "Calendar",
    "Capacity",
    "CoAccess",
    "CorrelationMatrix",
    "DataStoreStatus",
    "Event",
    "Forecast",
    "HeavyHitters",
    "LayeredHeatmap",
    "OpType",
    "ShardStatistics",
]
