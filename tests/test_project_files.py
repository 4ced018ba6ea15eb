"""What strangers meet first: workflows, templates, changelog and citation say what is there."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="no .github: an installed package")
CHECK = "python -m pyranet_fast.env --check"


@pytest.fixture(scope="module")
def release() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / ".ci" / "release.py"))


def test_workflows_run_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert [path.stem for path in workflows] == ["release", "tests"]
    for path in workflows:
        steps = re.findall(r"^ *- run: (.*)$", path.read_text(), re.MULTILINE)
        assert steps and "run: |" not in path.read_text()
        for step in steps:
            program, target, *_ = step.split()
            assert program == "make" and target in targets, f"{path.name}: {step}"


def test_reports_ask_for_the_check_of_all_kernels() -> None:
    for name in ("ISSUE_TEMPLATE/bug.yml", "ISSUE_TEMPLATE/idea.yml", "pull_request_template.md"):
        assert CHECK in (ROOT / ".github" / name).read_text(), name


def test_version_changelog_and_citation_agree(release: dict[str, Any]) -> None:
    assert release["problems"](distributions=False) == []


def test_a_release_that_does_not_agree_is_refused(release: dict[str, Any], tmp_path: Path) -> None:
    for name in ("CHANGELOG.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "pyranet_fast").mkdir()
    (tmp_path / "pyranet_fast" / "__init__.py").write_text('__version__ = "9.9.9"\n')
    said = release["problems"](tmp_path)
    assert said[0].startswith("CHANGELOG.md has no section 9.9.9; it has ")
    assert said[1].endswith("expected 9.9.9") and said[2].startswith("dist/ has nothing; expected one wheel")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [9.9.9]\n\n## [1.0.0] - 2026-01-02\n")
    (tmp_path / "CITATION.cff").write_text("version: 9.9.9\n")
    assert release["sections"]((tmp_path / "CHANGELOG.md").read_text()) == {"9.9.9": "", "1.0.0": "2026-01-02"}
    assert release["problems"](tmp_path, distributions=False) == []
    (dated,) = release["problems"](tmp_path, distributions=False, dated=True)
    assert dated == "CHANGELOG.md has no date for 9.9.9; expected '## [9.9.9] - YEAR-MONTH-DAY'"
