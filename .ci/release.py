"""What must agree before a release: version, changelog, citation and the files in dist/.

python .ci/release.py check   version, CHANGELOG.md and CITATION.cff, and that dist/ has one wheel and one sdist of it
python .ci/release.py tag     the same, a date in the changelog, a clean tree; then the tag vVERSION, not pushed
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What a user of either file cannot do without.
IN_WHEEL = ("pyranet_fast/_C.abi3.so", "pyranet_fast/py.typed", "pyranet_fast/training/report.html")
IN_SDIST = ("setup.py", "csrc/schema.cpp", "pyranet_fast/ops/__init__.py", "CHANGELOG.md", "examples/photo.py")


def version(root: Path = ROOT) -> str:
    """The package's version, which is written once."""
    found = re.search(r'^__version__ = "(.+)"$', (root / "pyranet_fast" / "__init__.py").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def sections(changelog: str) -> dict[str, str]:
    """Date of each version of a changelog, newest first; empty where it has none."""
    heads = re.findall(r"^## \[?([^\]\s,]+)\]?(?: - (\d{4}-\d\d-\d\d))?.*$", changelog, re.MULTILINE)
    return {name: date for name, date in heads}


def problems(root: Path = ROOT, *, dated: bool = False, distributions: bool = True) -> list[str]:
    """Sentences on what does not agree.

    Args:
        root: of the repository.
        dated: whether the version needs its date in the changelog, as a release does.
        distributions: whether dist/ is looked at.
    """
    now, found = version(root), []
    known = sections((root / "CHANGELOG.md").read_text())
    if now not in known:
        found.append(f"CHANGELOG.md has no section {now}; it has {', '.join(known)}")
    elif dated and not known[now]:
        found.append(f"CHANGELOG.md has no date for {now}; expected '## [{now}] - YEAR-MONTH-DAY'")
    cited = re.search(r"^version: (.+)$", (root / "CITATION.cff").read_text(), re.MULTILINE)
    if cited is None or cited[1] != now:
        found.append(f"CITATION.cff has version {cited[1] if cited else 'none'}; expected {now}")
    return found + (_of_distributions(root / "dist", now) if distributions else [])


def _of_distributions(folder: Path, now: str) -> list[str]:
    wheels, sources = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sources) != 1:
        names = ", ".join(path.name for path in [*wheels, *sources]) or "nothing"
        return [f"dist/ has {names}; expected one wheel and one source distribution"]
    found = []
    with zipfile.ZipFile(wheels[0]) as wheel, tarfile.open(sources[0]) as source:
        of_wheel = set(wheel.namelist())
        of_source = {name.partition("/")[2] for name in source.getnames()}
    for path, names, needed in ((wheels[0], of_wheel, IN_WHEEL), (sources[0], of_source, IN_SDIST)):
        if f"-{now}-" not in path.name and f"-{now}.tar" not in path.name:
            found.append(f"{path.name} is not of version {now}; run make release-check again")
        found += [f"{path.name} lacks {name}" for name in needed if name not in names]
    if stray := sorted(name for name in of_source if name.endswith((".so", ".o", "_build.json"))):
        found.append(f"{sources[0].name} has what was built here: {stray[0]}")
    if stray := sorted(name for name in of_wheel if name.startswith(("tests/", "bench/"))):
        found.append(f"{wheels[0].name} has what does not belong there: {stray[0]}")
    return found


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "tag"))
    what = parser.parse_args().what
    found = problems(dated=what == "tag")
    if what == "tag" and (changed := git("status", "--porcelain")):
        found.append(f"the tree has uncommitted changes: {changed.splitlines()[0].strip()}")
    for sentence in found:
        print(f"error: {sentence}", file=sys.stderr)
    if found:
        return 1
    if "\nSource = " not in (ROOT / "pyproject.toml").read_text():
        print("note: pyproject.toml has no Source among its [project.urls]; add where the repository is published")
    print(f"version, changelog, citation and dist/ agree: {version()}")
    if what == "tag":
        git("tag", "--annotate", f"v{version()}", "--message", f"pyranet_fast {version()}")
        print(f"tagged v{version()}; publish with: git push origin v{version()} && twine upload dist/*")
    return 0


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
