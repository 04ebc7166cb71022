"""How large the bundle is: Redis keeps it, and every worker loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.gates.base import Declared, Gate, Positive

if TYPE_CHECKING:
    from batch.gates.case import Case

MIB = 1024 * 1024


class Size(Declared, tag="size"):
    most_mib: Positive = 64.0

    def judge(self, case: Case) -> Gate:
        wanted = f"at most {self.most_mib:g} MiB"
        if case.bundle is None:
            return self.outcome(False, "there is no bundle", wanted)
        size = len(case.bundle.to_bytes()) / MIB
        files = {name: len(content) for name, content in case.bundle.files.items()}
        return self.outcome(size <= self.most_mib, f"{size:.2f} MiB", wanted, mib=size, file_bytes=files)
