import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.File;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.WindowStore;

/** The jobs views, unique and agent; told and telling as task.py says. The Task's settings are Kafka Streams' own. */
public final class KafkaStreamsJob {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final JsonFactory FACTORY = JSON.getFactory();
    private static final String STORE = "totals";
    private static final long STEP = 20_000;

    private static JsonNode task;
    private static long total;
    private static final Map<String, String> campaigns = new HashMap<>();
    private static final AtomicLong counted = new AtomicLong();
    private static KafkaStreams streams;

    /** What of an event is looked at, parsed once, when it is read. */
    record Event(String ad, String kind, long time, long price) {
        static Event parse(byte[] json) {
            String ad = null;
            String kind = null;
            long time = 0;
            long price = 0;
            try (JsonParser parser = FACTORY.createParser(json)) {
                parser.nextToken();
                while (parser.nextToken() == JsonToken.FIELD_NAME) {
                    String name = parser.currentName();
                    parser.nextToken();
                    switch (name) {
                        case "ad_id" -> ad = parser.getText();
                        case "event_type" -> kind = parser.getText();
                        case "event_time" -> time = parser.getLongValue();
                        case "price" -> price = parser.getLongValue();
                        default -> { }
                    }
                }
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
            return new Event(ad, kind, time, price);
        }
    }

    /** A running mean and the sum of squares about it (Welford). */
    record Stats(long count, double mean, double squares) {
        Stats plus(double value) {
            double delta = value - mean;
            double next = mean + delta / (count + 1);
            return new Stats(count + 1, next, squares + delta * (value - next));
        }

        static Serde<Stats> serde() {
            return Serdes.serdeFrom(
                (topic, stats) -> stats == null ? null : ByteBuffer.allocate(24)
                    .putLong(stats.count).putDouble(stats.mean).putDouble(stats.squares).array(),
                (topic, bytes) -> {
                    if (bytes == null) {
                        return null;
                    }
                    ByteBuffer buffer = ByteBuffer.wrap(bytes);
                    return new Stats(buffer.getLong(), buffer.getDouble(), buffer.getDouble());
                });
        }
    }

    public static void main(String[] arguments) throws IOException {
        task = JSON.readTree(System.getenv("PEERS_TASK"));
        total = task.get("total").asLong();
        JSON.readTree(new File(task.get("ads").asText())).properties()
            .forEach(each -> campaigns.put(each.getKey(), each.getValue().asText()));
        StreamsBuilder builder = new StreamsBuilder();
        switch (task.get("job").asText()) {
            case "unique" -> unique(builder);
            case "agent" -> agent(views(builder));
            default -> counts(views(builder));
        }
        streams = new KafkaStreams(builder.build(), settings());
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1); // whoever measures sees it at once
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.start();
    }

    private static Properties settings() {
        Properties settings = new Properties();
        settings.put("application.id", task.get("group").asText());
        settings.put("bootstrap.servers", task.get("brokers").asText());
        settings.put("state.dir", task.get("directory").asText() + "/state");
        task.get("settings").properties().forEach(each -> {
            if (!each.getKey().startsWith("job.")) {
                settings.put(each.getKey(), each.getValue().asText());
            }
        });
        return settings;
    }

    private static Consumed<String, Event> events() {
        Deserializer<Event> parse = (topic, bytes) -> Event.parse(bytes);
        Serde<Event> serde = Serdes.serdeFrom((topic, event) -> {
            throw new UnsupportedOperationException("events are only read");
        }, parse);
        return Consumed.with(Serdes.String(), serde)
            .withTimestampExtractor((message, before) -> ((Event) message.value()).time());
    }

    /** The campaign is looked up; it is the record's key as well, so that nothing is sent to another partition. */
    private static KStream<String, Event> views(StreamsBuilder builder) {
        return builder.stream(task.get("topic").asText(), events())
            .filter((key, event) -> "view".equals(event.kind()) && key.equals(campaigns.get(event.ad())));
    }

    private static void counts(KStream<String, Event> views) {
        var counts = views.groupByKey()
            .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofSeconds(10), Duration.ofHours(23)))
            .aggregate(
                () -> 0L,
                (key, event, count) -> {
                    told();
                    return count + 1;
                },
                Materialized.<String, Long, WindowStore<Bytes, byte[]>>as(STORE)
                    .withKeySerde(Serdes.String())
                    .withValueSerde(Serdes.Long())
                    .withRetention(Duration.ofDays(1)));
        JsonNode out = task.get("settings").get("job.out");
        if (out != null) {
            counts.toStream((window, count) -> window.key() + " " + window.window().start())
                .to(out.asText(), Produced.with(Serdes.String(), Serdes.Long()));
        }
    }

    private static void unique(StreamsBuilder builder) {
        builder.stream(task.get("topic").asText(), events())
            .groupByKey()
            .aggregate(
                () -> 0L,
                (key, event, count) -> {
                    told();
                    return count + 1;
                },
                Materialized.<String, Long, KeyValueStore<Bytes, byte[]>>as(STORE)
                    .withKeySerde(Serdes.String())
                    .withValueSerde(Serdes.Long()));
    }

    private static void agent(KStream<String, Event> views) {
        views.groupByKey()
            .aggregate(
                () -> new Stats(0, 0, 0),
                (key, event, stats) -> {
                    told();
                    return stats.plus(event.price());
                },
                Materialized.<String, Stats, KeyValueStore<Bytes, byte[]>>as(STORE)
                    .withKeySerde(Serdes.String())
                    .withValueSerde(Stats.serde()));
    }

    /** One more is counted. The result is read by a thread of its own, so that the one that counts can go on. */
    private static void told() {
        long now = counted.incrementAndGet();
        if (now == 1) {
            say(0);
        }
        if (now % STEP == 0 || now == total) {
            say(now);
        }
        if (now == total) {
            new Thread(KafkaStreamsJob::finish).start();
        }
    }

    private static synchronized void say(long now) {
        System.out.println("{\"at\": " + System.nanoTime() + ", \"counted\": " + now + "}");
        System.out.flush();
    }

    private static void finish() {
        try {
            Thread.sleep(200); // what was counted last is put into the store after it was counted
            List<Object> rows = new ArrayList<>();
            switch (task.get("job").asText()) {
                case "unique" -> {
                    long[] found = new long[2];
                    var store = streams.store(StoreQueryParameters.fromNameAndType(
                        STORE, QueryableStoreTypes.<String, Long>keyValueStore()));
                    store.all().forEachRemaining(each -> {
                        found[0]++;
                        found[1] += each.value;
                    });
                    rows.add(List.of("keys", 0, found[0]));
                    rows.add(List.of("events", 0, found[1]));
                }
                case "agent" -> {
                    var store = streams.store(StoreQueryParameters.fromNameAndType(
                        STORE, QueryableStoreTypes.<String, Stats>keyValueStore()));
                    store.all().forEachRemaining(each -> rows.add(List.of(each.key, 0, each.value.count(),
                        each.value.mean(), Math.sqrt(each.value.squares() / each.value.count()))));
                }
                default -> {
                    var store = streams.store(StoreQueryParameters.fromNameAndType(
                        STORE, QueryableStoreTypes.<String, Long>windowStore()));
                    store.all().forEachRemaining(each ->
                        rows.add(List.of(each.key.key(), each.key.window().start(), each.value)));
                }
            }
            JSON.writeValue(new File(task.get("directory").asText() + "/totals.json"), rows);
            System.out.println("{\"finished\": true}");
            System.out.flush();
        } catch (Exception error) {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
        }
    }
}
