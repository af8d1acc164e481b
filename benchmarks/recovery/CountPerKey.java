import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Arrays;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * Count and sum per key of JSON events, in a persistent store with a changelog.
 *
 * <p>Arguments: the topic, the store's name, then Kafka Streams' settings, each as name=value. Ends on SIGTERM.
 */
public final class CountPerKey {
    private static final ObjectMapper JSON = new ObjectMapper();

    /** On the changelog: two longs, big-endian. */
    record Total(long count, long sum) {
        Total plus(byte[] event) {
            try {
                return new Total(count + 1, sum + JSON.readTree(event).get("value").longValue());
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }

        static Serde<Total> serde() {
            return Serdes.serdeFrom(
                (topic, total) ->
                    total == null ? null : ByteBuffer.allocate(16).putLong(total.count).putLong(total.sum).array(),
                (topic, bytes) -> {
                    if (bytes == null) {
                        return null;
                    }
                    ByteBuffer buffer = ByteBuffer.wrap(bytes);
                    return new Total(buffer.getLong(), buffer.getLong());
                });
        }
    }

    public static void main(String[] arguments) {
        String topic = arguments[0];
        String store = arguments[1];
        Properties settings = new Properties();
        for (String setting : Arrays.copyOfRange(arguments, 2, arguments.length)) {
            String[] parts = setting.split("=", 2);
            settings.put(parts[0], parts[1]);
        }

        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(topic, Consumed.with(Serdes.String(), Serdes.ByteArray()))
            .groupByKey()
            .aggregate(
                () -> new Total(0, 0),
                (key, event, total) -> total.plus(event),
                Materialized.<String, Total, KeyValueStore<Bytes, byte[]>>as(store)
                    .withKeySerde(Serdes.String())
                    .withValueSerde(Total.serde()));

        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1); // whoever measures sees it at once
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(60))));
        streams.start();
    }
}
