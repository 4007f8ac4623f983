"""The names by which the Hub, and its cache, know the contents of files."""

import hashlib
import re
from pathlib import Path


def is_blob(file: Path, name: str) -> bool | None:
    """Whether a file has the content that a blob's name stands for; None where it is no blob's name.

    Args:
        file: The file to read.
        name: SHA-256 of a large file, the id of git's blob of any other.
    """
    if re.fullmatch("[0-9a-f]{64}", name):
        digest = hashlib.sha256()
    elif re.fullmatch("[0-9a-f]{40}", name):
        digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size)
    else:
        return None
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: digest).hexdigest() == name
