"""Looks for better parameters within a budget: Optuna tries what `Model(search=...)` allows, layer after layer.

A layer is searched for itself, the lowest first; what two candidates share is searched once. A trial's value is the
mean of the layer's average precision in each part of the span before the validation span, every part predicted by a
model that learned from earlier rows. The validation span is not looked at: there the race and the gates look, at rows
that no search has chosen by. Rows that are tested on are not in the training set at all.

The defaults are the first trial. Frauds are few, so the best of many trials is better by luck as well: the defaults
stay unless the best trial gains at least `least_gain` and at least one standard error of its gains over the parts.

A trial draws from a generator of its own, seeded by the search's seed, the layer and how many trials were finished. So
a search that was interrupted goes on as if it had not been, and the same seed and number of trials find the same.
A trial that raises is written down and skipped.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from batch.pipeline_search import SearchFile
from batch.recipes import defaults, recipe
from batch.search_history import write_history
from riskflow.bundle import Bundle
from riskflow.declare import Between, OneOf, Space
from riskflow.errors import NotReady
from riskflow.sources import fingerprint

if TYPE_CHECKING:
    from batch.train import Learner

DEFAULT, WARM, SAMPLED = "default", "warm start", "sampled"
COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
JOURNAL, SAID = "journal.log", "said"
COMPLETE_BEFORE_PRUNING = 5  # trials that were seen to their end, before one may be given up early
PARTS_BEFORE_PRUNING = 2  # the first part alone says little
Parameters = dict[str, Any]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Trial:
    """One set of parameters; `parts` are the average precisions that were reached."""

    number: int
    origin: str
    state: str
    parameters: Parameters
    parts: Sequence[float] = ()
    seconds: float = 0.0
    error: str = ""

    @property
    def value(self) -> float | None:
        return float(np.mean(self.parts)) if self.parts and self.state == COMPLETE else None


@dataclass(frozen=True)
class Found:
    """What the search of one layer came to. `parameters` are those to train with: the defaults' stay unsaid."""

    key: str  # the layer with the choices made in and below it
    layer: str
    candidate: str
    parameters: Parameters
    origin: str = DEFAULT
    trials: tuple[Trial, ...] = ()
    importance: Mapping[str, float] = field(default_factory=dict)
    gain: float | None = None  # of the best trial over the defaults
    standard_error: float | None = None  # of that gain
    remark: str = ""

    def summary(self) -> dict[str, Any]:
        """Without the trials, which stand in the history."""
        values = [t.value for t in self.trials if t.value is not None]
        first = next((t.value for t in self.trials if t.origin == DEFAULT), None)
        said = ("candidate", "parameters", "origin", "gain", "standard_error", "remark")
        tried = {"trials": len(self.trials), "default": first, "best": max(values, default=None)}
        return {**{name: getattr(self, name) for name in said}, **tried}


class Search:
    """The searches of one training. `begin`: a bundle of the same use case, whose parameters are tried early.

    folder: where the history is kept and an interrupted search goes on; None keeps it in memory.
    """

    def __init__(
        self, wishes: SearchFile, folder: Path | None = None, begin: Bundle | None = None, clock: Clock = time.monotonic
    ) -> None:
        self.wishes, self.folder, self._clock = wishes, folder, clock
        self._begun = dict(begin.metrics.get("layers", {})) if begin else {}
        self._begun_at = begin.version if begin else None
        self.found: dict[str, Found] = {}  # by the layer's key

    def find(self, learner: Learner, candidates: Sequence[str]) -> None:
        """Searches every layer that these candidates need, and tells the learner what to use."""
        todo = _searchable(learner, candidates)
        until = self._clock() + self.wishes.seconds if self.wishes.seconds else None
        storage = _storage(self.folder) if self.wishes.on and todo else None
        for i, (key, (name, candidate)) in enumerate(todo.items()):
            now = self._clock()
            ends = None if until is None else now + max(0.0, until - now) / (len(todo) - i)
            layer = _LayerSearch(learner, name, candidate, self.wishes, self._warm(learner, name, candidate))
            found = layer.inherit() if storage is None else layer.search(storage, ends, self._clock)
            self.found[key] = found
            if found.parameters:
                learner.parameters[key] = found.parameters
            if self.folder is not None and storage is not None:
                write_history(self.folder, list(self.found.values()))

    def summary(self, keys: Sequence[str]) -> dict[str, Any]:
        """What was found for these layers, as plain JSON."""
        layers = {self.found[key].layer: self.found[key].summary() for key in keys if key in self.found}
        budget = {name: getattr(self.wishes, name) for name in ("trials", "seconds", "seed", "least_gain")}
        return {**budget, "warm_start": self._begun_at, "layers": layers}

    def _warm(self, learner: Learner, name: str, candidate: str) -> Parameters:
        """What the other bundle's layer was made with, if by the same candidate."""
        made = self._begun.get(name, {})
        return dict(made.get("parameters", {})) if made.get("candidate") == learner.choice(name, candidate) else {}


def _searchable(learner: Learner, candidates: Sequence[str]) -> dict[str, tuple[str, str]]:
    """(layer, candidate) by the layer's key: each layer once, the lowest first; none that is kept as it is."""
    models = learner.plan.usecase.models
    return {
        learner.key(name, candidate): (name, candidate)
        for name in learner.plan.models
        for candidate in candidates
        if name not in learner.given.choices and learner.choice(name, candidate) in models[name].search
    }


class _LayerSearch:
    """The search of one layer."""

    def __init__(self, learner: Learner, name: str, candidate: str, wishes: SearchFile, warm: Parameters) -> None:
        self.learner, self.name, self.candidate, self.wishes = learner, name, candidate, wishes
        self.choice, self.key = learner.choice(name, candidate), learner.key(name, candidate)
        self.factory = learner.factory(name, candidate)
        self.space: Space = learner.plan.usecase.models[name].search[self.choice]
        self.defaults = defaults(self.factory, self.space)
        outside = sorted(n for n, v in warm.items() if n not in self.space or v not in self.space[n])
        self.warm = {} if outside else warm
        self.remark = f"warm start left out: {', '.join(outside)} not in the search" if outside else ""

    def inherit(self) -> Found:
        """Without a budget the other bundle's parameters are taken as they are."""
        return Found(self.key, self.name, self.choice, self.warm, WARM if self.warm else DEFAULT, remark=self.remark)

    def search(self, storage: Any, ends: float | None, clock: Clock) -> Found:
        """Tries until the budget is spent, and decides."""
        study = self._study(storage)
        while self._left(study) and (ends is None or clock() < ends):
            self._try(study, clock)
        return self._decide(_trials(study), _importance(study, self.wishes.seed))

    def _study(self, storage: Any) -> Any:
        import optuna

        pruner = optuna.pruners.MedianPruner(COMPLETE_BEFORE_PRUNING, n_warmup_steps=PARTS_BEFORE_PRUNING - 1)
        with _quiet():
            study = optuna.create_study(
                storage=storage, study_name=self._identity(), direction="maximize", pruner=pruner, load_if_exists=True
            )
        _close_interrupted(study)
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(self.defaults, user_attrs={"origin": DEFAULT})
            if self.warm and {**self.defaults, **self.warm} != self.defaults:
                study.enqueue_trial({**self.defaults, **self.warm}, user_attrs={"origin": WARM})
        return study

    def _identity(self) -> str:
        """The study's name: with other rows, another factory, space, seed or start it is another study."""
        rows = self.learner.digest(self.name, self.candidate)
        space = sorted((name, repr(values)) for name, values in self.space.items())
        told = (rows, recipe(self.factory), space, self.defaults, self.warm, self.wishes.seed, self.wishes.gap_ms)
        return f"{self.key} {fingerprint(*told)}"

    def _left(self, study: Any) -> bool:
        return not self.wishes.trials or len(_trials(study)) < self.wishes.trials

    def _try(self, study: Any, clock: Clock) -> None:
        import optuna

        started = clock()
        study.sampler = optuna.samplers.TPESampler(seed=self._seed(study))
        trial = study.ask()
        parameters = {name: _suggest(trial, name, values) for name, values in self.space.items()}
        parts: list[float] = []
        state, error = COMPLETE, ""
        try:
            for value in self.learner.part_scores(self.name, self.candidate, parameters, self.wishes.gap_ms):
                parts.append(value)
                trial.report(float(np.mean(parts)), len(parts) - 1)
                if len(parts) < self.learner.last - 1 and trial.should_prune():
                    state = PRUNED
                    break
            if not parts:
                state, error = FAILED, "no part has enough frauds before it to learn from"
        except Exception as raised:  # whatever an estimator raises, others may do
            state, error = FAILED, f"{type(raised).__name__}: {raised}"
        said = {"state": state, "parts": parts, "seconds": clock() - started, "error": error}
        trial.set_user_attr(SAID, said)
        _tell(study, trial.number, said)

    def _seed(self, study: Any) -> int:
        words = [self.wishes.seed, zlib.crc32(study.study_name.encode()), len(_trials(study))]
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    def _decide(self, trials: Sequence[Trial], importance: Mapping[str, float]) -> Found:
        """The best trial if it is better than the defaults beyond luck, else the defaults."""
        complete = [t for t in trials if t.value is not None]
        base = next((t for t in complete if t.origin == DEFAULT), None)
        best = max(complete, key=lambda t: (t.value, -t.number), default=None)
        kept = Found(self.key, self.name, self.choice, {}, DEFAULT, tuple(trials), importance, remark=self.remark)
        if best is None or best is base:
            return kept
        gain, error = gain_of(best.parts, base.parts) if base else (None, None)
        taken = gain is None or gain >= max(self.wishes.least_gain, error or 0.0, 1e-12)
        changed = {n: v for n, v in best.parameters.items() if v != self.defaults[n]}
        parameters, origin = (changed, best.origin) if taken else ({}, DEFAULT)
        return Found(
            self.key, self.name, self.choice, parameters, origin, tuple(trials), importance, gain, error, self.remark
        )  # fmt: skip


def gain_of(parts: Sequence[float], base: Sequence[float]) -> tuple[float, float | None]:
    """The mean gain over the same parts and its standard error; None of one part, which has none.

    The rule of one standard error: Breiman et al., Classification and Regression Trees, 1984, section 3.4.3.
    """
    gains = np.subtract(parts, base)
    error = float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else None
    return float(gains.mean()), error


# ---- Optuna ----------------------------------------------------------------------------------------------------------


def _storage(folder: Path | None) -> Any:
    """Where trials are kept: a journal that a search which was interrupted goes on with."""
    try:
        from optuna.storages import InMemoryStorage, JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise NotReady("the search needs Optuna, which is not installed. Run `make setup`, or set no budget") from None
    if folder is None:
        return InMemoryStorage()
    folder.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))


def _suggest(trial: Any, name: str, values: Between | OneOf) -> Any:
    if isinstance(values, OneOf):
        return trial.suggest_categorical(name, list(values.values))
    suggest = trial.suggest_int if values.whole else trial.suggest_float
    return suggest(name, values.low, values.high, log=values.log)


def _tell(study: Any, number: int, said: Mapping[str, Any]) -> None:
    from optuna.trial import TrialState

    state = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}[said["state"]]
    study.tell(number, float(np.mean(said["parts"])) if state == TrialState.COMPLETE else None, state)


def _close_interrupted(study: Any) -> None:
    """A trial during which the process ended counts for nothing; one that was asked for is tried again."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if SAID in trial.user_attrs:
            _tell(study, trial.number, trial.user_attrs[SAID])
            continue
        study.tell(trial.number, state=TrialState.FAIL)
        if "origin" in trial.user_attrs:
            study.enqueue_trial(trial.system_attrs["fixed_params"], user_attrs=trial.user_attrs)


def _trials(study: Any) -> list[Trial]:
    """What was tried to an end, in order."""
    ended = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and SAID in t.user_attrs]
    return [Trial(i, _origin(t), parameters=dict(t.params), **t.user_attrs[SAID]) for i, t in enumerate(ended)]


def _origin(trial: Any) -> str:
    return str(trial.user_attrs.get("origin", SAMPLED))


def _importance(study: Any, seed: int) -> dict[str, float]:
    """How much of the difference between trials each parameter explains (fANOVA, Hutter et al. 2014)."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    complete = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    if len({t.value for t in complete}) < 3:
        return {}
    try:
        with _quiet():
            found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))
    except (RuntimeError, ValueError):  # too few trials that differ
        return {}
    return {name: float(share) for name, share in found.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna tells every study and every value at level INFO."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
