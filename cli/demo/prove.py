"""Afterwards: everything into the lake, and the proof that stream and batch are one."""

from __future__ import annotations

from cli.demo.stage import Stage


def archive(stage: Stage) -> str:
    from batch.archive import archive as bring

    done = bring(stage.plan, stage.conf)
    stage.facts["lake"] = f"{done.added:,} messages added in {done.seconds:.1f} s, {stage.conf.lake_folder}"
    return stage.facts["lake"]


def compare(stage: Stage) -> str:
    """Archived rows against a replay in their recorded positions, and every record in Redis, bit for bit."""
    from batch.parity import parity

    found = parity(stage.plan, stage.conf, records=True)
    wrong = found.mismatches + found.missing + found.extra + found.order_errors
    stage.parity_mismatches = wrong + (found.records_differing or 0)
    return (
        f"{found.rows:,} rows, {len(found.features)} features, {found.records:,} records: "
        f"{stage.parity_mismatches} mismatches"
    )
