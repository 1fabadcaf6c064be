from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.values import check_id, check_name, check_table_name

NAMESPACE = Namespace(catalog="main", schema="rlm", volume="artifacts")
NASTY = st.one_of(
    st.text(),
    st.text(alphabet="abz09_-.A/\\\n\0 'é`\"", max_size=80),
    st.sampled_from(
        ["..", "a/..", "a\n", "\na", "-a", "_a", "A", "a" * 65, "", "a'b", "\uff41", "a\u200b", "²"]
    ),
)
IDS = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True)


@given(NASTY)
def test_nothing_invalid_reaches_a_path(value: str) -> None:
    try:
        path = NAMESPACE.attempt_dir(value, 1, 1)
    except UsageError:
        return
    assert re.fullmatch(r"/Volumes/main/rlm/artifacts/scratchpad/run_[a-z0-9_-]{1,64}/iter_1", path)


@given(NASTY)
def test_nothing_invalid_reaches_a_statement(value: str) -> None:
    try:
        table = Namespace(catalog=value, schema=value, volume=value).table(value)
    except UsageError:
        return
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*){2}", table)


@given(IDS)
def test_valid_ids_pass_unchanged(value: str) -> None:
    assert check_id(value) == value


@given(st.lists(NASTY, max_size=4))
def test_a_table_name_has_three_plain_parts(parts: list[str]) -> None:
    text = ".".join(parts)
    try:
        assert check_table_name(text) == text
    except UsageError:
        return
    assert [check_name(part, what="part") for part in text.split(".")] == text.split(".")
    assert text.count(".") == 2


def test_where_things_lie() -> None:
    root = "/Volumes/main/rlm/artifacts"
    assert NAMESPACE.volume_root == root
    assert NAMESPACE.attempt_dir("r1", 3, 1) == f"{root}/scratchpad/run_r1/iter_3"
    assert NAMESPACE.attempt_dir("r1", 3, 2) == f"{root}/scratchpad/run_r1/iter_3/attempt_2"
    assert NAMESPACE.harness_dir("ab12") == f"{root}/harness/ab12"
    assert NAMESPACE.codebase_dir == f"{root}/company_codebase"
    assert NAMESPACE.table("run_state") == "main.rlm.run_state"


@given(IDS, st.integers(1, 10**6), st.integers(1, 99), IDS, st.integers(1, 10**6), st.integers(1, 99))
def test_no_two_attempts_share_a_folder(a: str, n: int, k: int, b: str, m: int, j: int) -> None:
    same = NAMESPACE.attempt_dir(a, n, k) == NAMESPACE.attempt_dir(b, m, j)
    assert same == ((a, n, k) == (b, m, j))


def test_the_message_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"'Bad Id' is not a valid run id\. Use 1 to 64 of"):
        check_id("Bad Id")
    with pytest.raises(UsageError) as refused:
        check_id("/" * 100_000)
    assert len(str(refused.value)) < 300  # a huge id does not become a huge message
