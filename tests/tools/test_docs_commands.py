"""Every command that the documents print is one that there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.docs_commands import Command, all_commands, code_lines, problem_of

COMMANDS = all_commands()


def test_there_are_commands() -> None:
    assert {"make", "rlm-agent", "python"} <= {command.program for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.place)
def test_a_printed_command_parses(command: Command) -> None:
    assert problem_of(command) is None, command.text


def test_blocks_and_continued_lines_are_read(tmp_path: Path) -> None:
    text = "prose\n\n```\none \\\n  two\n```\nmore prose\n\n    three\n"
    assert list(code_lines(text)) == [(4, "one two"), (9, "three")]


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("make", "demo"), False),
        (("make", "no-such-target"), True),
        (("rlm-agent", "status", "--json"), False),
        (("rlm-agent", "status", "--no-such-option"), True),
        (("rlm-agent", "init", "--profile", "<profile>"), False),
        (("rlm-agent", "run", "…"), False),
        (("python", "-m", "examples.needle"), False),
        (("python", "-m", "examples.no_such_module"), True),
        (("python", "tools/house.py", "--json"), False),
        (("python", "tools/no_such_file.py"), True),
        (("rlm-no-such-program",), True),
    ],
)
def test_a_wrong_command_is_found(words: tuple[str, ...], wrong: bool) -> None:
    assert (problem_of(Command(place="here", text="", words=words)) is not None) is wrong
