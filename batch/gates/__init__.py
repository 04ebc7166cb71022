"""Gates: what a bundle must pass before it is published, declared as a list in pipeline.yaml.

One module holds one kind of gate: a class with its parameters, and the function that judges a case. To add a kind,
write such a module and name its class in `Kind` below. A gate of one use case alone needs no module here: `custom`
calls a function of that use case.
"""

from __future__ import annotations

from batch.gates.base import Declared, Gate
from batch.gates.changes import Changes
from batch.gates.custom import Custom
from batch.gates.latency import Latency
from batch.gates.leakage import Leakage
from batch.gates.metric import Metric
from batch.gates.not_worse import NotWorse
from batch.gates.parity import OnnxParity
from batch.gates.sanity import Sanity
from batch.gates.segments import Segments
from batch.gates.size import Size

Kind = Metric | NotWorse | Changes | Segments | Latency | Size | Sanity | OnnxParity | Leakage | Custom


def usual_gates() -> list[Kind]:
    """What holds where pipeline.yaml names no gates."""
    return [NotWorse(), OnnxParity()]


__all__ = ["Declared", "Gate", "Kind", "usual_gates"]
