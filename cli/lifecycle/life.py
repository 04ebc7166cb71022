"""What happens to a model: learned, shadowed, raced, approved, crowned, outlived, refused, rolled back."""

from __future__ import annotations

import json
import time

from cli.demo import flow
from cli.demo.flow import watch
from cli.lifecycle.stage import RUN_S, USECASE, Life, failed, follow, must
from riskflow.durations import duration_ms

DAY_MS = 86_400_000
SHADOW_S, SWAP_S = 30.0, 20.0
READ_S = 2.0  # what a person needs at least
LOOKS = 7  # whether the race can be judged


def learn(stage: Life) -> str:
    """New labels have come: Airflow learns again, and the result challenges."""
    stage.airflow.switch_on(f"{USECASE}_promote")  # the asset `challenger` starts it
    run_id = stage.airflow.trigger(f"{USECASE}_retrain", {"why": "new labels"})
    must(follow(stage, "retrain", run_id) == "success", f"the retraining failed: {failed(stage, 'retrain', run_id)}")
    published = stage.airflow.result(f"{USECASE}_retrain", run_id, "publish")
    must(published["alias"] == "challenger", f"it became {published['alias']}, not challenger")
    stage.second = int(published["version"])
    return f"version {stage.second} challenges version {stage.first}"


def shadow(stage: Life) -> str:
    """The challenger scores what the champion decides, on a topic of its own; no decision is its."""
    from kafka import KafkaConsumer, TopicPartition

    topic, said = stage.names.shadow, list[dict[str, object]]()
    consumer = KafkaConsumer(bootstrap_servers=stage.conf.kafka.split(","), enable_auto_commit=False)
    consumer.assign([TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()])
    consumer.seek_to_beginning()

    def came() -> bool:
        for records in consumer.poll(100).values():
            said.extend(json.loads(r.value) for r in records)
        return any(other["bundle"] == stage.second for message in said for other in message["others"])  # type: ignore[attr-defined]

    watch(stage, came, SHADOW_S, "a shadow score")
    consumer.close()
    stage.found["shadow_began_ms"] = stage.weather.now_ms
    must(stage.second not in stage.observer.first_ms, "the challenger has decided something")
    return f"version {stage.second} scores beside version {stage.first}, and decides nothing"


def race(stage: Life) -> str:
    """The new challenger has started a look, too early; the horizon passes, and Airflow judges: a person is asked."""
    horizon_ms = duration_ms(stage.pipeline.file.race.horizon)
    ripe_ms = stage.found["shadow_began_ms"] + horizon_ms + stage.pipeline.maturity_ms + DAY_MS // 4
    run_id = _started_by_asset(stage)
    for _ in range(LOOKS):
        state = follow(stage, "promote", run_id, until_waiting="approval")
        raced = stage.airflow.result(f"{USECASE}_promote", run_id, "race")
        if not raced["waits"]:
            break
        _town_time(stage, ripe_ms, "the race's horizon")
        ripe_ms = stage.weather.now_ms + DAY_MS  # there may be too few frauds yet
        run_id = stage.airflow.trigger(f"{USECASE}_promote", {"why": "the horizon is mature"})
    stage.found["promote_run"] = run_id
    must(state == "awaiting_input", f"nobody is asked (run is {state}); the race said {raced}")
    must(raced["winner"] == stage.second, f"version {stage.second} did not win: {raced}")
    standing = raced["evidence"]["standings"][0]
    stage.found["race"] = standing
    return (
        f"average precision {standing['challenger']:.3f} against {standing['champion']:.3f}, better by at least "
        f"{standing['lower']:.3f} on {raced['evidence']['frauds']} frauds; Airflow asks a person"
    )


def approve(stage: Life) -> str:
    """A person says yes in Airflow; the canary decides for its share, guarded, and becomes champion."""
    run_id, state = stage.found["promote_run"], "awaiting_input"
    while state == "awaiting_input":  # an answer before the scheduler has seen that the task waits makes it ask again
        _read_the_question(stage)
        stage.airflow.answer(f"{USECASE}_promote", run_id, "approval", "Approve")
        state = follow(stage, "promote", run_id, until_waiting="approval")
    must(state == "success", f"the roll-out failed: {failed(stage, 'promote', run_id)}")
    aliases = stage.registry().aliases()
    must(aliases["champion"].version == stage.second, f"champion is {aliases['champion'].version}")
    must("canary" not in aliases and "challenger" not in aliases, f"left over: {sorted(aliases)}")
    moves = [m for m in stage.registry().history("canary") if m.version == stage.second]
    must(stage.observer.first_ms[stage.second] < _moved_ms(stage), "no canary had decided before the crown")
    return f"canary at {', '.join(f'{m.share:.0%}' for m in moves)}, then champion"


def drift(stage: Life) -> str:
    """The world changes: payments are dearer and online. Airflow notices, and an asset asks for a retraining."""
    stage.weather.drifts = True
    if stage.quick:
        stage.weather.spoils = True
    before = {run["dag_run_id"] for run in stage.airflow.runs(f"{USECASE}_retrain")}
    window_ms = duration_ms(stage.pipeline.file.watch.window)
    _town_time(stage, stage.weather.now_ms + window_ms + DAY_MS // 4, "a window of other payments")
    _archive(stage)
    run_id = stage.airflow.trigger(f"{USECASE}_drift", {})
    must(follow(stage, "drift", run_id) == "success", f"the look at drift failed: {failed(stage, 'drift', run_id)}")
    found = stage.airflow.result(f"{USECASE}_drift", run_id, "drift")
    must(bool(found["drifted"] and found["alerted"] and found["retrain"]), f"drift was not noticed: {found}")
    new: list[str] = []

    def asked() -> bool:
        new[:] = [r["dag_run_id"] for r in stage.airflow.runs(f"{USECASE}_retrain") if r["dag_run_id"] not in before]
        time.sleep(0.5)
        return bool(new)

    watch(stage, asked, RUN_S, "the retraining that drift asks for")
    stage.found["drift_run"] = new[0]
    return f"{found['findings'][0]}; an alert, and run {new[0]}"


def learn_again(stage: Life) -> str:
    """The retraining that drift asked for publishes another challenger."""
    if stage.quick:
        return "left out (--quick): this retraining meets the spoiled labels"
    run_id = stage.found["drift_run"]
    must(follow(stage, "retrain", run_id) == "success", f"it failed: {failed(stage, 'retrain', run_id)}")
    published = stage.airflow.result(f"{USECASE}_retrain", run_id, "publish")
    stage.weather.spoils = True
    return f"version {published['version']} challenges"


def refuse(stage: Life) -> str:
    """Labels are spoiled: a retraining on them publishes nothing and names why."""
    versions = len(stage.registry().versions())
    if stage.quick:
        run_id = stage.found["drift_run"]
    else:
        _town_time(stage, stage.weather.now_ms + 6 * DAY_MS, "six days of spoiled labels")
        conf = {"why": "what came in is bad", "alias": "challenger"}  # another one races already
        run_id = stage.airflow.trigger(f"{USECASE}_retrain", conf)
    state = follow(stage, "retrain", run_id)
    must(state == "failed", f"spoiled labels were learned from: the run is {state}")
    said = stage.airflow.log(f"{USECASE}_retrain", run_id, "check")
    must("label_rate" in said, f"the refusal does not name the label rate: {said[-300:]}")
    must(len(stage.registry().versions()) == versions, "something was published")
    return "refused: the label rate is not within its range; nothing was published"


def past(stage: Life) -> str:
    """The other DAGs: batch scores, a backtest in a task for each day, labels, clearing away."""
    if stage.quick:
        return "left out (--quick)"
    _archive(stage)
    day = time.strftime("%Y-%m-%d", time.gmtime((stage.weather.now_ms - 5 * DAY_MS) / 1000))
    until = time.strftime("%Y-%m-%d", time.gmtime((stage.weather.now_ms - 3 * DAY_MS) / 1000))
    span = {"from": day, "to": until}
    runs = {kind: stage.airflow.trigger(f"{USECASE}_{kind}", conf) for kind, conf in (
        ("score_batch", span), ("backtest", span), ("labels", {}), ("maintain", {}),
    )}  # fmt: skip
    for kind, run_id in runs.items():
        must(follow(stage, kind, run_id) == "success", f"{kind} failed: {failed(stage, kind, run_id)}")
    scored = stage.airflow.result(f"{USECASE}_score_batch", runs["score_batch"], "score")
    tried = stage.airflow.result(f"{USECASE}_backtest", runs["backtest"], "join")
    must(scored["events"] > 0, f"nothing was scored: {scored}")
    must(tried["events"] == scored["events"], f"the backtest saw {tried['events']} events, scoring {scored['events']}")
    must(
        tried["own"] == {"events": tried["own"]["events"], "flips": 0},
        f"the champion differs from itself: {tried['own']}",
    )
    return f"{scored['events']:,} events scored in batch, and backtested day by day: the champion repeats its decisions"


def roll_back(stage: Life) -> str:
    """One step back, seen in the scores within two seconds."""
    from riskflow.keys import load_private_key

    stage.observer.first_ms.pop(stage.first, None)
    move = stage.registry().rollback(
        who="lifecycle", why="try it", private_key=load_private_key(stage.conf.keys_folder)
    )
    must(move.version == stage.first, f"it went to version {move.version}")
    watch(stage, lambda: stage.first in stage.observer.first_ms, SWAP_S, "a score by the old version")
    took_s = (stage.observer.first_ms[stage.first] - move.at_ms) / 1000
    stage.found["rollback_s"] = round(took_s, 3)
    must(took_s < 2.0, f"the rollback took {took_s:.1f} s")
    return f"version {stage.first} decides again, {took_s:.2f} s after the command"


def drain(stage: Life) -> str:
    """Airflow ends while the last payments are scored."""
    stage.keeper.let_go()
    return flow.drain(stage)


def _started_by_asset(stage: Life) -> str:
    """The run of `promote` that the new challenger has started."""
    found: list[str] = []

    def there() -> bool:
        found[:] = [
            r["dag_run_id"] for r in stage.airflow.runs(f"{USECASE}_promote") if r["run_type"] == "asset_triggered"
        ]
        time.sleep(0.5)
        return bool(found)

    watch(stage, there, RUN_S, "the run of promote that the asset `challenger` starts")
    return found[-1]


def _archive(stage: Life) -> None:
    """Brings the lake up to now, as the hourly DAG does: in the town an hour is an eighth of a second."""
    run_id = stage.airflow.trigger(f"{USECASE}_archive", {})
    must(follow(stage, "archive", run_id) == "success", f"the archive failed: {failed(stage, 'archive', run_id)}")


def _town_time(stage: Life, at_ms: int, what: str) -> None:
    """Waits until the town is there."""
    watch(stage, lambda: stage.weather.now_ms > at_ms, RUN_S, what)


def _read_the_question(stage: Life) -> None:
    """Takes a moment, as a person does: two passes of Airflow's scheduler."""
    until = time.monotonic() + READ_S
    watch(stage, lambda: time.monotonic() > until, 2 * READ_S, "the moment to read")


def _moved_ms(stage: Life) -> int:
    return next(m.at_ms for m in reversed(stage.registry().history("champion")) if m.version == stage.second)
