"""A release: one version everywhere, and a changelog that says what is in it."""

from __future__ import annotations

from datetime import date

import pytest

from tools.release import ReleaseError, released, versions

CHANGELOG = """# Changelog

## [Unreleased]

### Added

- A thing.

## [0.1.0] - 2026-01-01

- The first.
"""


def test_the_unreleased_section_gets_the_version_and_a_new_one_is_opened() -> None:
    text = released(CHANGELOG, "0.2.0", date(2026, 12, 1))
    assert "## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- A thing.\n" in text
    assert text.endswith("## [0.1.0] - 2026-01-01\n\n- The first.\n")


@pytest.mark.parametrize("version", ["0.1.0", "0.3.0"])
def test_an_empty_section_and_a_version_twice_are_refused(version: str) -> None:
    changelog = CHANGELOG if version == "0.1.0" else released(CHANGELOG, "0.2.0", date(2026, 12, 1))
    with pytest.raises(ReleaseError, match=r"CHANGELOG\.md has"):
        released(changelog, version, date(2026, 12, 1))


def test_both_distributions_have_one_version() -> None:
    assert len(set(versions().values())) == 1, versions()
