"""What a job finds around it: values in its parameters, folders, dbutils, libraries; and repairs of runs."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InvalidParameterValue
from databricks.sdk.service import compute, jobs
from local_workspace import WorkspaceInfo, keeper
from local_workspace.jobs import references
from lw_support import VOLUME, Programs

PRINT = "import json, sys; print(json.dumps(sys.argv[1:]))"


def printed(programs: Programs, run: jobs.Run, key: str = "main") -> Any:
    return json.loads(log_of(programs, run, key).strip().splitlines()[-1])


def log_of(programs: Programs, run: jobs.Run, key: str = "main") -> str:
    assert run.tasks
    (task,) = [task for task in run.tasks if task.task_key == key]
    assert task.run_id
    output = programs.client.jobs.get_run_output(task.run_id)
    assert output.error is None, (output.error, output.logs)
    return output.logs or ""


@pytest.mark.fault("C13")
def test_dynamic_values_of_a_job_are_filled_in(programs: Programs, client: WorkspaceClient) -> None:
    wanted = [
        "{{job.id}}", "{{job.name}}", "{{job.run_id}}", "{{job.repair_count}}", "{{job.trigger.type}}",
        "{{job.start_time.iso_date}}", "{{job.start_time.year}}", "{{job.parameters.day}}",
        "{{ job.parameters.`odd name` }}", "{{task.name}}", "{{task.run_id}}", "{{task.execution_count}}",
        "{{workspace.id}}", "{{workspace.url}}", "{{job_id}}", "{{task_key}}", "a {{job.id}} b {{task.name}}",
    ]  # fmt: skip
    python = jobs.SparkPythonTask(python_file=programs.put(PRINT), parameters=wanted)
    parameters = [
        jobs.JobParameterDefinition(name="day", default="{{job.start_time.iso_date}}"),
        jobs.JobParameterDefinition(name="odd name", default="x"),
    ]
    job_id = client.jobs.create(
        name="values", tasks=[jobs.Task(task_key="main", spark_python_task=python)], parameters=parameters
    ).job_id
    assert job_id
    run = programs.finish(client.jobs.run_now(job_id).run_id or 0)
    assert run.start_time
    assert run.tasks
    day = datetime.datetime.fromtimestamp(run.start_time / 1000, datetime.UTC).date().isoformat()
    assert printed(programs, run) == [
        str(job_id), "values", str(run.run_id), "0", "one_time", day, day[:4], day, "x", "main",
        str(run.tasks[0].run_id), "1", "1", client.config.host, str(job_id), "main", f"a {job_id} b main",
    ]  # fmt: skip
    assert [item.value for item in run.job_parameters or []] == [day, "x"]


@pytest.mark.fault("C13")
def test_what_names_no_dynamic_value_is_passed_literally(programs: Programs) -> None:
    literal = [
        "{{nobody.knows}}",
        "{{job.parameters.absent}}",
        "{{tasks.absent.run_id}}",
        "{{job.id}",
        "{{ 1 + 1 }}",
    ]
    assert printed(programs, programs.finish(programs.submit(PRINT, *literal))) == literal


@pytest.mark.fault("C13")
@pytest.mark.parametrize("wrong", ["{{job.naem}}", "{{task.values.x}}", "{{job.start_time.millenium}}"])
def test_an_invalid_value_below_a_known_namespace_is_refused(programs: Programs, wrong: str) -> None:
    with pytest.raises(InvalidParameterValue, match=r"Invalid dynamic value reference \{\{"):
        programs.submit(PRINT, wrong)


@pytest.mark.fault("C13")
@pytest.mark.fault("D4")
def test_values_that_a_task_leaves_reach_later_tasks(programs: Programs, client: WorkspaceClient) -> None:
    leaves = "from databricks.sdk.runtime import dbutils\ndbutils.jobs.taskValues.set('rows', {'n': 3})\n"
    reads = (
        "from databricks.sdk.runtime import dbutils\nimport json, sys\nvalues = dbutils.jobs.taskValues\n"
        "other = values.get(taskKey='a', key='no', default=7)\n"
        "print(json.dumps([values.get('a', 'rows'), other, sys.argv[1:]]))\n"
    )
    wanted = ("{{tasks.a.values.rows}}", "{{tasks.a.result_state}}")
    depends = [jobs.TaskDependency(task_key="a")]
    tasks = [
        programs.task(leaves, key="a"),
        programs.task(reads, *wanted, key="b", depends_on=depends),
        programs.task(reads, "{{tasks.a.values.absent}}", key="c", depends_on=depends),
    ]
    run = programs.finish(client.jobs.submit(run_name="values", tasks=tasks).run_id)
    assert printed(programs, run, "b") == [{"n": 3}, 7, ['{"n": 3}', "success"]]
    assert run.tasks
    refused = next(task for task in run.tasks if task.task_key == "c")
    assert refused.run_id
    assert "'absent' of task 'a' is not set" in str(client.jobs.get_run_output(refused.run_id).error)


def test_every_form_of_a_reference_is_known() -> None:
    references.check(
        ["{{job.trigger.time.iso_datetime}}", "{{tasks.`a b`.values.x}}", {"k": "{{workspace.id}}"}]
    )


SEES = f"""
import json, os, pathlib, shutil, subprocess
import pandas, pyarrow.parquet
folder = "{VOLUME}/seen"
os.makedirs(folder, exist_ok=True)
with open(folder + "/a.txt", "w") as file:
    file.write("one")
pathlib.Path(folder, "b.txt").write_text("two")
shutil.copy(folder + "/a.txt", folder + "/c.txt")
os.rename(folder + "/c.txt", folder + "/d.txt")
pandas.DataFrame({{"x": [1, 2]}}).to_csv(folder + "/x.csv", index=False)
NATIVE
os.makedirs("/Workspace/Shared/made", exist_ok=True)
pathlib.Path("/Workspace/Shared/made/note.txt").write_text("note")
print(json.dumps({{
    "list": sorted(os.listdir(folder)), "text": pathlib.Path(folder, "d.txt").read_text(),
    "glob": sorted(path.name for path in pathlib.Path(folder).glob("*.txt")),
    "walk": [root for root, _, _ in os.walk(folder)],
    "csv": int(pandas.read_csv(folder + "/x.csv").x.sum()), "exists": os.path.isdir("/Volumes/main"),
    **native,
}}))
"""
NATIVE = """
pandas.DataFrame({"x": [1, 2]}).to_parquet(folder + "/x.parquet")
native = {
    "parquet": pyarrow.parquet.read_table(folder + "/x.parquet").num_rows,
    "shell": subprocess.run(["ls", folder + "/a.txt"], capture_output=True, text=True).returncode,
}
os.remove(folder + "/x.parquet")
"""
SEEN = {
    "list": ["a.txt", "b.txt", "d.txt", "x.csv"], "text": "one", "glob": ["a.txt", "b.txt", "d.txt"],
    "walk": [f"{VOLUME}/seen"], "csv": 3, "exists": True,
}  # fmt: skip


def mountable(folder: Path) -> bool:
    command = [sys.executable, "-I", "-S", keeper.__file__, "mount", *[str(folder)] * 4, "/bin/true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.fault("D4")
def test_a_job_sees_volumes_and_workspace_as_folders(
    programs: Programs, client: WorkspaceClient, info: WorkspaceInfo, tmp_path: Path
) -> None:
    mounted = mountable(tmp_path)
    run = programs.finish(programs.submit(SEES.replace("NATIVE", NATIVE if mounted else "native = {}")))
    assert printed(programs, run) == SEEN | ({"parquet": 2, "shell": 0} if mounted else {})
    assert Path(info.root, "Workspace/Shared/made/note.txt").read_text() == "note"
    assert client.files.download(f"{VOLUME}/seen/b.txt").contents.read() == b"two"  # type: ignore[union-attr]


@pytest.mark.fault("D4")
def test_pythons_functions_see_the_folders_where_nothing_can_be_mounted(tmp_path: Path) -> None:
    from local_workspace import jobs as package

    folder = Path(package.__file__).with_name("unmounted")
    (tmp_path / "v/main/default/files").mkdir(parents=True)
    (tmp_path / "w").mkdir()
    env = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(folder),
        "RLM_VOLUMES_ROOT": str(tmp_path / "v"), "RLM_WORKSPACE_ROOT": str(tmp_path / "w"),
        "RLM_DBFS_ROOT": str(tmp_path / "d"),
    }  # fmt: skip
    code = SEES.replace("NATIVE", "native = {}").replace("pyarrow.parquet", "io")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == SEEN
    assert (tmp_path / "w/Shared/made/note.txt").read_text() == "note"


@pytest.mark.fault("D4")
def test_the_runtime_gives_spark_and_dbutils(programs: Programs, client: WorkspaceClient) -> None:
    client.secrets.create_scope("runtime")
    client.secrets.put_secret("runtime", "k", string_value="hidden")
    code = f"""
import json
from databricks.sdk import WorkspaceClient
from databricks.sdk.runtime import dbutils, spark, sql
folder = "{VOLUME}/runtime"
dbutils.fs.mkdirs(folder + "/sub")
dbutils.fs.put(folder + "/a.txt", "content", overwrite=True)
dbutils.fs.cp(folder + "/a.txt", folder + "/b.txt")
dbutils.fs.mv(folder + "/b.txt", folder + "/c.txt")
listed = sorted((item.path, item.name, item.size, item.isDir()) for item in dbutils.fs.ls(folder))
dbutils.fs.rm(folder + "/c.txt")
dbutils.widgets.text("w", "default")
try:
    dbutils.widgets.get("absent")
except ValueError as error:
    missing = str(error)
print(json.dumps([
    spark.sql("SELECT 1 + 1 AS n").collect()[0].n, sql("SELECT 3 AS n").collect()[0].n,
    dbutils.fs.head(folder + "/a.txt"), listed, dbutils.secrets.get("runtime", "k") == "hidden",
    [item.key for item in dbutils.secrets.list("runtime")], dbutils.widgets.get("w"), missing,
    WorkspaceClient().dbutils is dbutils,
]))
"""
    assert printed(programs, programs.finish(programs.submit(code))) == [
        2, 3, "content",
        [
            [f"dbfs:{VOLUME}/runtime/a.txt", "a.txt", 7, False],
            [f"dbfs:{VOLUME}/runtime/c.txt", "c.txt", 7, False],
            [f"dbfs:{VOLUME}/runtime/sub/", "sub/", 0, True],
        ],
        True, ["k"], "default", "InputWidgetNotDefined: No input widget named absent is defined", True,
    ]  # fmt: skip


def wheel(folder: Path, version: str, needs: str = "") -> Path:
    path = folder / f"lwlib-{version}-py3-none-any.whl"
    info = f"lwlib-{version}.dist-info"
    requires = f"Requires-Dist: {needs}\n" if needs else ""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("lwlib/__init__.py", f"VERSION = '{version}'\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: lwlib\nVersion: {version}\n{requires}"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


IMPORTS = """
import json, lwlib, requests
from importlib.metadata import version
print(json.dumps([lwlib.VERSION, version("lwlib")]))
"""


@pytest.mark.fault("C12")
def test_wheels_of_volumes_and_workspace_files_are_installed(
    programs: Programs, client: WorkspaceClient, info: WorkspaceInfo
) -> None:
    for root, version in ((f"{info.root}{VOLUME}", "1.0"), (f"{info.root}/Workspace/Shared", "2.0")):
        Path(root).mkdir(parents=True, exist_ok=True)
        wheel(Path(root), version, "requests")
    library = compute.Library(whl=f"{VOLUME}/lwlib-1.0-py3-none-any.whl")
    run = programs.finish(programs.submit(IMPORTS, libraries=[library]))
    assert printed(programs, run) == ["1.0", "1.0"]
    spec = compute.Environment(
        environment_version="5", dependencies=["/Workspace/Shared/lwlib-2.0-py3-none-any.whl", "requests"]
    )
    environment = jobs.JobEnvironment(environment_key="e", spec=spec)
    task = programs.task(IMPORTS, environment_key="e")
    for _ in range(2):  # the second time the environment is there already
        run = programs.finish(client.jobs.submit(tasks=[task], environments=[environment]).run_id)
        assert printed(programs, run) == ["2.0", "2.0"]


@pytest.mark.fault("C12")
@pytest.mark.parametrize(
    ("libraries", "said"),
    [
        ([compute.Library(pypi=compute.PythonPyPiLibrary(package="./absent-library.whl"))], "absent-library"),
        ([compute.Library(jar="/Volumes/x.jar")], "Libraries of the kind 'jar' cannot be installed"),
        ([compute.Library(whl=f"{VOLUME}/absent.whl")], "absent.whl does not exist"),
    ],
)
def test_a_library_that_cannot_be_installed_ends_the_task_with_its_name(
    programs: Programs, libraries: list[compute.Library], said: str
) -> None:
    run = programs.finish(programs.submit("print(1)", libraries=libraries))
    assert run.status
    assert run.status.termination_details
    assert run.status.termination_details.code == jobs.TerminationCodeCode.LIBRARY_INSTALLATION_ERROR
    assert said in str(programs.output(run).error)


@pytest.mark.fault("D6")
def test_a_repair_runs_the_failed_tasks_again_within_the_same_run(
    programs: Programs, client: WorkspaceClient, info: WorkspaceInfo
) -> None:
    flag = f"{info.root}{VOLUME}/repair-{os.getpid()}"
    good = "from databricks.sdk.runtime import dbutils\ndbutils.jobs.taskValues.set('n', 1)"
    tasks = [
        programs.task(good, key="a"),
        programs.task(f"open({flag!r})", key="b"),
        programs.task(PRINT, "{{job.repair_count}}", "{{tasks.a.values.n}}", key="c"),
    ]
    tasks[2].depends_on = [jobs.TaskDependency(task_key="a"), jobs.TaskDependency(task_key="b")]
    run = programs.finish(client.jobs.submit(run_name="repair", tasks=tasks).run_id)
    assert run.state
    assert run.state.result_state == jobs.RunResultState.FAILED
    with pytest.raises(InvalidParameterValue, match="does not have: 'z'"):
        client.jobs.repair_run(run.run_id or 0, rerun_tasks=["z"])
    Path(flag).touch()
    repair = client.jobs.repair_run(run.run_id or 0, rerun_all_failed_tasks=True).response
    after = programs.finish(run.run_id or 0)
    assert after.state
    assert after.state.result_state == jobs.RunResultState.SUCCESS
    assert after.tasks
    attempts = [(task.task_key, task.attempt_number) for task in after.tasks]
    assert sorted(attempts) == [("a", 0), ("b", 0), ("b", 1), ("c", 0), ("c", 1)]
    last = {task.task_key: task for task in after.tasks}
    logs = client.jobs.get_run_output(last["c"].run_id or 0).logs
    assert logs == '["1", "1"]\n'
    shown = client.jobs.get_run(run.run_id or 0, include_history=True).repair_history
    assert shown
    kinds = [(item.type, item.id, item.state.result_state if item.state else None) for item in shown]
    assert kinds == [
        (jobs.RepairHistoryItemType.ORIGINAL, None, jobs.RunResultState.FAILED),
        (jobs.RepairHistoryItemType.REPAIR, repair.repair_id, jobs.RunResultState.SUCCESS),
    ]
    assert [len(item.task_run_ids or []) for item in shown] == [3, 2]
    with pytest.raises(InvalidParameterValue, match="latest_repair_id"):
        client.jobs.repair_run(run.run_id or 0, rerun_tasks=["a"])
    again = client.jobs.repair_run(
        run.run_id or 0, rerun_tasks=["a"], rerun_dependent_tasks=True, latest_repair_id=repair.repair_id
    )
    assert again.response.repair_id != repair.repair_id
    assert len(programs.finish(run.run_id or 0).tasks or []) == 7


@pytest.mark.fault("C14")
def test_a_failed_task_is_tried_again_as_often_as_it_says(programs: Programs, info: WorkspaceInfo) -> None:
    code = f"import os, pathlib; p = pathlib.Path({info.root!r} + '{VOLUME}/tries'); p.touch(); "
    code += "n = p.stat().st_size; p.write_text('x' * (n + 1)); assert n == 2"
    run = programs.finish(programs.submit(code, max_retries=2, min_retry_interval_millis=10))
    assert run.state
    assert run.state.result_state == jobs.RunResultState.SUCCESS
    assert [task.attempt_number for task in run.tasks or []] == [0, 1, 2]
    run = programs.finish(programs.submit("raise SystemExit(3)", max_retries=1))
    assert run.state
    assert run.state.result_state == jobs.RunResultState.FAILED
    assert len(run.tasks or []) == 2
