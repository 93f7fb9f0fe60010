"""The planner on a view that you make, without a cluster: `python examples/planner_alone.py`."""

from sharder.plan import explain, plan
from sharder.view import ForecastView, InstanceView, ShardView, View

HOUR_S = 3600.0


def shard(name: str, instance: str, *mean: float) -> ShardView:
    """A shard whose forecast is `mean` ops/s for the coming hours, within 10 %."""
    return ShardView(
        id=name,
        log="orders",
        instance=instance,
        bytes=50_000_000,
        ops_per_s=mean[0],
        bytes_per_s=mean[0] * 100,
        forecast=ForecastView(
            mean=mean,
            lower80=tuple(0.9 * value for value in mean),
            upper80=tuple(1.1 * value for value in mean),
            model="by hand",
        ),
    )


def main() -> None:
    shards = (
        shard("orders/0", "a", 30, 40, 60, 60),  # rises: a crosses its threshold in two hours
        shard("orders/1", "a", 30, 30, 30, 30),
        shard("orders/2", "b", 20, 20, 20, 20),
    )
    instances = (
        InstanceView("a", capacity_ops_per_s=100, ops_per_s=60),
        InstanceView("b", capacity_ops_per_s=100, ops_per_s=20),
    )
    made = plan(View(now_s=0.0, period_s=HOUR_S, slot=0, shards=shards, instances=instances))
    for operator in made.operators:
        print(f"{operator.kind} {operator.shard}: {operator.source} to {operator.target}")
    for sentence in explain(made):
        print(f"- {sentence}")


if __name__ == "__main__":
    main()
