"""Use cases written for a measurement: so many entities, features and trees."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

WINDOWS = ("1h", "1d", "7d", "30d")
AGGREGATES = ("events=[Count()]", "amount=[Sum()]", "amount=[Mean()]", "amount=[Max()]", "amount=[Std()]")
SUFFIXES = ("events_count", "amount_sum", "amount_mean", "amount_max", "amount_std")
FIRST_IDS = ("customer_id", "terminal_id")


@dataclass(frozen=True)
class Shape:
    """What decides how much a use case costs. The default is the job of bench/usecases/peers_job."""

    entities: int = 2
    features: int = 16
    trees: int = 100

    @property
    def name(self) -> str:
        return f"e{self.entities}_f{self.features}_t{self.trees}"

    @property
    def ids(self) -> list[str]:
        """Entities' fields, in the order of their stages."""
        return [*FIRST_IDS[: self.entities], *(f"entity{i}_id" for i in range(2, self.entities))]


def more_ids(shape: Shape) -> list[str]:
    """Ids that ordinary payments do not have."""
    return [name for name in shape.ids if name not in FIRST_IDS]


def write_usecase(folder: Path, shape: Shape) -> None:
    """Writes the use case's folder. Features are windows first, spread over the entities; the rest are ratios."""
    here = folder / shape.name
    here.mkdir(parents=True)
    (here / "__init__.py").touch()
    (here / "events.py").write_text(_events(shape))
    features, names = _features(shape)
    (here / "features.py").write_text(features)
    (here / "models.py").write_text(_model(shape, names))
    (here / "policy.yaml").write_text("review: {threshold: 0.99}\n")


def _events(shape: Shape) -> str:
    entities = "".join(f'e{i} = Entity("{name}")\n' for i, name in enumerate(shape.ids))
    feed = 'events = Feed("events", id="event_id", at="occurred_at", fields={"amount": float})\n'
    return f"from riskflow.declare import Entity, Feed\n\n{entities}{feed}"


def _features(shape: Shape) -> tuple[str, list[str]]:
    """The module's text and the names of its features."""
    lines = [
        "from riskflow.declare import Count, Max, Mean, Std, Sum, Windows",
        f"from usecases.{shape.name}.events import {', '.join(f'e{i}' for i in range(shape.entities))}\n",
    ]
    kinds = list(product(range(len(AGGREGATES)), WINDOWS, range(shape.entities)))[: shape.features]
    names = []
    for i, (aggregate, window, entity) in enumerate(kinds):
        lines.append(f'w{i} = Windows(by=e{entity}, over=["{window}"], {AGGREGATES[aggregate]})')
        names.append(f"w{i}_{SUFFIXES[aggregate]}_{window}")
    for i in range(shape.features - len(kinds)):
        of = names[i % len(kinds)]
        lines.append(f"def c{i}(amount, {of}):\n    return amount / ({i + 1} + {of})\n")
        names.append(f"c{i}")
    return "\n".join(lines) + "\n", names


def _model(shape: Shape, names: list[str]) -> str:
    return f"""from riskflow.declare import Model


def _boosted():
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter={shape.trees}, max_leaf_nodes=31, early_stopping=False, random_state=0
    )


risk = Model(uses={["amount", *names]!r}, candidates={{"boosted": _boosted}})
"""
