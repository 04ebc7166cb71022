"""A bare loop over librdkafka (confluent-kafka), in one Python thread. It promises nothing: a bound for Python."""

from __future__ import annotations

import time
from collections import defaultdict

from blocks import Job
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from job import arguments

MOST_MESSAGES, COMMIT_S = 5_000, 1.0

given = arguments()
inner = f"{given.out}-by-terminal"
admin = AdminClient({"bootstrap.servers": given.bootstrap})
admin.create_topics([NewTopic(inner, given.partitions, 1)])[inner].result()
consumer = Consumer({
    "bootstrap.servers": given.bootstrap, "group.id": given.out, "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
})  # fmt: skip
producer = Producer({
    "bootstrap.servers": given.bootstrap, "linger.ms": 5, "message.max.bytes": 4_000_000,
    "queue.buffering.max.messages": 1_000_000,
})  # fmt: skip
job = Job(given.model, given.partitions)
consumer.subscribe([given.source, inner])

committed = time.monotonic()
while True:
    fetched = defaultdict(list)
    for message in consumer.consume(MOST_MESSAGES, 0.005):
        if not message.error():
            fetched[message.topic(), message.partition()].append(message.value())
    for (topic, _), values in fetched.items():
        if topic == given.source:
            for partition, block in job.customers(values):
                producer.produce(inner, block, partition=partition)
        else:
            for value in values:
                for key, score in job.terminals(value):
                    producer.produce(given.out, score, key)
    producer.poll(0)
    if fetched and time.monotonic() > committed + COMMIT_S:
        producer.flush()
        consumer.commit(asynchronous=False)
        committed = time.monotonic()
