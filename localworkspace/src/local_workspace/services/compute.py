"""Clusters API, to look at only: the one "cluster" is this machine, on which all jobs run."""

from __future__ import annotations

import functools
import os
import platform

from databricks.sdk.service import compute as shapes
from starlette.routing import Route

from local_workspace.errors import invalid
from local_workspace.http import Call, route
from local_workspace.options import CLUSTER_ID, USER
from local_workspace.state import now_ms
from local_workspace.workspace import Workspace

_NODE = "local"
# Names of runtimes that clients ask for; jobs run in the server's Python whichever they name.
_VERSIONS = {
    "15.4.x-scala2.12": "15.4 LTS (includes Apache Spark 3.5.0, Scala 2.12)",
    "16.4.x-scala2.12": "16.4 LTS (includes Apache Spark 3.5.2, Scala 2.12)",
    "17.3.x-scala2.13": "17.3 LTS (includes Apache Spark 4.0.0, Scala 2.13)",
}


def _memory_mb() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20)


def _cluster(started: int) -> shapes.ClusterDetails:
    return shapes.ClusterDetails(
        cluster_id=CLUSTER_ID,
        cluster_name=f"This machine ({platform.node()})",
        cluster_source=shapes.ClusterSource.API,
        creator_user_name=USER,
        spark_version=list(_VERSIONS)[-1],
        node_type_id=_NODE,
        driver_node_type_id=_NODE,
        num_workers=0,
        cluster_cores=float(os.cpu_count() or 1),
        cluster_memory_mb=_memory_mb(),
        data_security_mode=shapes.DataSecurityMode.SINGLE_USER,
        start_time=started,
        state=shapes.State.RUNNING,
        state_message="",
    )


def _get(call: Call, started: int) -> shapes.ClusterDetails:
    if call.text("cluster_id") != CLUSTER_ID:
        raise invalid(
            f"Cluster {call.text('cluster_id')} does not exist; the local workspace has {CLUSTER_ID!r}"
        )
    return _cluster(started)


def _list(call: Call, started: int) -> shapes.ListClustersResponse:
    wanted = call.query.get("filter_by.cluster_states", "RUNNING").split(",")
    return shapes.ListClustersResponse(clusters=[_cluster(started)] if "RUNNING" in wanted else [])


def _spark_versions(_call: Call) -> shapes.GetSparkVersionsResponse:
    versions = [shapes.SparkVersion(key=key, name=name) for key, name in _VERSIONS.items()]
    return shapes.GetSparkVersionsResponse(versions=versions)


def _node_types(_call: Call) -> shapes.ListNodeTypesResponse:
    node = shapes.NodeType(
        node_type_id=_NODE,
        memory_mb=_memory_mb(),
        num_cores=float(os.cpu_count() or 1),
        description="This machine",
        instance_type_id=_NODE,
        category="General Purpose",
    )
    return shapes.ListNodeTypesResponse(node_types=[node])


def _zones(_call: Call) -> shapes.ListAvailableZonesResponse:
    return shapes.ListAvailableZonesResponse(default_zone=_NODE, zones=[_NODE])


def routes(_workspace: Workspace) -> list[Route]:
    """The routes of `/api/2.x/clusters` that change nothing."""
    base, started = "/api/2.{minor:int}/clusters", now_ms()
    return [
        route("GET", f"{base}/list", functools.partial(_list, started=started), refuses="sort_by"),
        route("GET", f"{base}/get", functools.partial(_get, started=started)),
        route("GET", f"{base}/spark-versions", _spark_versions),
        route("GET", f"{base}/list-node-types", _node_types),
        route("GET", f"{base}/list-zones", _zones),
    ]
