"""How a program ended is what result.json, the exit code and the streams say."""

from __future__ import annotations

from conftest import Bench


def test_success_reports_everything(bench: Bench) -> None:
    ended = bench.run("import sys\nprint('hello')\nprint('oops', file=sys.stderr)\nrlm.metric('n', 3)\nrlm.finish({'a': [1]})\n")
    report = ended.report
    assert ended.code == 0, ended.err
    assert report["status"] == "SUCCESS"
    assert report["value"] == {"a": [1]}
    print(report, ended.out, ended.err)
    assert 0
