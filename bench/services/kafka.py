"""A real Kafka: KRaft brokers, one or three, each broker and controller in one process."""

import base64
import hashlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench.services.base import GivenService, ProcessService, Service, ServiceError, ServiceProcess
from bench.services.install import (
    cache_lock,
    docker_works,
    in_docker,
    java,
    may_install,
    on_path,
    program,
)
from bench.services.paths import free_ports
from bench.services.runs import ServiceRun

ADDRESS_VARIABLE = "LOGSTORE_TEST_KAFKA"
IMAGE_VARIABLE = "LOGSTORE_KAFKA_IMAGE"
POM = Path(__file__).with_name("kafka-pom.xml")
SUMS = Path(__file__).with_name("kafka.sha256")
BROKERS_ALLOWED = (1, 3)
HEAP_MB_DEFAULT = 512

# Kafka's own bin/kafka-run-class.sh starts the broker with these.
JVM_OPTIONS = (
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
)

LOG4J = """status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %c{1} %m%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
"""


def kafka_version() -> str:
    """The pinned version, read from the pom, which alone names it."""
    space = {"m": "http://maven.apache.org/POM/4.0.0"}
    found = ElementTree.parse(POM).find("m:properties/m:kafka.version", space)
    if found is None or not found.text:
        raise ServiceError(f"{POM.name} does not name kafka.version")
    return found.text


def _sums_hold(folder: Path) -> bool:
    """Whether the folder holds exactly the listed jars, byte for byte."""
    wanted = {}
    for line in SUMS.read_text().splitlines():
        digest, name = line.split()
        wanted[name] = digest
    if {p.name for p in folder.glob("*.jar")} != set(wanted):
        return False
    return all(
        hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        for name, digest in wanted.items()
    )


def kafka_jars() -> Path:
    """Folder of the pinned jars, fetched by Maven once and checked against `kafka.sha256`."""
    version = kafka_version()
    with cache_lock(f"kafka/{version}") as folder:
        if _sums_hold(folder):
            return folder
        maven = program("mvn", packages=["maven"])
        if maven is None or not may_install():
            raise ServiceError(
                "Kafka's jars are not cached and Maven is missing: install maven, or put Kafka's "
                "bin folder on PATH, or start Docker, or name a running broker in "
                f"{ADDRESS_VARIABLE}=host:port"
            )
        for old in folder.glob("*.jar"):
            old.unlink()
        command = [
            maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies",
            f"-DoutputDirectory={folder}", "-DincludeScope=runtime",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServiceError(f"Maven could not fetch Kafka {version}:\n{done.stdout[-2000:]}")
        if not _sums_hold(folder):
            raise ServiceError(f"Kafka's jars are not those that {SUMS.name} lists")
        return folder


def kafka_classpath() -> str:
    """Class path with the broker and the tools: an installed Kafka's `libs`, else our jars."""
    starter = on_path("kafka-server-start.sh") or on_path("kafka-server-start")
    if starter is not None:
        libs = Path(starter).resolve().parent.parent / "libs"
        if libs.is_dir():
            return f"{libs}/*"
    return f"{kafka_jars()}/*"


def java_tool(main_class: str, *arguments: str, heap_mb: int = HEAP_MB_DEFAULT) -> list[str]:
    """Command line of one of Kafka's own tools, e.g. org.apache.kafka.tools.ProducerPerformance."""
    return [
        java(), f"-Xmx{heap_mb}m", *JVM_OPTIONS, "-cp", kafka_classpath(), main_class, *arguments,
    ]  # fmt: skip


def kafka_ready(address: str, brokers: int = 1) -> bool:
    """Ask for the cluster's metadata: all brokers registered and a controller elected."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    quiet: dict[str, Any] = {"log_level": 0, "error_cb": lambda _: None}
    client = AdminClient({"bootstrap.servers": address, "socket.timeout.ms": 2000, **quiet})
    try:
        metadata = client.list_topics(timeout=2.0)
    except KafkaException:
        return False
    return len(metadata.brokers) >= brokers and metadata.controller_id >= 0


class KafkaCluster(ProcessService):
    """`brokers` KRaft nodes. `config` overrides broker settings (names as in server.properties)."""

    name = "kafka"

    def __init__(
        self,
        brokers: int = 1,
        *,
        config: Mapping[str, str] | None = None,
        heap_mb: int = HEAP_MB_DEFAULT,
        run: ServiceRun | None = None,
    ) -> None:
        super().__init__(run=run)
        if brokers not in BROKERS_ALLOWED:
            raise ServiceError(f"brokers is {brokers}, allowed are {BROKERS_ALLOWED}")
        self.brokers = brokers
        self._config = dict(config or {})
        self._heap_mb = heap_mb

    @property
    def address(self) -> str:
        return ",".join(f"127.0.0.1:{member.ports[0]}" for member in self.members)

    def _build(self, run: ServiceRun) -> list[ServiceProcess]:
        image = None
        try:
            command = java_tool("kafka.Kafka", heap_mb=self._heap_mb)
            self.source = f"Kafka {kafka_version()} (Maven jars or PATH), Java"
        except ServiceError:
            if not docker_works():
                raise
            image = os.environ.get(IMAGE_VARIABLE, f"apache/kafka:{kafka_version()}")
            command = ["java", f"-Xmx{self._heap_mb}m", *JVM_OPTIONS, "-cp", "/opt/kafka/libs/*"]
            command.append("kafka.Kafka")
            self.source = f"Docker image {image}"
        ports = free_ports(2 * self.brokers)
        controllers = ",".join(
            f"{node + 1}@127.0.0.1:{ports[2 * node + 1]}" for node in range(self.brokers)
        )
        members = []
        for node in range(self.brokers):
            name, folder = self._member_folder(run, node)
            own = ports[2 * node : 2 * node + 2]
            settings = self._settings(node + 1, own, controllers, folder)
            lines = "".join(f"{key}={value}\n" for key, value in settings.items())
            (folder / "server.properties").write_text(lines)
            (folder / "log4j2.properties").write_text(LOG4J)
            logging = f"-Dlog4j.configurationFile={folder / 'log4j2.properties'}"
            at = command.index("-cp")
            full = [*command[:at], logging, *command[at:], str(folder / "server.properties")]
            members.append(ServiceProcess(name, folder, full, own))
        self._format(members)
        if image is not None:
            for member in members:
                in_docker(member, image, run.folder)
        return members

    def _settings(
        self, node: int, ports: list[int], controllers: str, folder: Path
    ) -> dict[str, str]:
        copies = str(min(3, self.brokers))
        minimum = "2" if self.brokers == 3 else "1"
        listener, controller = (f"127.0.0.1:{port}" for port in ports)
        return {
            "process.roles": "broker,controller",
            "node.id": str(node),
            "controller.quorum.voters": controllers,
            "listeners": f"PLAINTEXT://{listener},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{listener}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(folder / "data"),
            "default.replication.factor": copies,
            "min.insync.replicas": minimum,
            "offsets.topic.replication.factor": copies,
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": minimum,
            "group.initial.rebalance.delay.ms": "0",
            # a dead broker is noticed in 3 s, not 9: tests of failure wait for it
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "1000",
            "controlled.shutdown.max.retries": "1",
            **self._config,
        }

    def _format(self, members: list[ServiceProcess]) -> None:
        """Give each node its storage; all share one cluster id. Run side by side: each is a JVM."""
        # 22 characters of base64; the first one is no "-", which would be taken for an option.
        cluster_id = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        running = []
        for member in members:
            at = member.command.index("kafka.Kafka")
            command = [
                *member.command[:at], "kafka.tools.StorageTool", "format",
                "-t", cluster_id, "-c", member.command[-1],
            ]  # fmt: skip
            if shutil.which(command[0]) is None:
                raise ServiceError(f"{command[0]} is needed to format Kafka's storage")
            running.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            )
        for process in running:
            output, _ = process.communicate(timeout=60)
            if process.returncode != 0:
                raise ServiceError(f"formatting Kafka's storage failed:\n{output.decode()[-2000:]}")

    def _ready(self) -> bool:
        return kafka_ready(self.address, self.brokers)


def kafka(
    brokers: int = 1,
    *,
    config: Mapping[str, str] | None = None,
    heap_mb: int = HEAP_MB_DEFAULT,
    run: ServiceRun | None = None,
) -> Service:
    """A Kafka to use: the one `LOGSTORE_TEST_KAFKA` names, else a cluster of our own."""
    given = os.environ.get(ADDRESS_VARIABLE)
    if given:
        return GivenService("kafka", given, kafka_ready)
    return KafkaCluster(brokers, config=config, heap_mb=heap_mb, run=run)
