"""The workspace over https: the unmodified SDK, the SQL connector, and jobs, by its own certificate."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from cryptography import x509
from databricks import sql
from databricks.sdk.service import jobs
from local_workspace import Spawned, WorkspaceOptions, running, spawn, tls
from local_workspace.tls import certificate
from lw_support import eventually, sdk


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> object:
    with spawn(WorkspaceOptions(root=tmp_path_factory.mktemp("w"), tls=True)) as spawned:
        yield spawned


def test_the_sdk_and_the_connector_over_https(server: Spawned, monkeypatch: pytest.MonkeyPatch) -> None:
    info = server.info
    assert info.host.startswith("https://127.0.0.1:")
    assert running(Path(info.root)) == info
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", info.ca_file)
    assert sdk(info).current_user.me().user_name
    warehouse = sdk(info).warehouses.get("local").odbc_params
    assert warehouse
    assert (warehouse.protocol, f"https://{warehouse.hostname}:{warehouse.port}") == ("https", info.host)
    with (
        sql.connect(
            server_hostname=warehouse.hostname,
            _port=warehouse.port,
            http_path=info.http_path,
            access_token=info.token,
            _tls_trusted_ca_file=info.ca_file,
            enable_telemetry=False,
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT 41 + 1 AS n")
        assert cursor.fetchall() == [(42,)]


def test_a_client_that_does_not_know_the_certificate_is_refused(server: Spawned) -> None:
    with pytest.raises(requests.exceptions.SSLError, match="certificate verify failed"):
        requests.get(server.info.host, timeout=60)


def test_a_job_knows_the_certificate(server: Spawned, monkeypatch: pytest.MonkeyPatch) -> None:
    info = server.info
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", info.ca_file)
    program = Path(info.root, "Workspace", "p.py")
    program.write_text(
        "import os, ssl, urllib.request\nfrom databricks.sdk import WorkspaceClient\n"
        "print(WorkspaceClient().current_user.me().user_name)\n"
        "host = os.environ['DATABRICKS_HOST']\n"
        "print(urllib.request.urlopen(host + '/.well-known/databricks-config').status)\n"
        "print(len(ssl.create_default_context().get_ca_certs()) > 50)\n"
    )
    python = jobs.SparkPythonTask(python_file="/Workspace/p.py")
    client = sdk(info)
    run_id = client.jobs.submit(tasks=[jobs.SubmitTask(task_key="t", spark_python_task=python)]).run_id or 0
    run = eventually(lambda: client.jobs.get_run(run_id), lambda run: bool(run.end_time))
    logs = client.jobs.get_run_output(run.tasks[0].run_id).logs
    assert logs == "local@workspace.localhost\n200\nTrue\n"


def test_the_certificate_is_kept_and_its_key_is_private(tmp_path: Path) -> None:
    made = certificate(tmp_path)
    assert made.key.stat().st_mode & 0o777 == 0o600
    before = made.file.read_bytes()
    assert certificate(tmp_path).file.read_bytes() == before
    made.file.write_text("damaged")
    assert certificate(tmp_path).file.read_bytes() not in {before, b"damaged"}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.served, made.key)


def test_the_command_prints_the_path(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "local_workspace",
            "--root",
            str(tmp_path / "w"),
            "--tls",
            "--exit-with-parent",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert process.stdout
    lines = [process.stdout.readline() for _ in range(5)]
    process.communicate()
    path = tmp_path / "w" / ".workspace" / "certificate.pem"
    assert f"  REQUESTS_CA_BUNDLE={path}\n" in lines
    assert path.exists()


def test_the_server_shows_no_certificate_of_an_authority(tmp_path: Path) -> None:
    """Clients in Rust refuse one: Databricks' SQL kernel, uv, polars."""
    made = certificate(tmp_path)
    shown, authority = (x509.load_pem_x509_certificate(p.read_bytes()) for p in (made.served, made.file))
    assert not shown.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    shown.verify_directly_issued_by(authority)


@pytest.mark.parametrize("written", range(4))
def test_a_death_between_two_files_leaves_a_pair_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    certificate(tmp_path)
    real, left = tls.write_private, iter(range(written))

    def dies(path: Path, text: str) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(path, text)

    monkeypatch.setattr(tls, "write_private", dies)
    monkeypatch.setattr(tls, "_RENEW_DAYS", 10**5)  # it is time for new ones
    with pytest.raises(KeyboardInterrupt):
        certificate(tmp_path)
    monkeypatch.undo()
    made = certificate(tmp_path)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(made.served, made.key)
