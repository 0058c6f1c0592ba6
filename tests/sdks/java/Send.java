// Sends the events of events.json by the CloudEvents SDK for Java: java -cp 'libs/*' Send.java BROKERS TOPIC

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.cloudevents.CloudEvent;
import io.cloudevents.core.builder.CloudEventBuilder;
import io.cloudevents.core.message.Encoding;
import io.cloudevents.jackson.JsonCloudEventData;
import io.cloudevents.jackson.JsonFormat;
import io.cloudevents.kafka.CloudEventSerializer;
import java.io.File;
import java.net.URI;
import java.time.OffsetDateTime;
import java.util.Map;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

public class Send {
    public static void main(String[] arguments) throws Exception {
        var events = new ObjectMapper().readTree(new File("events.json"));
        for (var encoding : Encoding.values()) {
            var serializer = new CloudEventSerializer();
            serializer.configure(
                    Map.of(
                            CloudEventSerializer.ENCODING_CONFIG, encoding,
                            CloudEventSerializer.EVENT_FORMAT_CONFIG, JsonFormat.CONTENT_TYPE),
                    false);
            Map<String, Object> client = Map.of("bootstrap.servers", arguments[0]);
            try (var producer = new KafkaProducer<String, CloudEvent>(client, new StringSerializer(), serializer)) {
                for (var kind : new String[] {"value", "bytes"}) {
                    var event = events.get(encoding.name().toLowerCase() + "_" + kind);
                    producer.send(new ProducerRecord<>(arguments[1], event(event, kind.equals("bytes")))).get();
                }
            }
        }
    }

    private static CloudEvent event(JsonNode event, boolean asBytes) {
        var builder = CloudEventBuilder.v1()
                .withId(event.get("id").asText())
                .withSource(URI.create(event.get("source").asText()))
                .withType(event.get("type").asText())
                .withTime(OffsetDateTime.parse(event.get("time").asText()));
        var data = event.get("data");
        builder = asBytes
                ? builder.withData("application/json", data.toString().getBytes())
                : builder.withData("application/json", JsonCloudEventData.wrap(data));
        return builder.build();
    }
}
