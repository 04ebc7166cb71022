"""A bare loop over aiokafka: the same as librdkafka_loop.py with a client that works message by message in Python."""

from __future__ import annotations

import asyncio
import time

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from blocks import Job
from job import arguments

COMMIT_S = 1.0
given = arguments()
inner = f"{given.out}-by-terminal"


async def main() -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=given.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(inner, given.partitions, 1)])
    await admin.close()
    consumer = AIOKafkaConsumer(
        given.source, inner, bootstrap_servers=given.bootstrap, group_id=given.out, enable_auto_commit=False,
        auto_offset_reset="earliest", isolation_level="read_committed",
    )  # fmt: skip
    producer = AIOKafkaProducer(
        bootstrap_servers=given.bootstrap, linger_ms=5, max_request_size=4_000_000, max_batch_size=512 * 1024
    )
    async with consumer, producer:
        await loop(consumer, producer, Job(given.model, given.partitions))


async def loop(consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, job: Job) -> None:
    committed = time.monotonic()
    while True:
        fetched = await consumer.getmany(timeout_ms=1000)
        sent = []
        for tp, records in fetched.items():
            if tp.topic == given.source:
                for partition, block in job.customers([r.value for r in records]):
                    sent.append(await producer.send(inner, block, partition=partition))
            else:
                for record in records:
                    for key, score in job.terminals(record.value):
                        sent.append(await producer.send(given.out, score, key))
        if fetched and time.monotonic() > committed + COMMIT_S:
            await asyncio.gather(*sent)
            await consumer.commit()
            committed = time.monotonic()


uvloop.run(main())
