"""Our own driver, against a real local cluster."""

from bench.peers import check_same
from bench.peers.ours import Ours, OursCluster
from bench.workload import make_records


async def test_ours_appends_reads_and_scans_the_same_records() -> None:
    records = make_records(20_000, seed=5)
    with OursCluster(1) as cluster:
        async with Ours(options={"key_index": True}, cluster=cluster) as ours:
            for _ in range(2):
                assert (await ours.append(records)).records == 20_000
                check_same("ours", records, await ours.consume(records))
                check_same("ours", records, await ours.scan_arrow(records))
            took = await ours.read_keys_ms(records, reads=5, seed=1)
            assert (took > 0).all()
            assert await ours.unary_per_s(concurrency=4, seconds=0.2) > 10
            assert await ours.rpc_per_s(concurrency=4, seconds=0.2) > 10
            result = await ours.open_loop(records.part(0, 2_000), rate_per_s=10_000)
            assert result.failed == 0
            assert result.latency.get_total_count() == 2_000
