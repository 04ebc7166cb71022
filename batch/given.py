"""What a training is given beside its rows: a search, models of other bundles, layers that are kept as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch.kept import Kept, keep
from batch.search import Search
from batch.transfer import Registries, Transferred, bundle_of, check_rows, fetch, merged_dictionaries, used_transfers
from riskflow.columns import F8
from riskflow.errors import DeclarationError
from riskflow.keys import load_public_keys
from riskflow.plan import Plan
from riskflow.registry import CHAMPION

if TYPE_CHECKING:
    from batch.pipeline import Pipeline
    from batch.training_set import TrainingSet


@dataclass(frozen=True)
class Given:
    """Nothing by default: every layer is fitted with the defaults of its factory."""

    search: Search | None = None
    transferred: tuple[Transferred, ...] = ()
    kept: Kept | None = None

    @property
    def dictionaries(self) -> dict[str, list[str]]:
        """Codes of texts that are fixed already."""
        kept = dict(self.kept.dictionaries) if self.kept else {}
        return {**kept, **merged_dictionaries(self.transferred)}

    @property
    def transferred_layers(self) -> list[dict[str, Any]]:
        return [layer for one in self.transferred for layer in one.layers]

    @property
    def transferred_models(self) -> dict[str, bytes]:
        return {name: content for one in self.transferred for name, content in one.files.items()}

    @property
    def kept_models(self) -> Mapping[str, bytes]:
        return self.kept.models if self.kept else {}

    @property
    def choices(self) -> Mapping[str, str]:
        """Candidates of layers that do not race."""
        return self.kept.choices if self.kept else {}

    @property
    def parameters(self) -> Mapping[str, dict[str, Any]]:
        """Parameters of layers that are not searched."""
        return self.kept.parameters if self.kept else {}

    def outputs(
        self, plan: Plan, values: Mapping[str, Any], data: TrainingSet, validation_from_ms: int
    ) -> dict[str, F8]:
        """Outputs of the transferred models; NaN for rows that they may have learned from."""
        missing = set(used_transfers(plan)) - {one.name for one in self.transferred}
        if missing:
            raise DeclarationError(
                f"transfer {min(missing)!r}", "was not fetched", "Train where Redis answers: `riskflow up`"
            )
        for one in self.transferred:
            check_rows(one, data.at_ms, validation_from_ms)
        return {one.name: one.outputs(values, data.at_ms) for one in self.transferred}

    def notes(self, keys: Sequence[str]) -> dict[str, Any]:
        """What a bundle tells of it; keys: its layers with the choices made in and below them."""
        found: dict[str, Any] = {}
        if self.search is not None:
            found["search"] = self.search.summary(keys)
        if self.transferred:
            found["transferred"] = {one.name: one.about() for one in self.transferred}
        if self.kept:
            found["kept"] = self.kept.about()
        return found


def given_for(
    plan: Plan, pipeline: Pipeline, registries: Registries, keys: Path, folder: Path | None, layer: str | None = None
) -> Given:
    """What pipeline.yaml and models.py ask for. The registry is looked at only where they need it.

    folder: where the search keeps its history, None for in memory; layer: the only one that is trained.
    """
    wishes = pipeline.file.search
    public_keys = load_public_keys(keys) if wishes.warm_start or used_transfers(plan) or layer else {}
    transferred = fetch(plan, registries, public_keys) if used_transfers(plan) else ()
    begin = bundle_of(registries(plan.name), wishes.warm_start, public_keys) if wishes.warm_start else None
    search = Search(wishes, folder, begin) if wishes.on or begin else None
    if layer is None:
        return Given(search, transferred)
    champion = bundle_of(registries(plan.name), CHAMPION, public_keys)
    return Given(search, transferred, keep(plan, layer, champion, transferred))
