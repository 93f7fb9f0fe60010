"""Every call of the coordinator's services: what is kept of its answers."""

from logstore.proto.coordinator_v1 import coordinator_pb2, placement_pb2
from tests.coordinator.golden import FOLDER

FILES = (coordinator_pb2.DESCRIPTOR, placement_pb2.DESCRIPTOR)
METHODS = {
    (service.name, method.name): method
    for file in FILES
    for service in file.services_by_name.values()
    for method in service.methods
}


def test_every_call_has_a_golden_answer() -> None:
    stored = {tuple(path.name.split(".")[:2]) for path in FOLDER.glob("*/*.json")}
    assert stored == set(METHODS)
