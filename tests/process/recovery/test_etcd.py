"""A real etcd as the place of recovered metadata."""

from pathlib import Path

import pytest

from bench.services.etcd import etcd
from coordinator.recovery.disks import Disks, instance_directories
from coordinator.recovery.plan import make_plan
from coordinator.recovery.write import write_etcd
from logstore.base.env import Env
from logstore.base.errors import RefusedError
from logstore.meta.etcd import EtcdMetadataStore, EtcdTarget
from logstore.meta.port import Put
from logstore.meta.records import CLUSTER_ID, LOGS, SHARDS
from tests.unit.recovery.test_disks import CLUSTER, make


async def test_an_empty_etcd_takes_it_and_one_in_use_only_when_told(tmp_path: Path) -> None:
    make(tmp_path, 3, records=2)
    with Disks(instance_directories(tmp_path)) as disks:
        scan = disks.scan()
    plan = make_plan(scan.instances, scan.copies)
    with etcd() as service:
        store = EtcdMetadataStore(EtcdTarget.of(f"etcd://{service.address}/recovered"))
        other = EtcdMetadataStore(EtcdTarget.of(f"etcd://{service.address}/other"))
        try:
            await other.txn([], [Put("/logs/kept", b"{}")])
            first = await write_etcd(store, plan, Env(), None)
            assert first.aside == ""
            with pytest.raises(RefusedError, match="is not empty"):
                await write_etcd(store, plan, Env(), None)
            second = await write_etcd(store, plan, Env(), tmp_path / "before.json")
            assert (tmp_path / "before.json").exists()
            assert second.revision > first.revision
            assert len((await store.range(LOGS)).items) == 1
            assert len((await store.range(SHARDS)).items) == 2
            cluster = await store.get(CLUSTER_ID)
            assert cluster is not None
            assert cluster.value.decode() == CLUSTER
            assert [i.key for i in (await other.range("/")).items] == ["/logs/kept"]
        finally:
            await store.close()
            await other.close()
