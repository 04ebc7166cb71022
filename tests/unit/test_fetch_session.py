"""What a broker is asked and answers, against aiokafka's description of the protocol, and a broker's memory."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import hypothesis.strategies as st
from aiokafka.protocol.fetch import FetchRequest_v11, FetchResponse_v11
from faust.types import TP
from hypothesis import given

from stream.fetch_session import (
    MAX_BYTES,
    MAX_PARTITION_BYTES,
    MAX_WAIT_MS,
    READ_COMMITTED,
    Answer,
    FetchRequest,
    FetchStruct,
    Session,
)

PARTITIONS = [TP(topic, p) for topic in ("a", "bé") for p in range(3)]
WANTED = st.dictionaries(st.sampled_from(PARTITIONS), st.integers(0, 2**62))


def asked(fetch: FetchRequest) -> Any:
    """The request's fields, read by aiokafka."""
    return FetchRequest_v11.decode(fetch.build(FetchStruct).encode())


def offsets(request: Any) -> dict[TP, int]:
    return {TP(topic, p): offset for topic, mine in request.topics for p, _, offset, _, _ in mine}


def left(request: Any) -> set[TP]:
    return {TP(topic, p) for topic, mine in request.forgotten_topics_data for p in mine}


@given(WANTED)
def test_a_first_request_asks_for_everything_in_the_protocol_s_words(wanted: dict[TP, int]) -> None:
    fetch = Session().request(wanted)
    request = asked(fetch)
    assert request.encode() == fetch.build(FetchStruct).encode()
    assert (request.max_wait_time, request.min_bytes, request.max_bytes) == (MAX_WAIT_MS, 1, MAX_BYTES)
    assert (request.isolation_level, request.session_id, request.session_epoch) == (READ_COMMITTED, 0, 0)
    assert offsets(request) == wanted
    assert not left(request)
    assert all(m[4] == MAX_PARTITION_BYTES for _, mine in request.topics for m in mine)


@given(st.lists(WANTED, min_size=1, max_size=8))
def test_a_broker_that_remembers_always_knows_what_is_wanted_now(rounds: list[dict[TP, int]]) -> None:
    session, remembered = Session(), dict[TP, int]()
    for number, wanted in enumerate(rounds):
        request = asked(session.request(wanted))
        assert (request.session_id, request.session_epoch) == ((77, number) if number else (0, 0))
        remembered |= offsets(request)
        for tp in left(request):
            del remembered[tp]
        assert remembered == wanted
        session.answered(Answer(0, 77, []))


def test_only_what_changed_is_asked_again() -> None:
    session = Session()
    session.request({PARTITIONS[0]: 1, PARTITIONS[1]: 2})
    session.answered(Answer(0, 77, []))
    assert offsets(asked(session.request({PARTITIONS[0]: 1, PARTITIONS[1]: 3}))) == {PARTITIONS[1]: 3}
    session.answered(Answer(0, 77, []))
    session.again(PARTITIONS[0])
    assert offsets(asked(session.request({PARTITIONS[0]: 1, PARTITIONS[1]: 3}))) == {PARTITIONS[0]: 1}


def test_a_broker_without_room_for_a_session_is_told_everything_each_time() -> None:
    session, wanted = Session(), {PARTITIONS[0]: 1, PARTITIONS[4]: 2}
    for _ in range(3):
        request = asked(session.request(wanted))
        assert (request.session_id, request.session_epoch, offsets(request)) == (0, 0, wanted)
        session.answered(Answer(0, 0, []))


FOUND = st.tuples(
    st.integers(0, 9),
    st.integers(-1, 90),
    st.none() | st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)), max_size=3),
    st.none() | st.binary(max_size=40),
)


@given(st.integers(-1, 90), st.integers(0, 2**31 - 1), st.lists(st.tuples(st.text(max_size=5), st.lists(FOUND))))
def test_an_answer_is_cut_as_the_protocol_describes_it(error: int, session: int, topics: list[Any]) -> None:
    described = [
        (topic, [(p, code, 8, 7, 0, aborted, -1, data) for p, code, aborted, data in found]) for topic, found in topics
    ]
    answer = Answer.decode(BytesIO(FetchResponse_v11(0, error, session, described).encode()))
    assert (answer.error, answer.session) == (error, session)
    assert [(f.tp, f.error, f.aborted, f.data) for f in answer.found] == [
        (TP(topic, p), code, aborted or [], data or b"") for topic, found in topics for p, code, aborted, data in found
    ]
