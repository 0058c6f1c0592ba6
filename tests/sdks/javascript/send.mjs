// Sends the events of events.json by the CloudEvents SDK for JavaScript: node send.mjs BROKERS TOPIC
import { readFileSync } from "node:fs";
import { CloudEvent, Kafka as binding } from "cloudevents";
import { Kafka, logLevel } from "kafkajs";

const [brokers, topic] = process.argv.slice(2);
const messages = Object.entries(JSON.parse(readFileSync("events.json"))).map(([form, event]) => {
  const [mode, data] = form.split("_");
  const text = JSON.stringify(event.data);
  // In binary mode the SDK passes the data unchanged, so it must be text or bytes.
  const value = mode === "binary" ? text : event.data;
  const message = binding[mode](new CloudEvent({ ...event, data: data === "bytes" ? Buffer.from(text) : value }));
  // The SDK includes attributes without a value, which the client does not accept.
  const headers = Object.entries(message.headers).filter(([, value]) => value !== undefined);
  return { key: event.data.package.name, value: message.value, headers: Object.fromEntries(headers) };
});
const producer = new Kafka({ brokers: [brokers], logLevel: logLevel.ERROR }).producer();
await producer.connect();
await producer.send({ topic, messages });
await producer.disconnect();
