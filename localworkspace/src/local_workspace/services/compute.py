"""Clusters API, to look at only: the one "cluster" is this machine, on which all jobs run."""

from __future__ import annotations

import os
import platform
import shutil
from functools import partial

from databricks.sdk.service import compute as shapes
from starlette.routing import Route

from local_workspace.errors import invalid
from local_workspace.http import Call, route
from local_workspace.options import CLUSTER_ID, USER
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


def _events(call: Call, started: int) -> shapes.GetEventsResponse:
    """The one event of the cluster: it started with the server."""
    _get(call, started)
    event = shapes.ClusterEvent(CLUSTER_ID, timestamp=started, type=shapes.EventType.STARTING)
    types = call.body.get("event_types") or ["STARTING"]
    if not isinstance(types, list):
        raise invalid("event_types must be a list")
    within = call.number("start_time", 0) <= started <= (call.number("end_time", 0) or started)
    wanted = within and "STARTING" in types
    return shapes.GetEventsResponse(events=[event] if wanted else [], total_count=int(wanted))


def _node_types(_call: Call, disk_gb: int) -> shapes.ListNodeTypesResponse:
    node = shapes.NodeType(
        node_type_id=_NODE,
        memory_mb=_memory_mb(),
        num_cores=float(os.cpu_count() or 1),
        description="This machine",
        instance_type_id=_NODE,
        category="General Purpose",
        node_instance_type=shapes.NodeInstanceType(_NODE, local_disk_size_gb=disk_gb, local_disks=1),
    )
    return shapes.ListNodeTypesResponse(node_types=[node])


def routes(workspace: Workspace) -> list[Route]:
    """The routes of `/api/2.x/clusters` that change nothing."""
    base, started = "/api/2.{minor:int}/clusters", workspace.started
    disk_gb = shutil.disk_usage(workspace.layout.root).total >> 30
    versions = shapes.GetSparkVersionsResponse([shapes.SparkVersion(k, v) for k, v in _VERSIONS.items()])
    zones = shapes.ListAvailableZonesResponse(default_zone=_NODE, zones=[_NODE])
    return [
        route("GET", f"{base}/list", partial(_list, started=started), refuses="sort_by"),
        route("GET", f"{base}/get", partial(_get, started=started)),
        route("POST", f"{base}/events", partial(_events, started=started), refuses="offset page_token"),
        route("GET", f"{base}/spark-versions", lambda _call: versions),
        route("GET", f"{base}/list-node-types", partial(_node_types, disk_gb=disk_gb)),
        route("GET", f"{base}/list-zones", lambda _call: zones),
    ]
