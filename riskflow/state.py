"""What stands in Redis for one stage and partition: the head's fields, and how a new head is written.

position   next offset of the stage's log to apply            epoch   who may write; each claim raises it
topic_id   the log this position belongs to                   layout  fingerprint of the packed records
applied    last applied position of each source (JSON)        sent    last sent position to each destination (JSON)
roster     bundles that outputs are made with (JSON)          starts  claims since the position last moved
watermark  the newest day that this log's rows have shown (riskflow/windows.py); where it is absent, none
left_for   the generation that took over: nobody claims this head any more (batch/handover.py)

Of an intake's head only, where one generation takes over from another while events flow (stream/gate.py):

until       this generation takes nothing from this offset on     held_until_ms   nothing is taken before this moment
behind      the generation that this one runs beside and has not taken over from
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from riskflow.names import Names

ROW_BITS = 12  # a row's position is offset << 12 | its number in the block, so a block has at most 4,096 rows
BLOCK_ROWS = 1 << ROW_BITS
BLOCK_BYTES = 512 * 1024
INTAKE_LOG, INTAKE_PARTITION = "_log_intake", "_part_intake"
LEFT_FOR, UNTIL, HELD_UNTIL_MS, BEHIND = "left_for", "until", "held_until_ms", "behind"  # fields of a head
WATERMARK = "watermark"
HELD = "_held"  # column: 1 where another generation scores the row; the row is counted here all the same


def row_position(offset: int, row: int = 0) -> int:
    """The position of a row: the offset of its block and its number in it, as received."""
    return offset << ROW_BITS | row


def log_columns(stage: str) -> tuple[str, str]:
    """Names of the columns that hold a row's position and partition in a stage's log."""
    return f"_log_{stage}", f"_part_{stage}"


def source_name(stage: str, partition: int) -> str:
    """How a head and a block name a log that rows come from: `events:3`."""
    return f"{stage}:{partition}"


def new_head(position: int, topic_id: str, layout: str, watermark: int = 0) -> dict[str, Any]:
    """The hash of a head that no worker has claimed yet. watermark: of the records that its log begins with."""
    return {
        "position": position,
        "epoch": 0,
        "topic_id": topic_id,
        "layout": layout,
        "applied": "{}",
        "sent": "{}",
        "roster": "{}",
        "starts": 0,
        WATERMARK: watermark,
    }


def grown(names: Names, topic: str, partitions: int, without_head: Sequence[int]) -> str:
    """What to do where an internal topic has more partitions than its generation: entities are spread by the number."""
    return (
        f"{topic} has {partitions} partitions, and {', '.join(map(str, without_head))} came later than its records: "
        f"entities are spread by the number of partitions, so theirs would be looked for in the wrong one. Run "
        f"`riskflow rebuild {names.usecase} --partitions {partitions}`."
    )
