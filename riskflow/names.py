"""Every topic, Redis key and generation, each with the reason for its lifetime.

Topics of a use case (prefix + use case + one word):

    events, labels, ...   one for each feed; the producer's truth, kept as long as the team wants to replay
    g3.by.<entity>        internal blocks of one generation; kept long enough to repeat what Redis may lose
    scores                one decision for each event, key = event id; kept as long as readers need
    shadow                what challengers and shadows say of each event, beside what was decided; as long as scores
    external              another system's scores of the same events, JSON; archived by batch, kept as long as scores
    rows                  full rows as blocks; archived by batch, then free to go
    g4.held               the same of a generation that ran beside another and was held back; archived by batch
    rejected              what could not be taken, with the reason; kept until somebody has looked
    drift                 what inputs and scores look like, as counts of each worker; 30 days
    alerts                what people are told: a failed task, drift, a rollback; 30 days
    review                events that were drawn for people to look at, with their odds; kept until somebody has

Redis keys:

    {uc:g3:stage:partition}:head      position, epoch, applied, sent, roster, watermark: never expires
    {uc:g3:stage:partition}:records   field e:<entity> -> packed record: goes when its entity is dead (stream/sweep.py)
    {uc}:generation                   the generation that workers use: never expires
    {uc}:beside                       the one that is made beside it; goes when it takes over (`riskflow switch`)
    {uc}:bundle:<version>             signed bundle: never expires, deleted by `maintain` when no alias needs it
    {uc}:card:<version>               its model card as HTML, compressed: never expires, goes with its bundle
    {uc}:aliases, {uc}:history        alias moves, signed and numbered: never expire
    {uc}:notice                       a pub/sub channel, nothing is stored
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from riskflow.errors import DeclarationError

_WORD = re.compile(r"[a-z][a-z0-9_]{0,62}")


def checked(word: str, what: str) -> str:
    """A name that may become part of a topic, key, column or path; anything else is refused."""
    if not isinstance(word, str) or not _WORD.fullmatch(word):
        raise DeclarationError(f"{what} {word!r}", "is not a name", "Use a-z, 0-9 and _, starting with a letter")
    return word


@dataclass(frozen=True)
class Names:
    """Topics and keys of one use case at one generation."""

    usecase: str
    generation: int = 1
    prefix: str = ""

    def __post_init__(self) -> None:
        checked(self.usecase, "use case")

    # topics

    def feed(self, feed: str) -> str:
        """The topic a producer writes: `card_fraud.events`."""
        return f"{self.prefix}{self.usecase}.{checked(feed, 'feed')}"

    def by(self, entity: str) -> str:
        """The internal topic keyed by an entity: `card_fraud.g1.by.customer_id`."""
        return f"{self.prefix}{self.usecase}.g{self.generation}.by.{checked(entity, 'entity')}"

    def generation_of(self, topic: str, entity: str) -> int | None:
        """The generation whose internal topic of this entity that is; None for any other topic."""
        found = re.fullmatch(re.escape(f"{self.prefix}{self.usecase}.g") + rf"(\d+)\.by\.{entity}", topic)
        return int(found.group(1)) if found else None

    @property
    def scores(self) -> str:
        return f"{self.prefix}{self.usecase}.scores"

    @property
    def shadow(self) -> str:
        """What bundles say that decide nothing, one message an event."""
        return f"{self.prefix}{self.usecase}.shadow"

    @property
    def external(self) -> str:
        """What another system says, by whoever runs it."""
        return f"{self.prefix}{self.usecase}.external"

    @property
    def rows(self) -> str:
        return f"{self.prefix}{self.usecase}.rows"

    @property
    def held(self) -> str:
        """Rows that this generation has applied while another one scored: `card_fraud.g4.held`."""
        return f"{self.prefix}{self.usecase}.g{self.generation}.held"

    def is_held(self, topic: str) -> bool:
        """Whether that is such a topic of any generation."""
        return re.fullmatch(re.escape(f"{self.prefix}{self.usecase}.g") + r"\d+\.held", topic) is not None

    @property
    def rejected(self) -> str:
        return f"{self.prefix}{self.usecase}.rejected"

    @property
    def drift(self) -> str:
        return f"{self.prefix}{self.usecase}.drift"

    @property
    def alerts(self) -> str:
        return f"{self.prefix}{self.usecase}.alerts"

    @property
    def review(self) -> str:
        return f"{self.prefix}{self.usecase}.review"

    @property
    def group(self) -> str:
        """The consumer group of the stream's workers."""
        return f"{self.prefix}{self.usecase}.g{self.generation}"

    # Redis keys; the braces are Redis Cluster's hash tag, so a head and its records live on one shard

    def head(self, stage: str, partition: int) -> str:
        return f"{self._state(stage, partition)}:head"

    def records(self, stage: str, partition: int) -> str:
        return f"{self._state(stage, partition)}:records"

    def _state(self, stage: str, partition: int) -> str:
        return f"{{{self.prefix}{self.usecase}:g{self.generation}:{stage}:{partition}}}"

    @property
    def _registry(self) -> str:
        return f"{{{self.prefix}{self.usecase}}}"

    @property
    def current_generation(self) -> str:
        return f"{self._registry}:generation"

    @property
    def beside(self) -> str:
        return f"{self._registry}:beside"

    def bundle(self, version: int) -> str:
        return f"{self._registry}:bundle:{version}"

    def card(self, version: int) -> str:
        return f"{self._registry}:card:{version}"

    @property
    def versions(self) -> str:
        return f"{self._registry}:versions"

    @property
    def aliases(self) -> str:
        return f"{self._registry}:aliases"

    @property
    def history(self) -> str:
        return f"{self._registry}:history"

    @property
    def notice(self) -> str:
        return f"{self._registry}:notice"
