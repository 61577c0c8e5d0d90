import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Writes and reads records with the Java client, one JSON object a line, as roundtrip.py beside it does.
 *
 * <pre>
 *   Roundtrip produce BOOTSTRAP TOPIC PARTITION CODEC
 *   Roundtrip consume BOOTSTRAP TOPIC PARTITION COUNT
 * </pre>
 */
public final class Roundtrip {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final long DEADLINE_MS = 90_000;

    public static void main(String[] args) throws Exception {
        String verb = args[0];
        TopicPartition partition = new TopicPartition(args[2], Integer.parseInt(args[3]));
        if (verb.equals("produce")) {
            produce(args[1], partition, args[4]);
        } else {
            consume(args[1], partition, Integer.parseInt(args[4]));
        }
    }

    private static byte[] bytes(JsonNode text) {
        return text == null || text.isNull() ? null : text.asText().getBytes(StandardCharsets.UTF_8);
    }

    private static String text(byte[] bytes) {
        return bytes == null ? null : new String(bytes, StandardCharsets.UTF_8);
    }

    private static void produce(String bootstrap, TopicPartition to, String codec) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("compression.type", codec);
        settings.put("linger.ms", "20");
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        ByteArraySerializer bytes = new ByteArraySerializer();
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(settings, bytes, bytes)) {
            BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                JsonNode record = JSON.readTree(line);
                ProducerRecord<byte[], byte[]> message = new ProducerRecord<>(
                    to.topic(), to.partition(), record.get("timestamp").asLong(),
                    bytes(record.get("key")), bytes(record.get("value")));
                for (JsonNode header : record.get("headers")) {
                    message.headers().add(header.get(0).asText(), bytes(header.get(1)));
                }
                sent.add(producer.send(message));
            }
            producer.flush();
        }
        for (Future<RecordMetadata> answer : sent) {
            System.out.println("{\"offset\": " + answer.get().offset() + "}");
        }
    }

    private static void consume(String bootstrap, TopicPartition from, int count) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("enable.auto.commit", "false");
        ByteArrayDeserializer bytes = new ByteArrayDeserializer();
        long deadline = System.currentTimeMillis() + DEADLINE_MS;
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings, bytes, bytes)) {
            consumer.assign(List.of(from));
            consumer.seekToBeginning(List.of(from));
            int seen = 0;
            while (seen < count) {
                if (System.currentTimeMillis() > deadline) {
                    System.err.println("only " + seen + " of " + count + " records came in time");
                    System.exit(1);
                }
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    if (seen++ < count) {
                        System.out.println(line(record));
                    }
                }
            }
        }
    }

    private static String line(ConsumerRecord<byte[], byte[]> record) throws Exception {
        ObjectNode line = JSON.createObjectNode();
        line.put("offset", record.offset());
        line.put("key", text(record.key()));
        line.put("value", text(record.value()));
        ArrayNode headers = line.putArray("headers");
        for (Header header : record.headers()) {
            headers.addArray().add(header.key()).add(text(header.value()));
        }
        line.put("timestamp", record.timestamp());
        return JSON.writeValueAsString(line);
    }
}
