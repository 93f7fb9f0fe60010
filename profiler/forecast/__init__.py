"""Forecasts of the load of shards: several models, of which the best by recent error is used.

The entry point is `ForecastBook`; models implement the port in `port`.
"""

from profiler.forecast.book import ForecastBook, seasons_of
from profiler.forecast.groups import GroupBook, UsageProfile
from profiler.forecast.port import Forecaster

__all__ = ["ForecastBook", "Forecaster", "GroupBook", "UsageProfile", "seasons_of"]
