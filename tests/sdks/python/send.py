"""Sends the events of events.json by the CloudEvents SDK for Python: python3 send.py BROKERS TOPIC"""

import json
import sys
from datetime import datetime

from cloudevents.core.bindings import kafka
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka import Producer

brokers, topic = sys.argv[1:]
producer = Producer({"bootstrap.servers": brokers})
refused = []
with open("events.json", encoding="utf-8") as file:
    events = json.load(file)
for form, event in events.items():
    mode, kind = form.split("_")
    data = event.pop("data")
    event["time"] = datetime.fromisoformat(event["time"].replace("Z", "+00:00"))
    event = CloudEvent(event, json.dumps(data).encode() if kind == "bytes" else data)
    message = {"structured": kafka.to_structured_event, "binary": kafka.to_binary_event}[mode](event)
    producer.produce(
        topic,
        key=data["package"]["name"],
        value=message.value,
        headers=message.headers,
        on_delivery=lambda error, _: error and refused.append(error),
    )
producer.flush()
sys.exit(bool(refused))
