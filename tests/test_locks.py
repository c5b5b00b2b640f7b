import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(extra: str) -> set[str]:
    """Return the names of the libraries that an extra asks for, those of the base and of nested extras included."""
    asked = PROJECT["dependencies"] + PROJECT["optional-dependencies"].get(extra, [])
    nested = [name[1] for line in asked if (name := re.match(r"braintumor\[(\w+)\]", line))]
    names = {plain(re.split(r"[<>=!~;\[ ]", line)[0]) for line in asked}
    return (names - {"braintumor"}).union(*map(wanted, nested))


def entries(lock: Path) -> dict[str, list[str]]:
    """Return the hashes of every pinned name==version."""
    text = re.sub(r"\\\n", "", re.sub(r"^ *#.*\n", "", lock.read_text(), flags=re.MULTILINE))
    return {line.split(" ")[0]: re.findall(r"--hash=sha256:[0-9a-f]{64}", line) for line in text.splitlines()}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_has_all_libraries_pinned_by_hash(lock: Path) -> None:
    pinned = entries(lock)
    assert all("==" in entry and hashes for entry, hashes in pinned.items())
    assert wanted(lock.stem) <= {entry.split("==")[0] for entry in pinned}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_names_no_address(lock: Path) -> None:
    assert not re.search(r"://|--(extra-)?index-url|--find-links|^-e |file:", lock.read_text(), re.MULTILINE)


def test_all_locks_agree() -> None:
    development = set(entries(ROOT / "requirements" / "dev.txt"))
    for name in ("use", "evaluate", "train"):
        assert set(entries(ROOT / "requirements" / f"{name}.txt")) <= development


def test_the_list_of_components_is_that_of_the_locks() -> None:
    bom = json.loads((ROOT / "requirements" / "sbom.cdx.json").read_text())
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    locked = {entry for lock in LOCKS if lock.stem not in ("dev", "docs") for entry in entries(lock)}
    listed = [f"{component['name']}=={component['version']}" for component in bom["components"]]
    assert sorted(listed) == sorted(locked)
    assert "serialNumber" not in bom  # the same locks give the same list
    assert "timestamp" not in bom["metadata"]


def test_actions_are_pinned_by_commit() -> None:
    uses = re.findall(r"uses: *(\S+)(.*)", (ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert len(uses) == 4
    for action, comment in uses:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment)
