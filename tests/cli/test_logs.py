"""Log lines: what they say, what they belong to, and what they must not show."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent import logs
from databricks_rlm_agent.cli import arguments
from databricks_rlm_agent.cli import main as entrypoints
from databricks_rlm_agent.cli.arguments import add_log_options
from databricks_rlm_agent.cli.main import main
from databricks_rlm_agent.secrets import Secret

CANARY = "dapi-canary-0123456789abcdef"
OURS = "databricks_rlm_agent.controller.tick"


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The logging of this process, and its hidden values, as they were."""
    monkeypatch.setattr(logs, "_secrets", {})
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def lines() -> Callable[..., list[dict[str, Any]]]:
    """Sets up JSON lines when first called; then, and at each call, returns what was logged so far."""
    stream = io.StringIO()

    def read() -> list[dict[str, Any]]:
        if not any(getattr(handler, "stream", None) is stream for handler in logging.getLogger().handlers):
            # Not in the fixture: pytest sets the root's level anew for the test itself.
            logs.configure(level=logging.INFO, format="json", stream=stream)
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    return read


class Awkward:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def test_a_line_says_what_and_to_which_run(lines: Callable[..., list[dict[str, Any]]]) -> None:
    assert lines() == []
    with logs.bound(run="r1", controller="c1"), logs.bound(iteration=2, attempt=1, epoch=5):
        logging.getLogger(OURS).warning("%s; it is tried again", "a\nfault")
    logging.getLogger(OURS).info("done")
    first, second = lines()
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "WARNING",
        "logger": OURS,
        "message": "a\nfault; it is tried again",
        "run": "r1",
        "controller": "c1",
        "iteration": 2,
        "attempt": 1,
        "epoch": 5,
    }
    assert set(second) == {"time", "level", "logger", "message"}


def test_text_ends_with_what_it_belongs_to() -> None:
    stream = io.StringIO()
    logs.configure(level=logging.INFO, stream=stream)
    with logs.bound(run="r1", iteration=2, attempt=None):
        logging.getLogger(OURS).warning("It is tried again.")
    assert stream.getvalue().endswith(f"WARNING {OURS}: It is tried again. [run r1 iteration 2]\n")


def test_an_error_comes_with_its_traceback(lines: Callable[..., list[dict[str, Any]]]) -> None:
    assert lines() == []
    try:
        raise ValueError(f"no {CANARY}")
    except ValueError:
        logs.hide(Secret(CANARY))
        logging.getLogger(OURS).exception("It broke.")
    (line,) = lines()
    assert line["error"] == "ValueError: no ***"
    assert "Traceback" in line["traceback"]
    assert CANARY not in json.dumps(line)


@pytest.mark.parametrize("form", logs.FORMATS)
def test_no_hidden_value_is_shown(form: str) -> None:
    stream = io.StringIO()
    logs.configure(level=logging.INFO, format=form, stream=stream, vendors=True)
    odd = 'pass"word\\ü'
    logs.hide(Secret(CANARY), Secret(odd))
    with logs.bound(run=CANARY):
        logging.getLogger("urllib3").info("Authorization: Bearer %s", CANARY)
        try:
            raise RuntimeError(odd)
        except RuntimeError:
            logging.getLogger(OURS).error("%r said %s", {"token": CANARY}, odd, exc_info=True)
    said = stream.getvalue()
    assert said.count("***") >= 5
    assert CANARY not in said
    assert odd not in said
    assert "pass" not in said.replace("test_no", "").replace(__file__, "").partition("Traceback")[0]


def test_only_the_newest_hidden_values_are_kept() -> None:
    for number in range(200):
        logs.hide(Secret(f"token-{number:03}"))
    assert len(logs._secrets) < 100
    assert logs.masked("token-199") == "***"


@pytest.mark.parametrize("form", logs.FORMATS)
@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("%d", ("x",)),
        ("%s %s", ("one",)),
        ("%s", (Awkward(),)),
        (Awkward(), ()),
        ("lone \ud800 surrogate", ()),
        ("\x00\u2028\r\n", ()),
        ({"a": 1}, ()),
    ],
    ids=["type", "count", "awkward", "awkward message", "surrogate", "line ends", "dict"],
)
def test_whatever_is_logged_makes_one_record(
    form: str, message: Any, arguments: tuple[Any, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace", newline="")
    logs.configure(level=logging.INFO, format=form, stream=stream)
    with logs.bound(run=Awkward(), iteration=float("nan")):
        logging.getLogger(OURS).info(message, *arguments)
    stream.flush()
    said = stream.buffer.getvalue().decode()
    assert "does not print: RuntimeError" in said
    assert capsys.readouterr().err == ""  # where logging tells of formatters that failed
    if form == "json":
        assert said.count("\n") == 1
        assert json.loads(said)["level"] == "INFO"


@given(
    st.one_of(st.text(), st.binary(), st.none(), st.floats(), st.lists(st.text())),
    st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.floats(), st.binary(), st.none())),
)
def test_any_line_is_one_json_object(message: Any, fields: dict[str, Any]) -> None:
    record = logging.LogRecord(OURS, logging.INFO, "", 1, message, None, None)
    with logs.bound(**fields):
        line = logs.JsonFormatter().format(record)
    assert len(line.splitlines()) == 1
    found = json.loads(line)
    assert (found["level"], found["logger"]) == ("INFO", OURS)
    assert set(found) >= {"time", "message"}


def test_fields_follow_coroutines_and_their_threads(lines: Callable[..., list[dict[str, Any]]]) -> None:
    from databricks_rlm_agent.planner.planner import shared_loop

    async def work(name: str) -> None:
        with logs.bound(iteration=name):
            await asyncio.sleep(0)
            await asyncio.to_thread(logging.getLogger(OURS).info, name)

    async def both() -> None:
        await asyncio.gather(work("a"), work("b"))

    assert lines() == []
    with logs.bound(run="r1"):
        shared_loop().run(both())
    assert [(line["run"], line["iteration"]) for line in lines()] in (
        [("r1", "a"), ("r1", "b")],
        [("r1", "b"), ("r1", "a")],
    )
    assert logs.fields() == {}


def test_vendors_are_heard_when_they_warn_or_are_asked() -> None:
    stream = io.StringIO()
    logs.configure(level=logging.INFO, stream=stream)
    for name in ("some.vendor", "databricks.sdk.core", OURS):
        logging.getLogger(name).info("info of %s", name)
        logging.getLogger(name).warning("warning of %s", name)
    said = [line.rpartition(" of ")[0].rpartition(" ")[2] for line in stream.getvalue().splitlines()]
    assert said == ["warning", "info", "warning"]
    logs.configure(level=logging.INFO, stream=stream, vendors=True)
    logging.getLogger("some.vendor").info("asked for")
    assert stream.getvalue().count("asked for") == 1


def test_warnings_are_lines_too(lines: Callable[..., list[dict[str, Any]]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert lines() == []
        warnings.warn("look out", stacklevel=1)
    (line,) = lines()
    assert line["logger"] == "py.warnings"
    assert "look out" in line["message"]


def run_main(monkeypatch: pytest.MonkeyPatch, work: Callable[[], int], **options: Any) -> int:
    """``main`` with a command that does ``work``."""

    def parser(_version: str) -> argparse.ArgumentParser:
        made = argparse.ArgumentParser()
        made.add_argument("words", nargs="*")
        made.set_defaults(command_path="logged_command:work", json=False, debug=False)
        add_log_options(made)
        return made

    monkeypatch.setattr(arguments, "parser", parser)
    monkeypatch.setattr("importlib.import_module", lambda _: argparse.Namespace(work=lambda _options: work()))
    argv = options.pop("argv", [])
    return main(argv, **options)


def speak() -> int:
    logging.getLogger(OURS).info("quiet")
    logging.getLogger(OURS).warning("loud")
    return 0


@pytest.mark.parametrize(
    ("argv", "environment", "as_json", "heard"),
    [
        ([], None, False, ["loud"]),
        (["--verbose"], None, False, ["quiet", "loud"]),
        (["--log-format", "json"], None, True, ["loud"]),
        ([], "json", True, ["loud"]),
        (["--log-format", "text", "--verbose"], "json", False, ["quiet", "loud"]),
    ],
    ids=["default", "verbose", "option", "environment", "option wins"],
)
def test_a_command_logs_as_it_is_told(
    argv: list[str],
    environment: str | None,
    as_json: bool,
    heard: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("RLM_LOG_FORMAT", raising=False)
    if environment:
        monkeypatch.setenv("RLM_LOG_FORMAT", environment)
    assert run_main(monkeypatch, speak, argv=argv) == 0
    said = capsys.readouterr()
    assert said.out == ""
    found = said.err.splitlines()
    messages = (
        [json.loads(line)["message"] for line in found]
        if as_json
        else [line.rpartition(" ")[2] for line in found]
    )
    assert messages == heard


def test_an_unknown_format_is_a_clear_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLM_LOG_FORMAT", "xml")
    assert run_main(monkeypatch, speak) == 2
    assert capsys.readouterr().err == "rlm-agent: RLM_LOG_FORMAT is 'xml'. Use text or json.\n"


def test_keys_of_the_environment_are_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABRICKS_TOKEN", CANARY)

    def careless() -> int:
        logging.getLogger("vendor").error("token=%s", CANARY)
        return 0

    assert run_main(monkeypatch, careless) == 0
    assert "token=***" in capsys.readouterr().err


@pytest.mark.parametrize("fault", [RuntimeError("broken"), KeyboardInterrupt()], ids=["defect", "interrupt"])
def test_the_last_word_is_a_line_of_json_too(
    fault: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        raise fault

    assert run_main(monkeypatch, work, argv=["--log-format", "json"]) in {1, 130}
    (line,) = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert line["level"] == "ERROR"
    assert ("broken" in line.get("traceback", "")) == isinstance(fault, RuntimeError)


def test_the_control_plane_logs_json_at_info(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RLM_LOG_FORMAT", raising=False)
    monkeypatch.setattr("sys.argv", ["rlm-orchestrator", "--continuous"])
    given: list[Any] = []
    monkeypatch.setattr(entrypoints, "main", lambda argv, **options: given.append((argv, options)) or 0)
    assert entrypoints.orchestrator() == 0
    ((argv, options),) = given
    assert argv == ["orchestrate", "--continuous"]
    assert run_main(monkeypatch, speak, **options) == 0
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == ["quiet", "loud"]
