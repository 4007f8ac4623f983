"""Telling what lies on this machine from what lies on the Hub, and leaving its paths out of what is published."""

import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

_LONGEST = 4096  # characters of a path
_PATH_IN_TEXT = re.compile(r"(?:file://|(?<![\w.:/]))(?P<path>(?:[A-Za-z]:)?(?:[\\/][^\s\\/'\"`,;|<>]+){2,})")


def is_local(value: str) -> bool:
    """Whether a text names a file or folder of this machine rather than something on the Hub."""
    return _is_rooted(value) or "\\" in value or _exists(value)


def is_folder(value: str | Path) -> bool:
    """Whether there is a folder of this name; a text too long for a name is none."""
    try:
        return Path(value).is_dir()
    except OSError:
        return False


def without_paths(value: Any) -> Any:
    """Return a JSON value in which each path of this machine is only the name at its end."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key not in ("output_dir", "_name_or_path")}
        return {without_paths(key): without_paths(item) for key, item in kept.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    # A backslash alone makes no path: regular expressions for module names are full of them.
    if len(value) < _LONGEST and "\n" not in value and (_is_rooted(value) or _exists(value)):
        return PureWindowsPath(value).name or value  # takes both kinds of separator
    return _PATH_IN_TEXT.sub(_name_if_here, value)


def _exists(value: str) -> bool:
    try:
        return Path(value).exists()
    except OSError:  # too long for a name
        return False


def _is_rooted(value: str) -> bool:
    absolute = PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()
    return absolute or value.startswith(("~", "./", "../"))


def _name_if_here(found: re.Match[str]) -> str:
    """Shorten what looks like a path and begins in a folder of this machine."""
    path = Path(found["path"])
    return path.name if Path(*path.parts[:2]).exists() else found.group()
