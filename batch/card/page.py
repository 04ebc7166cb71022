"""The model card: one HTML file for each bundle, without script or network, that opens by double click.

What it shows comes from the bundle itself (curves, importances, segments: batch/card/evidence.py), from the verdict in
the folder of the run that made it, and from what was seen since: looks at drift, errors of forecasts, moves of aliases.
What is not there is left out, or said to be missing.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch.card.pictures import bars, pictures
from batch.training_set import SAMPLED, WEIGHTED
from riskflow.bundle import Bundle
from riskflow.connect import ERRORS
from riskflow.declare import CATEGORY, TEXT
from riskflow.durations import duration_ms
from riskflow.errors import RiskflowError
from riskflow.explain import show, words

if TYPE_CHECKING:
    from batch.pipeline import PipelineFile
    from batch.run import Run

FILE, VERDICT, BUNDLE = "card.html", "verdict.json", "bundle.bin"
TEMPLATE = Path(__file__).with_name("card.html.jinja")
IMPORTANCES = 20  # bars
PICTURES = (
    ("roc", "ROC", "Frauds caught against genuine events flagged, over all thresholds."),
    ("precision_recall", "Precision and recall", "The dot is the threshold of review; the dashed line is chance."),
    ("gain", "Lift", "Looking at the highest scores first: how many of all frauds are among them."),
    ("calibration", "Calibration", "A score of 0.3 should be a fraud in three of ten cases."),
    ("thresholds", "By threshold", "The dashed line is the threshold of review."),
    ("cost", "Cost", "Missed frauds and reviews, by the costs that the policy declares."),
    ("scores", "Scores", "Genuine events and frauds by score, on a logarithmic scale."),
)

log = logging.getLogger(__name__)


def leave_card(run: Run, version: int | None = None) -> Path | None:
    """Writes card.html into the run's folder; of a published version also beside its bundle, for serving.

    Nothing fails by it: what goes wrong is logged. None, too, where no bundle could be made.
    """
    made = run.folder / BUNDLE
    if version is None and not made.is_file():
        return None
    try:
        bundle = Bundle.from_bytes(made.read_bytes() if version is None else run.registry().raw(version))
        html = card(run, bundle, published=version is not None)
        path = run.folder / FILE
        path.write_text(html, encoding="utf-8")
        if version is not None:
            store(run, version, html)
        return path
    except Exception:
        log.exception("%s, run %s: no model card was made", run.plan.name, run.name)
        return None


def refresh(run: Run, bundle: Bundle) -> None:
    """Puts a published bundle's card beside it anew, with what is known by now; what goes wrong is logged."""
    try:
        store(run, bundle.version, card(run, bundle, published=True))
    except Exception:
        log.exception("%s: the model card of version %s was not made anew", run.plan.name, bundle.version)


def store(run: Run, version: int, html: str) -> None:
    """Puts a card beside its bundle in Redis, where serving looks for it."""
    from riskflow.card import packed

    registry = run.registry()
    registry.client.set(registry.names.card(version), packed(html))


def card(run: Run, bundle: Bundle, *, published: bool) -> str:
    """The card as HTML."""
    import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATE.parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "day": day, "moment": moment, "share": share, "words": words}
    return environment.get_template(TEMPLATE.name).render(shown(run, bundle, published=published))


# ---- what is shown ---------------------------------------------------------------------------------------------------


def shown(run: Run, bundle: Bundle, *, published: bool) -> dict[str, Any]:
    """Everything that the template fills in."""
    evidence, policy = bundle.card, bundle.policy
    drawn = pictures(evidence, policy["review"], policy["decline"]) if evidence else {}
    importances = evidence.get("importances", {})
    drops = list(importances.get("drop", {}).items())
    return {
        "bundle": bundle, "published": published, "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "aliases": _aliases(run, bundle) if published else [], "purpose": purpose(run), "metrics": bundle.metrics,
        "wishes": wishes(policy),
        "policy": policy, "data": bundle.data, "evidence": evidence, "verdict": _verdict(run, bundle),
        "pictures": [(title, text, drawn[name]) for name, title, text in PICTURES if name in drawn],
        "importances": importances,
        "importance_bars": bars("importance", drops[:IMPORTANCES], "fall of average precision") if drops else "",
        "features": features(run, bundle), "look": _look(run, bundle), "forecast": _forecast(run, bundle),
        "moves": _moves(run, bundle) if published else [], "pipeline": run.pipeline.file,
        "silence": silence(run.pipeline.file),
        "bytes": {name: len(content) for name, content in sorted(bundle.files.items())},
    }  # fmt: skip


def purpose(run: Run) -> dict[str, Any]:
    """What the team says it is for: section `card` of pipeline.yaml, else how models.py and features.py begin."""
    plan, said = run.plan, run.pipeline.file.card
    texts = [said.purpose] if said.purpose else [_begin(plan.name, module) for module in ("models", "features")]
    return {
        "texts": [text for text in texts if text], "not_for": said.not_for, "contact": said.contact,
        "feed": plan.scored.name, "entities": list(plan.entities), "others": [f.name for f in plan.usecase.feeds[1:]],
        "layers": [(m, len(plan.model_inputs(m))) for m in plan.models],
    }  # fmt: skip


def _begin(usecase: str, module: str) -> str:
    """The first paragraph of what a module says of itself."""
    found = sys.modules.get(f"usecases.{usecase}.{module}")
    said = cleandoc(found.__doc__ or "") if found else ""
    return " ".join(said.split("\n\n")[0].replace("`", "").split())


def wishes(policy: Mapping[str, Any]) -> str:
    """What policy.yaml asks for.

    >>> wishes({"wishes": {"review": {"alerts_per_day": 100.0, "threshold": None}, "decline": {"precision": 0.9}}})
    'review: alerts per day 100; decline: precision 0.9'
    """
    parts = []
    for action, wish in policy.get("wishes", {}).items():
        stated = [f"{words(name)} {number(value)}" for name, value in wish.items() if value is not None]
        parts.append(f"{words(action)}: {', '.join(stated)}")
    return "; ".join(parts)


def silence(file: PipelineFile) -> str:
    """What an event without a label counts as."""
    longest = max([file.maturity, *file.label_maturity.values()], key=duration_ms)
    if file.review.learn == SAMPLED:
        return f"only sampled events that somebody has labelled count, once they are {longest} old"
    declined = ", a declined one as unknown" if file.declined == WEIGHTED else ""
    return f"an event without one counts as genuine after {longest}{declined}; younger ones are left out"


def features(run: Run, bundle: Bundle) -> list[dict[str, Any]]:
    """Inputs of the models, the most important first: usual value, share missing, where it is used, and drift."""
    drops = bundle.card.get("importances", {}).get("drop", {})
    look = _look(run, bundle) or {}
    drift = {one["name"]: one for one in look.get("features", [])}
    names = {m["name"] for m in bundle.models}
    inputs = dict.fromkeys(i for m in bundle.models for i in m["inputs"] if i not in names)
    rows = [
        {
            "name": name, "drop": drops.get(name), "usual": _usual(run, bundle, name),
            "missing": _missing(bundle.profile.get(name)), "kind": run.plan.nodes[name].what,
            "layers": [m["name"] for m in bundle.models if name in m["inputs"]],
            "psi": drift.get(name, {}).get("psi"), "missing_now": drift.get(name, {}).get("missing"),
        }
        for name in inputs
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -(row["drop"] or 0.0))


def _usual(run: Run, bundle: Bundle, name: str) -> str:
    """The median of a number, the most frequent value of a category."""
    value, kind = bundle.reference.get(name), run.plan.nodes[name].type
    if value is None:
        return number(None)
    if kind.kind == TEXT:
        said = bundle.dictionaries.get(name, [])
        return said[int(value)] if 0 <= value < len(said) else number(None)
    return show(value, kind) if kind.kind == CATEGORY else number(value)


def _missing(entry: Mapping[str, Any] | None) -> float | None:
    if entry and sum(entry.get("counts", ())):
        return float(entry["counts"][-1]) / float(sum(entry["counts"]))
    return entry.get("missing") if entry else None


def _verdict(run: Run, bundle: Bundle) -> dict[str, Any] | None:
    """As it was written, whatever its gates are called by now; None where its run was on another machine."""
    name = bundle.data.get("run")
    path = run.conf.home / "runs" / run.plan.name / str(name) / VERDICT
    return dict(json.loads(path.read_text())) if name and path.is_file() else None


def _look(run: Run, bundle: Bundle) -> Mapping[str, Any] | None:
    """The newest look at drift of this bundle."""
    from batch.drift import kept

    found = kept(run, bundle.content_hash)
    return found[-1] if found else None


def _forecast(run: Run, bundle: Bundle) -> Mapping[str, Any] | None:
    from batch.forecast_errors import kept_error

    return kept_error(run, bundle)


def _moves(run: Run, bundle: Bundle) -> Sequence[Any]:
    try:
        return [m for m in run.registry().history() if m.version == bundle.version]
    except (*ERRORS, RiskflowError):
        return []


def _aliases(run: Run, bundle: Bundle) -> list[str]:
    try:
        return [a for a, m in run.registry().aliases().items() if m.version == bundle.version]
    except (*ERRORS, RiskflowError):
        return []


# ---- words -----------------------------------------------------------------------------------------------------------


def number(value: Any) -> str:
    """A figure as a person reads it.

    >>> [number(v) for v in (None, True, 3, 12345, 0.123456, 0.0, 1e-7, 240.0, 12345.6, "all")]
    ['–', 'yes', '3', '12,345', '0.1235', '0', '1e-07', '240', '12,346', 'all']
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.1f}".removesuffix(".0") if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) >= 0.0001 else f"{value:.3g}"


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}" if value >= 0.001 or value == 0 else f"{value:.3%}"


def day(at_ms: int | None) -> str:
    return "–" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%d %b %Y").lstrip("0")


def moment(at_ms: int | None) -> str:
    return "–" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
