"""The ``containers`` backend of ``servers.py``: the same servers from images, through testcontainers.

Only imported with ``--backend=containers``. :func:`missing` says why it cannot be used here, for the skip.
"""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
from testcontainers.core.container import DockerContainer

from aura.ids import SystemIds
from aura.runtime.files import private_folder
from aura.runtime.ports import choose, http_status
from aura.runtime.postgres_cluster import OWNER, SUPERUSER, bootstrap_sql, passwords

NATS_IMAGE = os.environ.get("AURA_TEST_NATS_IMAGE", "nats:2.15-alpine")
POSTGRES_IMAGE = os.environ.get("AURA_TEST_POSTGRES_IMAGE", "postgres:18-alpine")
_TRIES = 600


def missing() -> str | None:
    """Why there are no containers here: no engine answers, or an image cannot be had. ``None`` when all is well."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=10)
        for image in (NATS_IMAGE, POSTGRES_IMAGE):
            if not client.images.list(name=image):
                client.images.pull(image)
    except DockerException as error:
        return f"no containers: {type(error).__name__}"
    return None


class NatsContainerProcess:
    """nats-server in a container; its port and store survive a kill."""

    def __init__(self, folder: Path, auth: str) -> None:
        self._port, self._monitor_port = choose(2, [])
        config = private_folder(folder) / "nats-server.conf"
        config.write_text(
            "listen: 0.0.0.0:4222\nhttp: 0.0.0.0:8222\nmax_payload: 8388608\n"
            f'jetstream {{ store_dir: "/store", sync_interval: always }}\n{auth}',
            "utf-8",
        )
        config.chmod(0o644)  # read by the container's user
        self._container = (
            DockerContainer(NATS_IMAGE)
            .with_bind_ports(4222, self._port)
            .with_bind_ports(8222, self._monitor_port)
            .with_volume_mapping(str(config), "/etc/aura.conf", "ro")
            .with_command("--config /etc/aura.conf")
        )
        self._made = False

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    async def start(self) -> None:
        if self._made:
            self._container.get_wrapped_container().start()
        else:
            self._container.start()
            self._made = True
        for _ in range(_TRIES):
            if await http_status("127.0.0.1", self._monitor_port, "/healthz", timeout_s=0.2) == 200:
                return
        raise AssertionError("nats-server in its container is not healthy")

    async def kill(self) -> None:
        self._container.get_wrapped_container().kill("KILL")

    async def stop(self) -> None:
        self._container.stop()


class PostgresContainerProcess:
    """Postgres in a container, with our roles."""

    def __init__(self, folder: Path) -> None:
        self._secrets = passwords(private_folder(folder), SystemIds())
        self._port = choose(1, [])[0]
        self._container = (
            DockerContainer(POSTGRES_IMAGE)
            .with_env("POSTGRES_PASSWORD", self._secrets[SUPERUSER])
            .with_bind_ports(5432, self._port)
            .with_command("-c fsync=off -c max_connections=200")
        )

    def url(self, role: str = OWNER, database: str = "aura") -> str:
        return f"postgresql://{role}:{self._secrets[role]}@127.0.0.1:{self._port}/{database}"

    async def start(self) -> None:
        self._container.start()
        for _ in range(_TRIES):
            try:
                connection = psycopg.connect(self.url(SUPERUSER, "template1"), autocommit=True, connect_timeout=1)
            except psycopg.OperationalError:
                self._container.get_wrapped_container().exec_run(["pg_isready", "-t", "1"])
                continue
            with connection:
                for statement in filter(None, bootstrap_sql(self._secrets, SystemIds()).splitlines()):
                    connection.execute(statement.encode())
            return
        raise AssertionError("Postgres in its container takes no connections")

    async def stop(self) -> None:
        self._container.stop()
