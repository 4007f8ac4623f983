"""Telling what lies on this machine from what lies on the Hub, and leaving its paths out of what is published."""

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any


def is_local(value: str) -> bool:
    """Whether a text names a file or folder of this machine rather than something on the Hub."""
    absolute = PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()
    return absolute or value.startswith(("~", "./", "../")) or "\\" in value or Path(value).exists()


def without_paths(value: Any) -> Any:
    """Return a JSON value in which each path of this machine is only the name at its end."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items() if key not in ("output_dir", "_name_or_path")}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and len(value) < 4096 and "\n" not in value and is_local(value):
        return PureWindowsPath(value).name  # takes both kinds of separator
    return value
