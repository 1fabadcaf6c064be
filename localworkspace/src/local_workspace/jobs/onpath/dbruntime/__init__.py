"""What Databricks' runtime gives to programs, for jobs of the local workspace.

Its folder is on the path of job processes only. `databricks.sdk.runtime` and `WorkspaceClient().dbutils` look
for this package and take `spark`, `dbutils` and the others from it (databricks-sdk 0.156).
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

__all__ = ["UserNamespaceInitializer"]

# What Databricks sets in a cluster's sessions, and programs read. No logs are delivered anywhere.
_TAGS = {"clusterId": "local", "clusterName": "This machine", "clusterLogDeliveryEnabled": ""}
# "The JSON representation of the value cannot exceed 48 KiB" (Databricks' documentation of task values).
_LARGEST_VALUE = 48 * 1024
_MISSING = object()


class DbUtils:
    """The utilities of a job: `fs` and `secrets` by the workspace's API, `jobs.taskValues` by files.

    Others say that they are not there.
    """

    @functools.cached_property
    def _remote(self) -> Any:
        from databricks.sdk.dbutils import RemoteDbUtils

        return RemoteDbUtils()

    @functools.cached_property
    def fs(self) -> Any:
        """Files of the workspace: `ls`, `head`, `put`, `cp`, `mv`, `rm`, `mkdirs`."""
        return _file_system(self._remote.fs)

    @property
    def secrets(self) -> Any:
        """Secrets: `get`, `getBytes`, `list`, `listScopes`."""
        return self._remote.secrets

    @functools.cached_property
    def widgets(self) -> Widgets:
        """Parameters that the program declares."""
        return Widgets()

    @functools.cached_property
    def jobs(self) -> JobsUtility:
        """`taskValues`."""
        return JobsUtility()

    @functools.cached_property
    def notebook(self) -> Notebook:
        """`exit`."""
        return Notebook()

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"dbutils.{name} is not supported in jobs of the local workspace")


def _file_system(remote: Any) -> Any:
    """The SDK's file utility, whose listings are given as those of the runtime: folders end with a slash."""
    from collections import namedtuple

    class FileInfo(namedtuple("FileInfo", ["path", "name", "size", "modificationTime"])):
        def isDir(self) -> bool:  # noqa: N802 - Databricks' name
            return str(self.name).endswith("/")

        def isFile(self) -> bool:  # noqa: N802 - Databricks' name
            return not self.isDir()

    def ls(dir: str) -> list[Any]:  # noqa: A002 - Databricks' name
        found = []
        for item in remote._dbfs.list(dir):
            end = "/" if item.is_dir else ""
            path = item.path if ":" in item.path else f"dbfs:{item.path}"
            name = os.path.basename(item.path.rstrip("/"))  # noqa: PTH119 - a path of the workspace
            modified = item.modification_time or 0
            found.append(FileInfo(path.rstrip("/") + end, name + end, item.file_size or 0, modified))
        return found

    remote.ls = ls
    return remote


class Widgets:
    """Widgets have the values that the program declares: a job's parameters do not reach a Python task's."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def text(self, name: str, defaultValue: str, label: str | None = None) -> None:  # noqa: ARG002, N803 - Databricks' name
        """Declare a widget with a default."""
        self._values.setdefault(name, str(defaultValue))

    def dropdown(self, name: str, defaultValue: str, choices: Any, label: str | None = None) -> None:  # noqa: ARG002, N803 - Databricks' name
        """Declare a widget with a default out of choices."""
        if defaultValue not in choices:
            raise ValueError(f"The widget {name!r} has no choice {defaultValue!r}")
        self._values.setdefault(name, str(defaultValue))

    combobox = multiselect = dropdown

    def get(self, name: str) -> str:
        """Return a widget's value. Raises ValueError where it was not declared."""
        if name not in self._values:
            raise ValueError(f"InputWidgetNotDefined: No input widget named {name} is defined")
        return self._values[name]

    def getAll(self) -> dict[str, str]:  # noqa: N802 - Databricks' name
        """Return all values by name."""
        return dict(self._values)

    def getArgument(self, name: str, defaultValue: str | None = None) -> str | None:  # noqa: N802, N803 - Databricks' name
        """Return a widget's value, or the default."""
        return self._values.get(name, defaultValue)

    def remove(self, name: str) -> None:
        """Forget a widget."""
        self._values.pop(name, None)

    def removeAll(self) -> None:  # noqa: N802 - Databricks' name
        """Forget all widgets."""
        self._values.clear()


class JobsUtility:
    """`dbutils.jobs`."""

    def __init__(self) -> None:
        self.taskValues = TaskValues(  # Databricks' name
            Path(os.environ["RLM_LOCAL_TASK_VALUES"]), os.environ["RLM_LOCAL_TASK_KEY"]
        )


class TaskValues:
    """Small values that a task leaves for later tasks of its run, a file each."""

    def __init__(self, folder: Path, task_key: str) -> None:
        self._folder, self._task_key = folder, task_key

    def _path(self, task_key: str, key: str) -> Path:
        return self._folder / quote(task_key, safe="") / f"{quote(key, safe='')}.json"

    def set(self, key: str, value: Any) -> None:
        """Leave a value that JSON can express, at most 48 KiB of it."""
        text = json.dumps(value)
        size = len(text.encode())
        if size > _LARGEST_VALUE:
            raise ValueError(f"The task value {key!r} has {size} bytes as JSON; the limit is 48 KiB")
        path = self._path(self._task_key, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        temporary.write_text(text)
        temporary.replace(path)

    def get(self, taskKey: str, key: str, default: Any = _MISSING, debugValue: Any = None) -> Any:  # noqa: ARG002, N803 - Databricks' names
        """Return the value that a task has left. Raises ValueError where there is none and no default."""
        try:
            return json.loads(self._path(taskKey, key).read_text())
        except FileNotFoundError:
            if default is _MISSING or default is None:
                raise ValueError(
                    f"No task value {key!r} of the task {taskKey!r} was set in this run"
                ) from None
            return default


class Notebook:
    """`dbutils.notebook`."""

    def exit(self, value: str) -> NoReturn:
        """End the program with success."""
        print(value)  # noqa: T201 - what a notebook would return; a Python task has its log
        sys.exit(0)

    def run(self, path: str, *_arguments: Any, **_options: Any) -> NoReturn:
        """Refuse: there are no notebooks here."""
        raise NotImplementedError(f"The local workspace runs no notebooks: {path}")


def _connect() -> Any:
    from pyspark.sql import SparkSession

    session = SparkSession.builder.getOrCreate()
    for name, value in _TAGS.items():
        session.conf.set(f"spark.databricks.clusterUsageTags.{name}", value)
    return session


class _LaterSession:
    """The Spark session, connected when it is first used: importing the runtime should cost nothing."""

    @functools.cached_property
    def _session(self) -> Any:
        return _connect()

    @property  # type: ignore[misc] # it is read only: for isinstance(spark, SparkSession)
    def __class__(self) -> Any:
        return type(self._session)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def __repr__(self) -> str:
        return repr(self._session)


def _display(value: Any = None, *_arguments: Any, **_options: Any) -> None:
    """Print a table or any other value: a job has no notebook to show it in."""
    if hasattr(value, "show"):
        value.show()
    else:
        print(value)  # noqa: T201 - the purpose


def _udf(*arguments: Any, **options: Any) -> Any:
    from pyspark.sql.functions import udf

    return udf(*arguments, **options)


@functools.cache
def _globals() -> dict[str, Any]:
    spark, dbutils = _LaterSession(), DbUtils()
    return {
        "spark": spark,
        "dbutils": dbutils,
        "sql": lambda *arguments, **options: spark.sql(*arguments, **options),
        "table": lambda name: spark.table(name),
        "udf": _udf,
        "display": _display,
        "displayHTML": _display,
        "getArgument": dbutils.widgets.getArgument,
        # Spark Connect has neither, as on serverless compute.
        "sc": None,
        "sqlContext": None,
    }


class UserNamespaceInitializer:
    """Where the SDK asks for the names of the runtime."""

    @classmethod
    def getOrCreate(cls) -> UserNamespaceInitializer:  # noqa: N802 - Databricks' name
        """Return the one initializer."""
        return cls()

    def get_namespace_globals(self) -> dict[str, Any]:
        """Return the names that a notebook would have."""
        return _globals()
