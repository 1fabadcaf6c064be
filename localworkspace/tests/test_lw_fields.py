"""Every field that a request may have: it has an effect, is kept and shown, or is refused by name."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import requests
from databricks.sdk.service import catalog, compute, files, iam, jobs, serving, sql, workspace
from local_workspace import WorkspaceInfo, services
from local_workspace import jobs as job_package
from lw_support import VOLUME

# By function of the SDK: its fields that are refused (r), kept and shown or kept on record (k), or that
# change nothing here for the reason given (n); all others have an effect, and are read by name in the source.
NOTHING_BROWSED = "everything may be read by the one user"
ONE_MACHINE = "there is one machine to run on"
TABLE: dict[Any, dict[str, str]] = {
    jobs.JobsAPI.submit: {
        "access_control_list": "k", "budget_policy_id": "k", "duration_target": "k",
        "email_notifications": "k",
        "health": "k", "notification_settings": "k", "performance_target": "k", "queue": f"n {ONE_MACHINE}",
        "run_as": "k", "usage_policy_id": "k", "webhook_notifications": "k",
    },
    jobs.JobsAPI.run_now: {
        "dbt_commands": "r", "duration_target": "r", "performance_target": f"n {ONE_MACHINE}",
        "pipeline_params": "r", "spark_submit_params": "r", "sql_params": "r",
    },
    jobs.JobsAPI.repair_run: {
        "dbt_commands": "r", "duration_target": "r", "performance_target": f"n {ONE_MACHINE}",
        "pipeline_params": "r", "spark_submit_params": "r", "sql_params": "r",
    },
    jobs.JobsAPI.get_run: {"include_resolved_values": "r"},
    jobs.JobsAPI.get_run_output: {},
    jobs.JobsAPI.cancel_run: {},
    jobs.JobsAPI.cancel_all_runs: {},
    jobs.JobsAPI.delete_run: {},
    jobs.JobsAPI.list_runs: {"offset": "r"},
    jobs.JobsAPI.create: dict.fromkeys(
        (
            "budget_policy_id", "continuous", "deployment", "description", "duration_target", "edit_mode",
            "email_notifications", "health", "notification_settings", "parent_path", "performance_target",
            "schedule", "tags", "trigger", "triggers", "usage_policy_id", "webhook_notifications",
        ),
        "k",
    ),
    jobs.JobsAPI.get: {
        "include_trigger_state": "n no trigger starts anything here",
        "page_token": "n a job is shown whole",
    },
    jobs.JobsAPI.list: {},
    jobs.JobsAPI.reset: {},
    jobs.JobsAPI.update: {},
    jobs.JobsAPI.delete: {},
    catalog.CatalogsAPI.list: dict.fromkeys(("include_browse", "include_unbound"), f"n {NOTHING_BROWSED}"),
    catalog.CatalogsAPI.get: {"include_browse": f"n {NOTHING_BROWSED}"},
    catalog.SchemasAPI.list: {"include_browse": f"n {NOTHING_BROWSED}"},
    catalog.SchemasAPI.get: {"include_browse": f"n {NOTHING_BROWSED}"},
    catalog.SchemasAPI.create: {"custom_max_retention_hours": "r", "storage_root": "r"},
    catalog.SchemasAPI.update: {
        "custom_max_retention_hours": "r", "enable_predictive_optimization": "r", "new_name": "r",
    },
    catalog.SchemasAPI.delete: {},
    catalog.TablesAPI.list: {
        "include_browse": f"n {NOTHING_BROWSED}",
        "include_manifest_capabilities": "n no table has a manifest",
    },
    catalog.TablesAPI.get: {
        "include_browse": f"n {NOTHING_BROWSED}", "include_delta_metadata": "r",
        "include_manifest_capabilities": "n no table has a manifest",
    },
    catalog.TablesAPI.exists: {},
    catalog.TablesAPI.delete: {},
    catalog.VolumesAPI.list: {"include_browse": f"n {NOTHING_BROWSED}"},
    catalog.VolumesAPI.read: {"include_browse": f"n {NOTHING_BROWSED}"},
    catalog.VolumesAPI.create: {"storage_location": "r"},
    catalog.VolumesAPI.update: {},
    catalog.VolumesAPI.delete: {},
    sql.StatementExecutionAPI.execute_statement: {"query_tags": "k"},
    sql.StatementExecutionAPI.get_statement: {},
    sql.StatementExecutionAPI.cancel_execution: {},
    sql.WarehousesAPI.list: {
        "page_size": "n there is one warehouse", "page_token": "n there is one warehouse",
        "run_as_user_id": "n there is one user",
    },
    sql.WarehousesAPI.get: {},
    workspace.WorkspaceAPI.import_: {},
    workspace.WorkspaceAPI.export: {},
    workspace.WorkspaceAPI.mkdirs: {},
    workspace.WorkspaceAPI.get_status: {},
    workspace.WorkspaceAPI.list: {},
    workspace.WorkspaceAPI.delete: {},
    workspace.SecretsAPI.create_scope: {"backend_azure_keyvault": "r"},
    workspace.SecretsAPI.put_secret: {},
    workspace.SecretsAPI.put_acl: {},
    files.DbfsAPI.add_block: {},
    files.DbfsAPI.close: {},
    files.DbfsAPI.create: {},
    files.DbfsAPI.delete: {},
    files.DbfsAPI.get_status: {},
    files.DbfsAPI.list: {},
    files.DbfsAPI.mkdirs: {},
    files.DbfsAPI.move: {},
    files.DbfsAPI.put: {},
    files.DbfsAPI.read: {},
    files.FilesAPI.list_directory_contents: {},
    compute.ClustersAPI.events: {
        **dict.fromkeys(("limit", "order", "page_size"), "n there is one event"),
        **dict.fromkeys(("offset", "page_token"), "r"),
    },
    compute.ClustersAPI.get: {},
    compute.ClustersAPI.list: {
        "page_size": "n there is one cluster", "page_token": "n there is one cluster", "sort_by": "r",
    },
    iam.UsersV2API.list: {},
    iam.GroupsV2API.list: {},
    iam.ServicePrincipalsV2API.list: {},
    iam.PermissionsAPI.get: {},
    iam.PermissionsAPI.set: {},
    iam.PermissionsAPI.update: {},
    serving.ServingEndpointsAPI.get: {},
    # Fields within tasks and clusters of jobs.
    jobs.SubmitTask: {
        **dict.fromkeys(("compute", "description", "disable_auto_optimization", "health"), "k"),
        **dict.fromkeys(("email_notifications", "notification_settings", "webhook_notifications"), "k"),
        "existing_cluster_id": f"n {ONE_MACHINE}",
        **{  # a task of another kind fails by name when it is to run
            name: "k"
            for name in jobs.SubmitTask.__dataclass_fields__
            if name.endswith("_task") and name not in {"spark_python_task", "python_wheel_task"}
        },
    },
    jobs.SparkPythonTask: {},
    jobs.PythonWheelTask: {},
    compute.Environment: {"client": f"n {ONE_MACHINE}", "environment_version": f"n {ONE_MACHINE}"},
}  # fmt: skip
# Where a request calls a field otherwise than the SDK's function does.
NAMES = {
    "file_path": "path", "directory_path": "path", "statement_id": "id", "request_object_type": "type",
    "request_object_id": "id", "filter_by": "filter_by.cluster_states", "sort_by": "sortBy",
    "sort_order": "sortOrder", "start_index": "startIndex", "excluded_attributes": "excludedAttributes",
    "include_unbound": "include_unbound",
}  # fmt: skip
# Its name in the path of volumes is the full one.
NAMED_OTHERWISE = {(catalog.VolumesAPI, "name"): "full_name"}


def fields_of(function: Any) -> list[str]:
    if inspect.isclass(function):
        return list(function.__dataclass_fields__)
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.fixture(scope="module")
def source() -> str:
    folders = [Path(module.__file__ or "").parent for module in (services, job_package)]
    return "\n".join(path.read_text() for folder in folders for path in sorted(folder.rglob("*.py")))


@pytest.mark.fault("C14")
@pytest.mark.parametrize("function", TABLE, ids=lambda function: function.__qualname__)
def test_the_table_has_every_field_of_the_api(function: Any, source: str) -> None:
    fields, said = fields_of(function), TABLE[function]
    assert set(said) <= set(fields)
    for name in set(fields) - set(said):
        read = NAMES.get(name, name)
        assert re.search(rf"""["'{{ .]{re.escape(read)}["'}} ]""", source), f"nothing reads {name}"


PATHS = {
    jobs.JobsAPI.run_now: ("POST", "/api/2.2/jobs/run-now"),
    jobs.JobsAPI.repair_run: ("POST", "/api/2.2/jobs/runs/repair"),
    jobs.JobsAPI.get_run: ("GET", "/api/2.2/jobs/runs/get"),
    jobs.JobsAPI.list_runs: ("GET", "/api/2.2/jobs/runs/list"),
    catalog.SchemasAPI.create: ("POST", "/api/2.1/unity-catalog/schemas"),
    catalog.SchemasAPI.update: ("PATCH", "/api/2.1/unity-catalog/schemas/main.default"),
    catalog.TablesAPI.get: ("GET", "/api/2.1/unity-catalog/tables/main.default.t"),
    catalog.VolumesAPI.create: ("POST", "/api/2.1/unity-catalog/volumes"),
    workspace.SecretsAPI.create_scope: ("POST", "/api/2.0/secrets/scopes/create"),
    compute.ClustersAPI.events: ("POST", "/api/2.1/clusters/events"),
    compute.ClustersAPI.list: ("GET", "/api/2.1/clusters/list"),
}
REFUSED = [
    (function, name) for function, fields in TABLE.items() for name, what in fields.items() if what == "r"
]


@pytest.mark.fault("C14")
@pytest.mark.parametrize(("function", "name"), REFUSED, ids=lambda item: getattr(item, "__qualname__", item))
def test_what_has_no_effect_is_refused_by_name(
    http: requests.Session, info: WorkspaceInfo, function: Any, name: str
) -> None:
    method, path = PATHS[function]
    given: Any = {"params": {name: "1"}} if method == "GET" else {"json": {name: "x"}}
    reply = http.request(method, info.host + path, **given)
    assert reply.status_code == 400, reply.text
    assert f"{name} is not supported" in reply.json()["message"]


@pytest.mark.fault("C14")
def test_what_a_job_is_given_is_kept_and_shown(http: requests.Session, info: WorkspaceInfo) -> None:
    given = {
        "name": "kept", "budget_policy_id": "b", "continuous": {"pause_status": "PAUSED"},
        "deployment": {"kind": "BUNDLE", "metadata_file_path": "/f"}, "description": "d",
        "edit_mode": "EDITABLE", "email_notifications": {"on_failure": ["a@b"]},
        "health": {"rules": [{"metric": "RUN_DURATION_SECONDS", "op": "GREATER_THAN", "value": 1}]},
        "notification_settings": {"no_alert_for_skipped_runs": True}, "parent_path": "/p",
        "performance_target": "STANDARD",
        "schedule": {"quartz_cron_expression": "0 0 0 * * ?", "timezone_id": "UTC"},
        "tags": {"a": "b"}, "trigger": {"pause_status": "PAUSED", "file_arrival": {"url": VOLUME}},
        "usage_policy_id": "u", "webhook_notifications": {"on_failure": [{"id": "w"}]},
        "run_as": {"service_principal_name": "sp"},
    }  # fmt: skip
    made = http.post(f"{info.host}/api/2.2/jobs/create", json=given).json()
    shown = http.get(f"{info.host}/api/2.2/jobs/get", params=made).json()
    assert shown["settings"].items() >= given.items()
    assert shown["run_as_user_name"] == "sp"


@pytest.mark.fault("C14")
@pytest.mark.parametrize("name", ["init_scripts", "docker_image", "cluster_log_conf"])
def test_what_a_cluster_would_do_is_refused(http: requests.Session, info: WorkspaceInfo, name: str) -> None:
    task = {
        "task_key": "a",
        "new_cluster": {name: {"url": "x"}},
        "spark_python_task": {"python_file": "/Volumes/a/b/c/d"},
    }
    reply = http.post(f"{info.host}/api/2.2/jobs/runs/submit", json={"tasks": [task]})
    assert reply.status_code == 400
    assert f"new_cluster.{name} is not supported" in reply.json()["message"]
