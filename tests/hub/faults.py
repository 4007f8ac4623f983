"""Faults a test asks the stand-in for."""

import re
import threading
from dataclasses import dataclass, field


@dataclass
class Fault:
    """What goes wrong with the requests it matches; see `Hub.fail` for the fields."""

    path: re.Pattern[str]
    method: str | None = None
    status: int | None = None
    message: str = "Injected fault"
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    times: int | None = 1
    after: int = 0
    cut_upload: int | None = None
    cut_download: int | None = None
    truncate: int | None = None
    shorten: int | None = None
    corrupt: bool = False
    lose_answer: bool = False
    delay: float = 0.0
    hits: int = 0

    @property
    def damages_answer(self) -> bool:
        """Whether the answer's body is changed or not sent whole."""
        return self.corrupt or any(value is not None for value in (self.cut_download, self.truncate, self.shorten))


class Faults:
    """The faults asked for, the first that matches a request is the one that happens."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        """Remember a fault."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def take(self, method: str, target: str) -> Fault | None:
        """The fault for this request, counted as having happened; None when all is well."""
        with self._lock:
            for fault in self._faults:
                if fault.method not in (None, method) or not fault.path.search(target):
                    continue
                if fault.after > 0:
                    fault.after -= 1
                elif fault.times is None or fault.hits < fault.times:
                    fault.hits += 1
                    return fault
        return None
