"""Files of the lake that cannot be read are set aside, and their offsets are archived again from Kafka.

    lake/<topic>/date=.../part-0-100-199.parquet.broken      what was set aside; it goes when its offsets are back

Nothing reads a lake with a broken file in silence: `batch.lake` names the file, and this is what to do about it. What
Kafka does not have any more is a gap, which every archive names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from batch import lake
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.settings import Settings


@dataclass
class Mended:
    """Paths in the lake."""

    looked_at: int = 0
    set_aside: list[str] = field(default_factory=list)
    back: list[str] = field(default_factory=list)  # were set aside once, and their offsets have been archived again

    def summary(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {"looked_at": self.looked_at, "set_aside": self.set_aside, "back": self.back}


def mend(plan: Plan, conf: Settings, deep: bool = False) -> Mended:
    """Sets broken files aside. deep: reads every value, else only where each file says what it holds."""
    names, out = Names(plan.name, prefix=conf.topic_prefix), Mended()
    with lake.locked(conf.lake_folder, plan.name):
        for folder in lake.topic_folders(conf.lake_folder, names):
            for path in sorted(folder.glob("date=*/part-*.parquet")):
                out.looked_at += 1
                if why_broken(path, deep):
                    path.rename(path.with_name(path.name + lake.BROKEN))
                    out.set_aside.append(str(path.relative_to(conf.lake_folder)))
            out.back += [str(path.relative_to(conf.lake_folder)) for path in _dropped(conf.lake_folder, folder.name)]
    return out


def why_broken(path: Path, deep: bool = False) -> str:
    """Why a file cannot be read, or not be understood; empty when it can."""
    try:
        if deep:
            pl.read_parquet(path, hive_partitioning=False)
        return lake.lacking(path, pl.read_parquet_schema(path))
    except (pl.exceptions.PolarsError, OSError) as error:
        return str(error) or type(error).__name__


def _dropped(folder: Path, topic: str) -> Iterator[Path]:
    """Drops what was set aside and is archived again."""
    for path, partition, first, last in lake.set_aside(folder, topic):
        if not lake.missing(folder, topic, partition, first, last):
            path.unlink()
            yield path
