"""From a task as submitted to the process to start: code, arguments, environment."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_workspace.errors import ApiError
from local_workspace.jobs import model
from local_workspace.jobs.model import Run, TaskRun
from local_workspace.jobs.process import Launch
from local_workspace.jobs.scheduler import TaskRefusedError
from local_workspace.layout import Layout

# Nothing of the server's environment reaches a job but this; least of all the keys of whoever started it.
INHERITED = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "USER", "LOGNAME", "LD_LIBRARY_PATH",
    "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "SSL_CERT_FILE",
)  # fmt: skip
_REFERENCE = re.compile(r"\{\{\s*secrets/([\w.-]+)/([\w.-]+)\s*\}\}")
_UNSUPPORTED = (
    "notebook_task", "sql_task", "spark_jar_task", "spark_submit_task", "dbt_task", "pipeline_task",
    "run_job_task", "condition_task", "for_each_task",
)  # fmt: skip

# Databricks calls the entry point of the package's metadata, else the function of that name in the package.
# The file: pyspark takes a main module without one for its own doctests, which need a whole Spark.
_WHEEL_MAIN = """
import importlib, importlib.metadata, sys
package, name = sys.argv[1:3]
__file__ = name
sys.argv = [name, *sys.argv[3:]]
try:
    found = [p for p in importlib.metadata.distribution(package).entry_points if p.name == name]
except importlib.metadata.PackageNotFoundError:
    found = []
if found:
    function = found[0].load()
else:
    function = getattr(importlib.import_module(package.replace("-", "_")), name)
function()
"""


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Prepares job processes. `host` is known once the server listens; `spark_remote` makes a task run's own
    Spark Connect URL.
    """

    layout: Layout
    secret: Callable[[str, str], bytes | None]
    host: str
    token: str
    spark_remote: Callable[[str], str]

    def prepare(self, run: Run, task: TaskRun, cwd: Path) -> Launch:
        """The process for a task. Raises TaskRefusedError when there is nothing that could run."""
        argv = [sys.executable, "-u", *self._program(run, task)]
        return Launch(argv=argv, env=self._environment(run, task), cwd=cwd, mark=str(cwd.parent))

    def _program(self, run: Run, task: TaskRun) -> list[str]:
        spec, overrides = task.spec, run.overrides
        if isinstance(spec.get("spark_python_task"), dict):
            python = spec["spark_python_task"]
            arguments = overrides.get("python_params") or python.get("parameters") or []
            path = self._file(str(python.get("python_file") or ""))
            return [str(path), *_resolved(arguments, run)]
        if isinstance(spec.get("python_wheel_task"), dict):
            wheel = spec["python_wheel_task"]
            names = [str(wheel.get(name) or "") for name in ("package_name", "entry_point")]
            if not all(names):
                raise _refused(
                    "INVALID_RUN_CONFIGURATION", "python_wheel_task needs package_name and entry_point"
                )
            return ["-c", _WHEEL_MAIN, *names, *_resolved(_wheel_arguments(wheel, overrides), run)]
        kind = next((name for name in _UNSUPPORTED if spec.get(name)), None)
        if kind:
            raise _refused(
                "FEATURE_DISABLED",
                f"{kind} is not supported by the local workspace: use spark_python_task or python_wheel_task",
            )
        raise _refused("INVALID_RUN_CONFIGURATION", f"Task {task.task_key} has no code to run")

    def _file(self, path: str) -> Path:
        try:
            found = self.layout.resolve(path)
        except ApiError as problem:
            raise _refused("INVALID_RUN_CONFIGURATION", problem.message) from None
        if not found.is_file():
            raise _refused("RESOURCE_NOT_FOUND", f"Cannot read the python file {path}: it does not exist")
        return found

    def _environment(self, run: Run, task: TaskRun) -> dict[str, str]:
        env = {name: os.environ[name] for name in INHERITED if name in os.environ}
        for name, value in {**_cluster_variables(run, task), **_serverless_variables(run, task)}.items():
            env[name] = _REFERENCE.sub(self._secret_text, value)
        wheels = [str(path) for path in self._wheels(task)]
        if wheels:
            env["PYTHONPATH"] = os.pathsep.join([*wheels, *filter(None, [env.get("PYTHONPATH")])])
        env |= {
            "SPARK_REMOTE": self.spark_remote(str(task.run_id)),
            "DATABRICKS_HOST": self.host,
            "DATABRICKS_TOKEN": self.token,
            "RLM_VOLUMES_ROOT": str(self.layout.volumes),
            # Bytecode of modules that lie in a Volume must not appear as files there; what is installed has
            # its bytecode already, which a cache folder of our own would make Python compile again.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        # The SDK and others take this variable for proof of being on Databricks, dbutils and all.
        env.pop("DATABRICKS_RUNTIME_VERSION", None)
        return env

    def _secret_text(self, match: re.Match[str]) -> str:
        scope, key = match.groups()
        value = self.secret(scope, key)
        if value is None:
            raise _refused(
                "INVALID_CLUSTER_REQUEST",
                f"Secret does not exist with scope: {scope} and key: {key}, referenced in spark_env_vars",
            )
        return value.decode("utf-8", "replace")

    def _wheels(self, task: TaskRun) -> list[Path]:
        """Wheel libraries that lie in the workspace (a pure wheel is importable as it is)."""
        found = []
        for library in task.spec.get("libraries") or []:
            whl = library.get("whl") if isinstance(library, dict) else None
            if not whl:
                continue  # pypi and the like: the environment of the workspace serves
            try:
                path = self.layout.resolve(str(whl))
            except ApiError as problem:
                raise _refused("LIBRARY_INSTALLATION_ERROR", problem.message) from None
            if not path.is_file():
                raise _refused("LIBRARY_INSTALLATION_ERROR", f"Library {whl} does not exist")
            found.append(path)
        return found


def _refused(code: str, message: str) -> TaskRefusedError:
    return TaskRefusedError(model.failed(code, message))


def _wheel_arguments(wheel: Mapping[str, Any], overrides: Mapping[str, Any]) -> list[str]:
    named = overrides.get("python_named_params") or wheel.get("named_parameters")
    if named:
        return [f"--{key}={value}" for key, value in named.items()]
    return list(overrides.get("python_params") or wheel.get("parameters") or [])


def _resolved(arguments: Sequence[Any], run: Run) -> list[str]:
    """Arguments with `{{job.parameters.NAME}}`, `{{job.run_id}}` and `{{job.id}}` put in."""
    known = {f"job.parameters.{name}": value for name, value in run.parameters.items()}
    known |= {"job.run_id": str(run.run_id), "job.id": str(run.job_id)}

    def value(match: re.Match[str]) -> str:
        return known.get(match.group(1), match.group(0))

    return [re.sub(r"\{\{\s*([\w.]+)\s*\}\}", value, str(item)) for item in arguments]


def _cluster_variables(run: Run, task: TaskRun) -> dict[str, str]:
    cluster: Any = task.spec.get("new_cluster")
    key = task.spec.get("job_cluster_key")
    if not cluster and key:
        shared = run.settings.get("job_clusters") or []
        cluster = next(
            (item.get("new_cluster") for item in shared if item.get("job_cluster_key") == key), None
        )
        if cluster is None:
            raise _refused("INVALID_RUN_CONFIGURATION", f"No job cluster is named {key!r}")
    variables = (cluster or {}).get("spark_env_vars") or {}
    return {str(name): str(value) for name, value in variables.items()}


def _serverless_variables(run: Run, task: TaskRun) -> dict[str, str]:
    key = task.spec.get("environment_variables_key")
    for item in run.settings.get("environment_variables") or []:
        if key and item.get("environment_variables_key") == key:
            variables = (item.get("spec") or {}).get("variables") or {}
            return {str(name): str(value) for name, value in variables.items()}
    return {}
