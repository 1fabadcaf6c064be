"""From a task as submitted to the process to start: code, arguments, environment."""

from __future__ import annotations

import functools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_workspace import keeper
from local_workspace.errors import ApiError
from local_workspace.jobs import libraries, model
from local_workspace.jobs.model import Run, TaskRun
from local_workspace.jobs.process import Launch, start
from local_workspace.jobs.references import NotSetError, References, value_file
from local_workspace.jobs.scheduler import TaskRefusedError
from local_workspace.layout import Layout
from local_workspace.options import WorkspaceInfo

# Nothing of the server's environment reaches a job but this; least of all the keys of whoever started it.
INHERITED = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "USER", "LOGNAME", "LD_LIBRARY_PATH",
    "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "SSL_CERT_FILE",
)  # fmt: skip
_REFERENCE = re.compile(r"\{\{\s*secrets/([\w.-]+)/([\w.-]+)\s*\}\}")
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
    """Prepares job processes. `spark_remote` makes a task run's own Spark Connect URL, `trust` has variables
    that name the authorities to trust.
    """

    layout: Layout
    secret: Callable[[str, str], bytes | None]
    info: WorkspaceInfo
    spark_remote: Callable[[str], str]
    trust: Mapping[str, str]

    def prepare(self, run: Run, task: TaskRun, cwd: Path) -> Launch:
        """The process for a task. Raises TaskRefusedError when there is nothing that could run."""
        env = self._environment(run, task)
        wanted = _requirements(run, task)
        python, before = sys.executable, None
        if wanted:
            python, before = self._installed(wanted, env, cwd)
        argv = self._mounted([python, "-u", *self._program(run, task)], cwd)
        return Launch(argv=argv, env=env, cwd=cwd, mark=str(cwd.parent), before=before)

    def _installed(
        self, wanted: Sequence[str], env: Mapping[str, str], cwd: Path
    ) -> tuple[str, Launch | None]:
        """The interpreter that has the libraries, and the step that makes it, if it is not there yet."""
        try:
            folder = self.layout.environments / libraries.folder_name(wanted, self._resolved_library)
        except libraries.LibraryError as error:
            raise _refused("LIBRARY_INSTALLATION_ERROR", str(error)) from None
        if libraries.is_complete(folder):
            return libraries.python_of(folder), None
        libraries.write_requirements(folder, wanted)
        pip = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("PIP_") or name.upper() in libraries.PIP_VARIABLES
        }
        argv = self._mounted([sys.executable, str(libraries.__file__), str(folder)], cwd)
        step = Launch(argv=argv, env={**env, **pip}, cwd=cwd, mark=str(cwd.parent), libraries=tuple(wanted))
        return libraries.python_of(folder), step

    def _resolved_library(self, path: str) -> Path:
        try:
            return self.layout.resolve(path)
        except ApiError as problem:
            raise libraries.LibraryError(problem.message) from None

    @functools.cached_property
    def mounts(self) -> bool:
        """True where the system lets a job see the workspace's folders as `/Volumes` and `/Workspace`."""
        if sys.platform != "linux":
            return False
        with tempfile.TemporaryDirectory() as scratch:
            command = [*self._mounting(Path(scratch)), sys.executable, "-I", "-S", "-c", ""]
            with start(Launch(argv=command, env={}, cwd=Path(scratch), mark=""), grace_s=0) as process:
                return process.wait() == 0

    def _mounting(self, scratch: Path) -> list[str]:
        folders = (scratch, self.layout.volumes, self.layout.workspace, self.layout.dbfs)
        return [sys.executable, "-I", "-S", str(keeper.__file__), "mount", *map(str, folders)]

    def _mounted(self, argv: list[str], cwd: Path) -> list[str]:
        if not self.mounts:
            return argv
        scratch = cwd.parent / "root"
        scratch.mkdir(exist_ok=True)
        return [*self._mounting(scratch), *argv]

    def _program(self, run: Run, task: TaskRun) -> list[str]:
        spec, overrides = task.spec, run.overrides
        if isinstance(spec.get("spark_python_task"), dict):
            python = spec["spark_python_task"]
            source = python.get("source") or ("GIT" if run.settings.get("git_source") else "WORKSPACE")
            if source == "GIT":
                raise _refused(
                    "FEATURE_DISABLED", "The local workspace reads no Git repository: use WORKSPACE"
                )
            arguments = overrides.get("python_params") or python.get("parameters") or []
            path = self._file(str(python.get("python_file") or ""))
            return [str(path), *self._filled(arguments, run, task)]
        if isinstance(spec.get("python_wheel_task"), dict):
            wheel = spec["python_wheel_task"]
            names = [str(wheel.get(name) or "") for name in ("package_name", "entry_point")]
            if not all(names):
                raise _refused(
                    "INVALID_RUN_CONFIGURATION", "python_wheel_task needs package_name and entry_point"
                )
            return ["-c", _WHEEL_MAIN, *names, *self._filled(_wheel_arguments(wheel, run), run, task)]
        kind = next((name for name in spec if name.endswith("_task") and spec[name]), None)
        if kind:
            raise _refused(
                "FEATURE_DISABLED",
                f"{kind} is not supported by the local workspace: use spark_python_task or python_wheel_task",
            )
        raise _refused("INVALID_RUN_CONFIGURATION", f"Task {task.task_key} has no code to run")

    def _filled(self, arguments: Sequence[Any], run: Run, task: TaskRun) -> list[str]:
        """Arguments with their dynamic value references put in."""
        try:
            return [self.references.fill(str(item), run, task) for item in arguments]
        except NotSetError as error:
            raise _refused("INVALID_RUN_CONFIGURATION", str(error)) from None

    @property
    def references(self) -> References:
        """The dynamic value references of this workspace."""
        return References(host=self.info.host, task_value=self._task_value)

    def _values(self, run: Run) -> Path:
        return self.layout.runs / str(run.run_id) / "values"

    def _task_value(self, run: Run, task_key: str, name: str) -> str | None:
        try:
            return (self._values(run) / value_file(task_key, name)).read_text()
        except FileNotFoundError:
            return None

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
        for name, value in _variables(run, task).items():
            env[name] = _REFERENCE.sub(self._secret_text, value)
        onpath = ["onpath"] if self.mounts else ["onpath", "unmounted"]
        folders = [str(Path(__file__).with_name(name)) for name in onpath]
        env["PYTHONPATH"] = os.pathsep.join([*folders, *filter(None, [env.get("PYTHONPATH")])])
        env |= {
            "SPARK_REMOTE": self.spark_remote(str(task.run_id)),
            "DATABRICKS_HOST": self.info.host,
            "DATABRICKS_TOKEN": self.info.token,
            **self.trust,
            "RLM_VOLUMES_ROOT": str(self.layout.volumes),
            "RLM_WORKSPACE_ROOT": str(self.layout.workspace),
            "RLM_DBFS_ROOT": str(self.layout.dbfs),
            "RLM_LOCAL_TASK_VALUES": str(self._values(run)),
            "RLM_LOCAL_TASK_KEY": task.task_key,
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


def _refused(code: str, message: str) -> TaskRefusedError:
    return TaskRefusedError(model.failed(code, message))


def _wheel_arguments(wheel: Mapping[str, Any], run: Run) -> list[str]:
    """Named parameters get the job's besides, which win, as on Databricks for tasks with keys."""
    named = run.overrides.get("python_named_params") or wheel.get("named_parameters")
    if named:
        return [f"--{key}={value}" for key, value in {**named, **run.parameters}.items()]
    return list(run.overrides.get("python_params") or wheel.get("parameters") or [])


def _requirements(run: Run, task: TaskRun) -> list[str]:
    """The libraries that a task needs besides the server's own."""
    environment = _shared(run, task, "environments", "environment_key")
    try:
        return libraries.requirements(task.spec.get("libraries"), environment.get("spec") or {})
    except libraries.LibraryError as error:
        raise _refused("LIBRARY_INSTALLATION_ERROR", str(error)) from None


def _variables(run: Run, task: TaskRun) -> dict[str, str]:
    """The variables of a task's cluster, and over them those of its serverless environment."""
    cluster: Any = task.spec.get("new_cluster")
    if not cluster:
        cluster = _shared(run, task, "job_clusters", "job_cluster_key").get("new_cluster") or {}
    serverless = _shared(run, task, "environment_variables", "environment_variables_key", required=False)
    of_both = {
        **(cluster.get("spark_env_vars") or {}),
        **((serverless.get("spec") or {}).get("variables") or {}),
    }
    return {str(name): str(value) for name, value in of_both.items()}


def _shared(
    run: Run, task: TaskRun, setting: str, key_name: str, *, required: bool = True
) -> Mapping[str, Any]:
    """The item of a setting of the run that a task refers to by `key_name`; empty where it refers to none."""
    key = task.spec.get(key_name)
    for item in run.settings.get(setting) or []:
        if key and item.get(key_name) == key:
            return dict(item)
    if key and required:
        raise _refused("INVALID_RUN_CONFIGURATION", f"No item of {setting} has the {key_name} {key!r}")
    return {}
