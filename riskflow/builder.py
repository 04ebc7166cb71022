"""Builds a plan: checks all that a use case states, and orders it by where it becomes known."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from riskflow import windows as kernel
from riskflow.aggregates import Aggregate, Count, Distinct
from riskflow.declare import CATEGORY, FLAG, NUMBER, TEXT, Entity, FieldType, Mark, Model, Windows
from riskflow.durations import duration_ms
from riskflow.errors import DeclarationError
from riskflow.layout import LayoutMaker
from riskflow.loops import MarkCall
from riskflow.names import checked
from riskflow.plan import ANY_FEED, CALCULATION, FIELD, MARK, MODEL, TIME, WINDOW, Node, Plan, Stage, WindowRead
from riskflow.sources import compiled_source, fingerprint, is_flag, with_helpers
from riskflow.trial import try_functions
from riskflow.usecase import UseCase, parameters

RESERVED = frozenset({TIME, "events"})


class Builder:
    """Builds a plan step by step: fields, then whatever becomes known, entity after entity, then models."""

    def __init__(self, usecase: UseCase) -> None:
        self.usecase = usecase
        self.nodes: dict[str, Node] = {}
        self.stage_of = {e.field: i for i, e in enumerate(usecase.entities)}
        self.reads: dict[int, list[WindowRead]] = {i: [] for i in self.stage_of.values()}
        self.waiting = dict(usecase.calculations)
        self.layouts: list[tuple[str, str]] = []

    def plan(self) -> Plan:
        """The plan; raises DeclarationError naming who, what was found, and the fix."""
        self._check_names()
        self._check_owners()
        self._add_fields()
        self._check_calculations()
        first = self._add_known_calculations(-1)
        stages = tuple(self._stage(i, e) for i, e in enumerate(self.usecase.entities))
        models = self._add_models()
        plan = Plan(self.usecase, self.nodes, stages, first, models, fingerprint(self.layouts))
        try_functions(plan)
        return plan

    # what is stated at all

    def _check_names(self) -> None:
        usecase = self.usecase
        if not usecase.feeds or not usecase.entities:
            raise DeclarationError(
                f"use case {usecase.name!r}", "has no feed or no entity", "Declare them in events.py"
            )
        if len(self.stage_of) < len(usecase.entities):
            raise DeclarationError(
                f"entities {[e.field for e in usecase.entities]}", "name one field twice", "Declare each entity once"
            )
        if usecase.entities[0].optional:
            raise DeclarationError(
                f"entity {usecase.entities[0].field!r}",
                "is the first and optional",
                "Put one that every event has first",
            )
        for owner, names in self._owners():
            for name in names:
                checked(name, owner)
                if name in RESERVED:
                    raise DeclarationError(f"{owner} {name!r}", "has a reserved name", f"Not one of {sorted(RESERVED)}")

    def _check_owners(self) -> None:
        """Windows and marks belong to an entity and a feed of this use case."""
        declared: dict[str, Windows | Mark] = {**self.usecase.windows, **self.usecase.marks}
        for name, thing in declared.items():
            who = f"{'mark' if isinstance(thing, Mark) else 'windows'} {name!r}"
            if thing.by not in self.usecase.entities:
                raise DeclarationError(
                    who, f"is by {thing.by.field!r}, which is no entity here", f"By one of {list(self.stage_of)}"
                )
            if thing.on is not None and thing.on not in self.usecase.feeds:
                raise DeclarationError(
                    who, f"is on {thing.on.name!r}, which is no feed here", "Declare the feed in events.py"
                )

    def _owners(self) -> Iterator[tuple[str, list[str]]]:
        yield "calculation", list(self.usecase.calculations)
        yield "mark", list(self.usecase.marks)
        yield "windows", list(self.usecase.windows)
        yield "model", list(self.usecase.models)
        yield "transfer", list(self.usecase.transfers)
        for feed in self.usecase.feeds:
            yield f"field of feed {feed.name!r}", [*feed.fields, feed.id, feed.at]

    def _add(self, node: Node) -> None:
        if node.name in self.nodes or node.name in self.stage_of:
            other = self.nodes[node.name].what if node.name in self.nodes else "entity"
            raise DeclarationError(
                f"{node.what} {node.name!r}", f"has the name of a {other}", "Give one of them another name"
            )
        self.nodes[node.name] = node

    def _add_fields(self) -> None:
        self.nodes[TIME] = Node(TIME, FIELD, (), -1, ANY_FEED, "", FieldType(NUMBER, False))
        for feed in self.usecase.feeds:
            for name, kind in feed.types.items():
                known = self.nodes.get(name)
                if known is not None and (known.type.kind, known.type.values) != (kind.kind, kind.values):
                    raise DeclarationError(
                        f"feed {feed.name!r}, field {name!r}",
                        f"is a {_type_text(kind)} here and a {_type_text(known.type)} before",
                        "Use one type",
                    )
                if name in self.stage_of:
                    raise DeclarationError(
                        f"feed {feed.name!r}, field {name!r}", "is an entity", "Leave it out of fields"
                    )
                feeds = (known.feeds if known else frozenset()) | {feed.name}
                keep = known.type if known else kind
                self.nodes[name] = Node(
                    name, FIELD, (), -1, feeds, fingerprint(FIELD, name, keep.kind, keep.values), keep
                )

    def _check_calculations(self) -> None:
        """Every input of a calculation is declared somewhere, and none needs itself."""
        known = {*self.nodes, *self.usecase.marks, *(r.name for r in self._all_reads())}
        for name, function in self.waiting.items():
            for i in parameters(function):
                self._known(f"calculation {name!r}", i, known | set(self.waiting))
        waiting = dict(self.waiting)
        while ready := [n for n, f in waiting.items() if known.issuperset(parameters(f))]:
            known.update(ready)
            for name in ready:
                del waiting[name]
        if waiting:
            raise DeclarationError(
                f"calculations {', '.join(waiting)}", "need each other in a circle", "Break it at one of them"
            )

    def _all_reads(self) -> Iterator[WindowRead]:
        for variable, declared in self.usecase.windows.items():
            yield from self._reads_of(variable, declared)

    # what becomes known, stage after stage

    def _stage(self, index: int, entity: Entity) -> Stage:
        mine = {n: w for n, w in self.usecase.windows.items() if w.by == entity}
        marks = {n: m for n, m in self.usecase.marks.items() if m.by == entity}
        entered = set(self.nodes)
        self._name_windows(index, mine)
        self._add_marks(index, marks, entered)
        self._check_windows(index, mine, entered | set(marks))
        self._complete_prints([r.name for r in self.reads[index]] + list(marks))
        calculations = self._add_known_calculations(index)
        made = LayoutMaker(self.usecase, self.nodes, self.reads[index], marks)
        self.layouts.append((entity.field, made.description()))
        return Stage(
            index, entity, tuple(self.reads[index]), marks, made.observed, made.layout(index == 0),
            self._kinds_read(marks), calculations, self._mark_calls(index, marks, made.observed),
        )  # fmt: skip

    def _name_windows(self, index: int, mine: dict[str, Windows]) -> None:
        scored = frozenset({self.usecase.feeds[0].name})
        for variable, declared in mine.items():
            for read in self._reads_of(variable, declared):
                inputs = () if read.field == "events" or read.field in self.stage_of else (read.field,)
                what = (WINDOW, declared.by.field, read.feed, read.field, read.aggregate.name, read.window_ms)
                self.reads[index].append(read)
                self._add(Node(read.name, WINDOW, inputs, index, scored, fingerprint(*what)))

    def _reads_of(self, variable: str, declared: Windows) -> Iterator[WindowRead]:
        feed = (declared.on or self.usecase.feeds[0]).name
        for name, aggregates in declared.fields.items():
            for window in declared.over:
                ms = duration_ms(window)
                if not kernel.SHORTEST_MS <= ms <= kernel.LONGEST_MS:
                    raise DeclarationError(f"windows {variable!r}", f"has a window of {window}", "Use 1m to 90d")
                for aggregate in aggregates:
                    yield WindowRead(f"{variable}_{name}_{aggregate.name}_{window}", name, aggregate, ms, feed)

    def _add_marks(self, index: int, marks: dict[str, Mark], entered: set[str]) -> None:
        known = entered | {r.name for r in self.reads[index]}
        for name, declared in marks.items():
            feed = (declared.on or self.usecase.feeds[0]).name
            inputs = parameters(declared.function)
            for i in inputs:
                self._check_mark_input(f"mark {name!r}", i, feed, known, marks)
            flag = FieldType(FLAG if is_flag(declared.function) else NUMBER, True)
            print_ = fingerprint(MARK, declared.by.field, feed, with_helpers(declared.function), inputs)
            self._add(Node(name, MARK, inputs, index, frozenset({feed}), print_, flag))
            known.add(name)

    def _check_mark_input(self, who: str, name: str, feed: str, known: set[str], marks: dict[str, Mark]) -> None:
        if name in marks and name not in known:
            raise DeclarationError(who, f"takes the mark {name!r}, which is made after it", "Put that one first")
        self._known(who, name, known)
        node = self.nodes[name]
        if node.type.kind == TEXT:
            raise DeclarationError(who, f"takes the text {name!r}", "Marks take numbers; declare it as Literal[...]")
        if node.what != WINDOW and node.feeds != ANY_FEED and feed not in node.feeds:
            raise DeclarationError(
                who, f"takes {name!r}, which rows of feed {feed!r} do not have", f"It is of {sorted(node.feeds)}"
            )

    def _check_windows(self, index: int, mine: dict[str, Windows], known: set[str]) -> None:
        for variable, declared in mine.items():
            feed = (declared.on or self.usecase.feeds[0]).name
            for name, aggregates in declared.fields.items():
                who = f"windows {variable!r}, field {name!r}"
                if name == "events" or name in self.stage_of:
                    self._check_types(who, name, aggregates, TEXT if name in self.stage_of else NUMBER)
                    continue
                self._check_observable(who, name, index, known)
                node = self.nodes[name]
                if node.feeds != ANY_FEED and feed not in node.feeds:
                    raise DeclarationError(
                        who, f"is not known in rows of feed {feed!r}", f"Observe it on {sorted(node.feeds)}"
                    )
                self._check_types(who, name, aggregates, node.type.kind)

    def _check_observable(self, who: str, name: str, index: int, known: set[str]) -> None:
        if name in self.usecase.models or name in self.usecase.transfers:
            raise DeclarationError(who, "is the output of a model", "Observe what the model listens to instead")
        if name in known:
            return
        if name in self.nodes or name in self.usecase.calculations or name in self.usecase.marks:
            raise DeclarationError(
                who, f"is known only after entity {self.usecase.entities[index].field!r} has been observed",
                "Make it a mark of this entity, or observe it at a later entity",
            )  # fmt: skip
        raise DeclarationError(who, "is not known", f"Name a field, mark or calculation: {_near(name, known)}")

    def _check_types(self, who: str, name: str, aggregates: tuple[Aggregate, ...], kind: str) -> None:
        for a in aggregates:
            if kind in (TEXT, CATEGORY) and not isinstance(a, Distinct):
                raise DeclarationError(
                    who, f"is a {kind} and has {type(a).__name__}", "Only Distinct counts such values"
                )
            if name == "events" and not isinstance(a, Count) and a.name != "time_since_last":
                raise DeclarationError(who, f"has {type(a).__name__}", "`events` knows Count and TimeSinceLast only")

    def _complete_prints(self, names: list[str]) -> None:
        """Windows and marks of one entity may need each other; each print holds all that it needs, however far."""
        stated = {n: self.nodes[n].fingerprint for n in names}
        for name in names:
            reached, todo = {name}, [name]
            while todo:
                found = [i for i in self.nodes[todo.pop()].inputs if i not in reached]
                reached.update(found)
                todo += [i for i in found if i in stated]
            others = sorted((n, stated[n] if n in stated else self.nodes[n].fingerprint) for n in reached - {name})
            self.nodes[name] = replace(self.nodes[name], fingerprint=fingerprint(stated[name], others))

    def _add_known_calculations(self, index: int) -> tuple[str, ...]:
        added: list[str] = []
        progress = True
        while progress:
            ready = [n for n, f in self.waiting.items() if all(p in self.nodes for p in parameters(f))]
            progress = bool(ready)
            for name in ready:
                self._add_calculation(name, self.waiting.pop(name), index)
                added.append(name)
        return tuple(added)

    def _add_calculation(self, name: str, function: Callable[..., Any], index: int) -> None:
        inputs = parameters(function)
        for i in inputs:
            if self.nodes[i].type.kind == TEXT:
                raise DeclarationError(
                    f"calculation {name!r}", f"takes the text {i!r}", "Declare it as Literal[...] to calculate with it"
                )
        known = [self.nodes[i].feeds for i in inputs if self.nodes[i].feeds != ANY_FEED]
        feeds = frozenset.intersection(*known) if known else ANY_FEED
        if not feeds:
            raise DeclarationError(
                f"calculation {name!r}", f"has inputs {inputs} of different feeds", "No row has all of them"
            )
        kind = FieldType(FLAG if is_flag(function) else NUMBER, True)
        self._add(Node(name, CALCULATION, inputs, index, feeds, self._print(CALCULATION, function, inputs), kind))

    def _known(self, who: str, name: str, known: set[str]) -> None:
        if name in self.usecase.models or (name in self.usecase.transfers and name not in known):
            raise DeclarationError(who, f"takes the model {name!r}", "Only models listen to models")
        if name in self.stage_of:
            raise DeclarationError(
                who, f"takes the id {name!r}", "Ids are not features; use Windows(by=...) or Distinct"
            )
        if name not in known:
            hint = "Declare it, or use a known name"
            raise DeclarationError(who, f"takes {name!r}, which is not known here", f"{hint}: {_near(name, known)}")

    def _print(self, what: str, function: Callable[..., Any], inputs: tuple[str, ...]) -> str:
        return fingerprint(what, with_helpers(function), inputs, [self.nodes[i].fingerprint for i in inputs])

    # the kernel's side

    def _kinds_read(self, marks: dict[str, Mark]) -> tuple[bool, ...]:
        marked = {(m.on or self.usecase.feeds[0]).name for m in marks.values()}
        return tuple(i == 0 or f.name in marked for i, f in enumerate(self.usecase.feeds))

    def _mark_calls(self, index: int, marks: dict[str, Mark], observed: tuple[str, ...]) -> tuple[MarkCall, ...]:
        reads = [r.name for r in self.reads[index]]

        def expression(name: str) -> str:
            if name == TIME:
                return "t"
            return f"reads[row, {reads.index(name)}]" if name in reads else f"observed[{observed.index(name)}, i]"

        return tuple(
            MarkCall(
                [f.name for f in self.usecase.feeds].index((m.on or self.usecase.feeds[0]).name),
                *compiled_source(name, m.function),
                tuple(expression(i) for i in parameters(m.function)),
                observed.index(name),
            )
            for name, m in marks.items()
        )

    # models

    def _add_models(self) -> tuple[str, ...]:
        self._add_transfers()
        order: list[str] = []
        waiting = dict(self.usecase.models)
        while waiting:
            ready = [n for n, m in waiting.items() if not any(u in waiting for u in m.uses)]
            if not ready:
                raise DeclarationError(
                    f"models {', '.join(waiting)}", "listen to each other in a circle", "Break it at one"
                )
            for name in ready:
                self._add_model(name, waiting.pop(name))
                order.append(name)
        self._check_one_score(order)
        return tuple(order)

    def _add_transfers(self) -> None:
        """Nodes without inputs here: what their models listen to is known once their bundle is."""
        last, scored = len(self.usecase.entities) - 1, frozenset({self.usecase.feeds[0].name})
        for name, transfer in self.usecase.transfers.items():
            print_ = fingerprint(MODEL, name, transfer.usecase, transfer.bundle)
            self._add(Node(name, MODEL, (), last, scored, print_))

    def _add_model(self, name: str, model: Model) -> None:
        inputs = tuple(dict.fromkeys(i for use in model.uses for i in self._resolve(name, use)))
        scored = self.usecase.feeds[0].name
        for i in inputs:
            node = self.nodes[i]
            if node.feeds != ANY_FEED and scored not in node.feeds:
                raise DeclarationError(
                    f"model {name!r}", f"listens to {i!r}, which events do not have", f"It is of {sorted(node.feeds)}"
                )
        last = len(self.usecase.entities) - 1
        prints = [self.nodes[i].fingerprint for i in inputs]
        self._add(Node(name, MODEL, inputs, last, frozenset({scored}), fingerprint(MODEL, name, inputs, prints)))

    def _resolve(self, model: str, use: str) -> list[str]:
        who = f"model {model!r}"
        if not any(c in use for c in "*?["):
            self._known(who, use, set(self.nodes)) if use not in self.usecase.models else None
            return [use]
        raw = [
            n
            for n in (*self.stage_of, *(n for n, x in self.nodes.items() if x.what == FIELD))
            if fnmatch.fnmatchcase(n, use)
        ]
        if raw:
            raise DeclarationError(
                who,
                f"has the pattern {use!r}, which matches the raw fields {raw}",
                "Name the fields you mean, narrow the pattern",
            )
        found = [
            n for n, x in self.nodes.items() if x.what in (WINDOW, MARK, CALCULATION) and fnmatch.fnmatchcase(n, use)
        ]
        found = [
            n for n in found if self.usecase.feeds[0].name in self.nodes[n].feeds or self.nodes[n].feeds == ANY_FEED
        ]
        if not found:
            raise DeclarationError(
                who, f"has the pattern {use!r}, which matches no feature", f"Nearest: {_near(use, set(self.nodes))}"
            )
        return found

    def _check_one_score(self, order: list[str]) -> None:
        used = {u for m in self.usecase.models.values() for u in m.uses}
        ends = [n for n in order if n not in used]
        if len(ends) > 1:
            raise DeclarationError(
                f"models {', '.join(ends)}",
                "are all last",
                "Let one model listen to the others: its output is the score",
            )
        if ends and order[-1] != ends[0]:
            order.remove(ends[0])
            order.append(ends[0])


def _type_text(kind: FieldType) -> str:
    return f"{kind.kind} of {', '.join(kind.values)}" if kind.values else kind.kind


def _near(name: str, known: set[str]) -> str:
    import difflib

    return ", ".join(difflib.get_close_matches(name, known, 3, 0.3)) or "there is nothing like it"
