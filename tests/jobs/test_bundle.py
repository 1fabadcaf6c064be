"""The bundle keeps to what Databricks takes, and names what this package really has."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.settings import from_environment

Bundle = dict[str, Any]
Resolve = Callable[..., Bundle]

GIVEN = {
    "warehouse_http_path": "/sql/1.0/warehouses/0123456789abcdef",
    "service_principal": "11111111-2222-3333-4444-555555555555",
}
TARGETS = ("dev", "prod")
DISTRIBUTION = "databricks-rlm-agent"
# Top-level keys of the bundle schema that we use; anything else needs a look at that schema first.
TOP_LEVEL = {"bundle", "include", "sync", "variables", "artifacts", "targets", "resources"}
IN_TARGET = {"mode", "default", "workspace", "run_as", "variables", "resources"}
RESOURCES = {"jobs", "schemas", "volumes", "secret_scopes"}


@pytest.fixture(params=TARGETS)
def resolved(request: pytest.FixtureRequest, bundle: Resolve) -> Bundle:
    return bundle(request.param, **GIVEN)


def test_only_known_keys(source: Bundle) -> None:
    assert set(source) | {"include"} == TOP_LEVEL
    assert all(set(target) <= IN_TARGET for target in source["targets"].values())
    assert set(source["targets"]) == set(TARGETS)
    assert set(source["resources"]) == RESOURCES


def test_no_two_resources_of_any_type_share_a_key(resolved: Bundle) -> None:
    """Databricks' CLI refuses every command of a bundle in which they do."""
    keys = Counter(key for resources in resolved["resources"].values() for key in resources)
    assert {key: count for key, count in keys.items() if count > 1} == {}


def test_the_scratch_schema_is_the_one_that_the_agent_looks_for(resolved: Bundle) -> None:
    schemas = resolved["resources"]["schemas"]
    namespace = Namespace(catalog="main", schema=schemas["rlm"]["name"], volume="artifacts")
    assert f"main.{schemas['scratch']['name']}" == namespace.scratch_schema


@pytest.mark.parametrize("name", ["control_plane", "executor"])
def test_the_jobs_api_knows_every_field(resolved: Bundle, name: str) -> None:
    from databricks.sdk.service.jobs import JobSettings

    job = resolved["resources"]["jobs"][name]
    # The SDK drops what it does not know, so what survives the round trip is what the API takes.
    assert JobSettings.from_dict(job).as_dict() == job


def test_unity_catalog_knows_every_field(resolved: Bundle) -> None:
    from databricks.sdk.service.catalog import Privilege, SchemaInfo, VolumeInfo

    schema = dict(resolved["resources"]["schemas"]["rlm"])
    for grant in schema.pop("grants", []):  # a bundle's own key
        assert all(Privilege(privilege) for privilege in grant["privileges"])
        assert grant["principal"] == GIVEN["service_principal"]
    assert SchemaInfo.from_dict(schema).as_dict() == schema
    volume = resolved["resources"]["volumes"]["artifacts"]
    assert VolumeInfo.from_dict(volume).as_dict() == volume


def test_the_control_plane_is_one_continuous_instance_on_classic_compute(resolved: Bundle) -> None:
    job = resolved["resources"]["jobs"]["control_plane"]
    assert job["max_concurrent_runs"] == 1
    assert job["continuous"]["task_retry_mode"] == "NEVER"
    assert "schedule" not in job
    assert "trigger" not in job
    (task,) = job["tasks"]
    assert "depends_on" not in task
    assert not task.get("max_retries")  # a continuous job takes no task retry policy
    (cluster,) = job["job_clusters"]
    assert task["job_cluster_key"] == cluster["job_cluster_key"]
    assert cluster["new_cluster"]["num_workers"] == 0
    assert cluster["new_cluster"]["custom_tags"] == {"ResourceClass": "SingleNode"}
    assert cluster["new_cluster"]["spark_conf"]["spark.databricks.cluster.profile"] == "singleNode"


def test_only_prod_runs_by_itself_and_as_a_service_principal(bundle: Resolve) -> None:
    dev, prod = (bundle(target, **GIVEN) for target in TARGETS)
    assert dev["resources"]["jobs"]["control_plane"]["continuous"]["pause_status"] == "PAUSED"
    assert prod["resources"]["jobs"]["control_plane"]["continuous"]["pause_status"] == "UNPAUSED"
    assert prod["run_as"] == {"service_principal_name": GIVEN["service_principal"]}
    assert "run_as" not in dev
    scope = prod["resources"]["secret_scopes"]["model_keys"]
    assert scope["permissions"] == [{"level": "READ", "service_principal_name": GIVEN["service_principal"]}]
    assert dev["resources"]["secret_scopes"]["model_keys"]["name"] != scope["name"] == "adk-secrets"


def test_the_warehouse_must_be_named(bundle: Resolve) -> None:
    with pytest.raises(AssertionError, match="warehouse_http_path"):
        bundle("dev")


def test_the_environment_of_the_control_plane_is_what_its_settings_read(resolved: Bundle) -> None:
    resources = resolved["resources"]
    environ = resources["jobs"]["control_plane"]["job_clusters"][0]["new_cluster"]["spark_env_vars"]
    settings = from_environment(environ)
    assert settings.namespace.catalog == resources["schemas"]["rlm"]["catalog_name"]
    assert settings.namespace.schema == resources["schemas"]["rlm"]["name"]
    assert settings.namespace.volume == resources["volumes"]["artifacts"]["name"]
    assert settings.secret_scope == resources["secret_scopes"]["model_keys"]["name"]
    assert settings.warehouse_http_path == GIVEN["warehouse_http_path"]
    assert settings.model == "gemini-2.5-pro"
    documented = set(re.findall(r"``((?:ADK|RLM)_\w+)``", from_environment.__doc__ or ""))
    assert {name for name in environ if name.startswith(("ADK_", "RLM_"))} <= documented


def test_secrets_are_references_and_not_values(source: Bundle, resolved: Bundle) -> None:
    scope = resolved["resources"]["secret_scopes"]["model_keys"]["name"]
    environ = resolved["resources"]["jobs"]["control_plane"]["job_clusters"][0]["new_cluster"][
        "spark_env_vars"
    ]
    keys = {name: value for name, value in environ.items() if name.endswith(("_KEY", "_TOKEN", "_SECRET"))}
    assert keys == {"GOOGLE_API_KEY": f"{{{{secrets/{scope}/google-api-key}}}}"}
    assert "task_environment_vars" not in str(source)
    assert "environment_variables" not in str(source)  # serverless ones take no secret references


def test_the_executor_takes_what_the_harness_takes(resolved: Bundle) -> None:
    from executor_harness.verify import parse

    job = resolved["resources"]["jobs"]["executor"]
    (task,) = job["tasks"]
    assert task["max_retries"] == 0
    assert task["disable_auto_optimization"] is True
    names = {parameter["name"] for parameter in job["parameters"]}
    given = {
        "run_id": "r1",
        "iteration": "2",
        "attempt": "1",
        "manifest": "/Volumes/main/rlm/artifacts/scratchpad/run_r1/iter_2/manifest.json",
        "request_sha256": "a" * 64,
        "harness": "/Workspace/files",
    }
    assert names == set(given)
    arguments = [
        re.sub(r"\{\{job\.parameters\.(\w+)\}\}", lambda match: given[match[1]], parameter)
        for parameter in task["spark_python_task"]["parameters"]
    ]
    assert parse(arguments).manifest == given["manifest"]
    assert "{{job.run_id}}" in arguments  # resolved by the platform


def test_files_that_are_named_exist(root: Path, resolved: Bundle) -> None:
    (task,) = resolved["resources"]["jobs"]["executor"]["tasks"]
    assert (root / "jobs" / task["spark_python_task"]["python_file"]).resolve().is_file()
    assert all((root / path).is_dir() for path in resolved["sync"]["paths"])


def test_the_wheel_is_built_anew_and_versioned_at_every_deployment(root: Path, resolved: Bundle) -> None:
    (artifact,) = resolved["artifacts"].values()
    assert artifact["type"] == "whl"
    assert artifact["dynamic_version"] is True
    (task,) = resolved["resources"]["jobs"]["control_plane"]["tasks"]
    assert {"whl": "../dist/*.whl"} in task["libraries"]
    packages = [library["pypi"]["package"] for library in task["libraries"] if "pypi" in library]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert packages == project["optional-dependencies"]["litellm"]


def test_entry_points_are_installed(resolved: Bundle) -> None:
    wheel_task = resolved["resources"]["jobs"]["control_plane"]["tasks"][0]["python_wheel_task"]
    distribution = importlib.metadata.distribution(wheel_task["package_name"])
    assert distribution.name == DISTRIBUTION
    scripts = {entry.name: entry for entry in distribution.entry_points if entry.group == "console_scripts"}
    assert callable(scripts[wheel_task["entry_point"]].load())


def test_the_control_plane_task_parses_its_parameters(resolved: Bundle) -> None:
    from databricks_rlm_agent.cli.arguments import parser

    wheel_task = resolved["resources"]["jobs"]["control_plane"]["tasks"][0]["python_wheel_task"]
    options = parser("0").parse_args(["orchestrate", *wheel_task["parameters"]])
    assert options.continuous


def test_the_wheel_has_both_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
        declared = archive.read(entry_points).decode()
        metadata = archive.read(entry_points.replace("entry_points.txt", "METADATA")).decode()
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "databricks_rlm_agent",
        "executor_harness",
    }
    # The local workspace is a distribution of its own: neither it nor what it stands on goes to a cluster.
    required = {name.lower() for name in re.findall(r"^Requires-Dist: ([\w.-]+)", metadata, re.MULTILINE)}
    assert not required & {"rlm-local-workspace", "starlette", "uvicorn", "deltalake", "pysail"}
    assert "databricks_rlm_agent/py.typed" in names
    assert "executor_harness/main.py" in names
    assert not [
        name for name in names if "test" in name.partition("/")[2].split("/")[0] or "__pycache__" in name
    ]
    assert "rlm-orchestrator = databricks_rlm_agent.cli.main:orchestrator" in declared
    assert "rlm-agent = databricks_rlm_agent.cli.main:main" in declared
