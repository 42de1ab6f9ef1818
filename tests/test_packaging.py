"""What `pip install .` installs: declared dependencies, with bounds around the versions that the tests ran with."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
REQUIRED = {each.name: each for each in map(Requirement, PROJECT["project"]["dependencies"])}
OPTIONAL = {each.name: each for extra in EXTRAS.values() for each in map(Requirement, extra)}
PINNED = {
    each.name: Version(next(iter(each.specifier)).version)
    for each in map(Requirement, PROJECT["tool"]["uv"]["constraint-dependencies"])
}
# What a declared library always installs, and whose classes it hands out.
PART_OF = {"fsspec": "datasets", "httpx2": "huggingface-hub", "markupsafe": "jinja2", "pydantic-core": "pydantic"}


@pytest.mark.parametrize("name", sorted(REQUIRED | OPTIONAL))
def test_each_dependency_has_bounds_around_the_tested_version(name):
    bounds = (REQUIRED | OPTIONAL)[name].specifier
    assert {each.operator for each in bounds} == {">=", "<"}
    assert PINNED[name] in bounds
    lowest = Version(next(each.version for each in bounds if each.operator == ">="))
    pinned = PINNED[name]
    assert (lowest.major, lowest.minor) == (pinned.major, pinned.minor)  # earlier ones were not tested


def imported(folder: Path) -> set[str]:
    """The top-level modules that the files of a folder import, at any depth."""
    names = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names


def test_each_import_is_of_a_declared_dependency():
    distributions = packages_distributions()
    foreign = imported(ROOT / "hflm") - set(sys.stdlib_module_names) - {"hflm"}
    owners = {re.sub(r"[-_.]+", "-", distributions.get(name, [name])[0]).lower() for name in foreign}
    declared = {name.lower() for name in REQUIRED | OPTIONAL}
    assert {PART_OF.get(owner, owner) for owner in owners} <= declared


def test_the_shipped_recipes_are_in_the_wheel():
    target = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert target["force-include"] == {"recipes": "hflm/_recipes"}
