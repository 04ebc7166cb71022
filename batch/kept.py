"""One layer is trained alone: the other layers' models are the champion's, bit for bit.

That holds only while they would still be made the same way: the same layers, each listening to the same inputs, of
features with the same fingerprints, by the same factory. What differs is named and nothing is trained.

How the new layer is measured does not change. Its out-of-time inputs, like those of any layer, come from models that
learned from earlier parts; these are fitted for that purpose as the kept ones were, with their candidates and
parameters, and then dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batch.recipes import recipe
from batch.transfer import Transferred
from riskflow.bundle import Bundle
from riskflow.errors import DeclarationError, RiskflowError
from riskflow.plan import Plan


@dataclass(frozen=True)
class Kept:
    """What a training of one layer takes from the champion."""

    layer: str  # the one that is trained
    version: int
    models: Mapping[str, bytes]  # ONNX of the other layers
    choices: Mapping[str, str]  # their candidates
    parameters: Mapping[str, dict[str, Any]]
    dictionaries: Mapping[str, list[str]]

    def about(self) -> dict[str, Any]:
        return {"version": self.version, "layers": sorted(self.models)}


def keep(plan: Plan, layer: str, champion: Bundle | None, transferred: tuple[Transferred, ...] = ()) -> Kept:
    """All layers of the champion but one; RiskflowError names what changed since it was trained."""
    if layer not in plan.models:
        raise DeclarationError(f"layer {layer!r}", "is no model", f"One of: {', '.join(plan.models)}")
    if champion is None:
        raise RiskflowError(f"{plan.name}: there is no champion whose other layers could be kept. Train all of them")
    made = champion.metrics.get("layers")
    if made is None:
        raise _changed(champion, layer, "the bundle does not say how its layers were made")
    for change in _changes(plan, layer, champion, made, transferred):
        raise _changed(champion, layer, change)
    others = [name for name in plan.models if name != layer]
    listened = {i for name in others for i in plan.model_inputs(name)}
    files = {m["name"]: champion.files[m["file"]] for m in champion.models}
    return Kept(
        layer, champion.version,
        {name: files[name] for name in others},
        {name: made[name]["candidate"] for name in others},
        {name: made[name]["parameters"] for name in others},
        {text: words for text, words in champion.dictionaries.items() if text in listened},
    )  # fmt: skip


def _changes(
    plan: Plan, layer: str, champion: Bundle, made: Mapping[str, Any], transferred: tuple[Transferred, ...]
) -> list[str]:
    """Everything that is otherwise than when the other layers were trained, in words."""
    listens = {m["name"]: list(m["inputs"]) for m in champion.models}
    files = {m["name"]: champion.files[m["file"]] for m in champion.models}
    found = [f"{name!r} is a new layer" for name in plan.models if name not in made and name != layer]
    found += [f"the layer {name!r} is gone" for name in made if name not in plan.models]
    for name in plan.models:
        if name == layer or name not in made:
            continue
        if listens[name] != list(plan.model_inputs(name)):
            found.append(f"{name!r} listens to other inputs: {_difference(listens[name], plan.model_inputs(name))}")
        found += _other_recipe(plan, name, made[name])
        found += [f"{name!r} needs {n!r}, which has changed" for n in _changed_features(plan, name, champion)]
    for one in transferred:
        if any(files.get(name) != content for name, content in one.files.items()):
            found.append(f"the transfer {one.name!r} is now version {one.version} of {one.usecase}")
    return found


def _other_recipe(plan: Plan, name: str, made: Mapping[str, Any]) -> list[str]:
    candidates = plan.usecase.models[name].candidates
    if made["candidate"] not in candidates:
        return [f"{name!r} no longer has its candidate {made['candidate']!r}"]
    if recipe(candidates[made["candidate"]]) != made["recipe"]:
        return [f"the function of {name!r}, candidate {made['candidate']!r}, has changed"]
    return []


def _changed_features(plan: Plan, name: str, champion: Bundle) -> list[str]:
    return [n for n, print_ in plan.needed((name,)).items() if champion.needed.get(n, print_) != print_]


def _difference(before: list[str], now: tuple[str, ...]) -> str:
    gone, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
    return f"without {', '.join(gone) or 'none'}, with {', '.join(new) or 'none'}" if gone or new else "another order"


def _changed(champion: Bundle, layer: str, what: str) -> RiskflowError:
    return RiskflowError(
        f"{champion.usecase}: {layer!r} cannot be trained alone beside bundle {champion.version}: {what}. "
        "Train all layers: riskflow retrain"
    )
