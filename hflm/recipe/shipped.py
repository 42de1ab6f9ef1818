"""The recipes that come with hflm, and the file that a recipe's name stands for."""

import difflib
import os
from pathlib import Path


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with hflm: {name: path}, such as `quickstart` or `sentiment/sst2`."""
    home = Path(__file__).parents[1]
    folder = home / "_recipes" if (home / "_recipes").is_dir() else home.parent / "recipes"
    # launch/ holds accelerate's configurations, no recipes.
    paths = [path for path in sorted(folder.rglob("*.yaml")) if path.parent.name != "launch"]
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def find_recipe(recipe: str, folder: Path | None = None) -> Path:
    """The file of a recipe: a path (relative to `folder`), or a shipped name in full or its last part.

    Raises LookupError with a message for users.
    """
    path = Path(os.path.normpath((folder or Path()) / recipe))
    if path.is_file():
        return path
    known = shipped_recipes()
    matches = [name for name in known if recipe == name] or [name for name in known if recipe == name.split("/")[-1]]
    if len(matches) == 1:
        return known[matches[0]]
    if matches:
        raise LookupError(f"{recipe} is the name of several shipped recipes. Write one of: {', '.join(matches)}")
    if path.is_dir():
        raise LookupError(f"{path} is a folder, not a recipe. Name a .yaml file in it")
    near = difflib.get_close_matches(recipe, [*known, *(name.split("/")[-1] for name in known)], n=1)
    hint = f"Did you mean {near[0]}?" if near else "`hflm recipes` lists the shipped ones"
    raise LookupError(f"no such file, and no shipped recipe of that name. {hint}")


def display_path(path: Path) -> str:
    """The path as messages show it: relative to the working folder if it is inside that."""
    return os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)
