"""The part of an error message that says what there is, and which of it was probably meant."""

import difflib
from collections.abc import Iterable

_SHOWN = 20


def nearest(wanted: object, available: Iterable[object]) -> str:
    """'there are a, b, c; nearest: b' for a name that is not among the available ones."""
    names = [str(name) for name in available]
    if not names:
        return "there are none"
    listing = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    by_lower_case = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(wanted).lower(), by_lower_case, n=1)
    return f"there are {listing}" + (f"; nearest: {by_lower_case[close[0]]}" if close else "")
