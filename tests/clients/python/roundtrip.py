"""Writes and reads records with confluent-kafka (librdkafka), one JSON object a line.

  roundtrip.py produce BOOTSTRAP TOPIC PARTITION CODEC   records on standard input
  roundtrip.py consume BOOTSTRAP TOPIC PARTITION COUNT   records on standard output, with their offsets
  roundtrip.py files   BOOTSTRAP TOPIC PARTITION COUNT   puts chunked files together; prints name, length, SHA-256

A record is {"key", "value", "headers": [[name, value]], "timestamp"}; key, value and header values may be null.
"""

import hashlib
import json
import sys
import time

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

DEADLINE_S = 90


def encode(text):
    return None if text is None else text.encode()


def decode(raw):
    return None if raw is None else raw.decode()


def produce(bootstrap, topic, partition, codec):
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "compression.type": codec,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 20,
        }
    )
    failed = []

    def delivered(error, message):
        if error is not None:
            failed.append(str(error))
        else:
            print(json.dumps({"offset": message.offset()}))

    for line in sys.stdin:
        record = json.loads(line)
        producer.produce(
            topic,
            partition=partition,
            key=encode(record["key"]),
            value=encode(record["value"]),
            headers=[(name, encode(value)) for name, value in record["headers"]],
            timestamp=record["timestamp"],
            on_delivery=delivered,
        )
        producer.poll(0)
    left = producer.flush(DEADLINE_S)
    if failed or left:
        sys.exit(f"not delivered: {left} without an answer, {failed[:3]}")


def messages(bootstrap, topic, partition, count):
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "unused: the partition is assigned",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0)])
    deadline = time.monotonic() + DEADLINE_S
    seen = 0
    while seen < count:
        if time.monotonic() > deadline:
            sys.exit(f"only {seen} of {count} records came within {DEADLINE_S} s")
        for message in consumer.consume(min(500, count - seen), timeout=1.0):
            error = message.error()
            if error is None:
                seen += 1
                yield message
            elif error.code() != KafkaError._PARTITION_EOF and not error.retriable():
                print(f"consumer: {error}", file=sys.stderr)
    consumer.close()


def consume(bootstrap, topic, partition, count):
    for message in messages(bootstrap, topic, partition, count):
        record = {
            "offset": message.offset(),
            "key": decode(message.key()),
            "value": decode(message.value()),
            "headers": [[name, decode(value)] for name, value in message.headers() or []],
            "timestamp": message.timestamp()[1],
        }
        print(json.dumps(record))


def files(bootstrap, topic, partition, count):
    name, digest, length = None, None, 0
    for message in messages(bootstrap, topic, partition, count):
        key = decode(message.key())
        if key != name:
            if name is not None:
                print(f"{name} {length} {digest.hexdigest()}")
            name, digest, length = key, hashlib.sha256(), 0
        digest.update(message.value())
        length += len(message.value())
    print(f"{name} {length} {digest.hexdigest()}")


if __name__ == "__main__":
    verb, bootstrap, topic, partition, last = sys.argv[1:6]
    if verb == "produce":
        produce(bootstrap, topic, int(partition), last)
    else:
        {"consume": consume, "files": files}[verb](bootstrap, topic, int(partition), int(last))
