package riskflow.bench;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Repartitioned;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/** Kafka Streams: a store for each entity, repartitioned by terminal, one model call an event. Told by -D options. */
public final class Job {
    private static final String CUSTOMERS = "customers", TERMINALS = "terminals";
    private static final int NUMBERS = 8;
    private static final Serdes.ByteArraySerde BYTES = new Serdes.ByteArraySerde();

    /** A payment as it stands on the topic. */
    @com.fasterxml.jackson.annotation.JsonIgnoreProperties(ignoreUnknown = true)
    public static final class Payment {
        public String event_id, customer_id, terminal_id;
        public long occurred_at;
        public double amount;
    }

    /** Sends on: time, amount, eight numbers of the customer, id of the event; keyed by terminal. */
    static final class Customer implements Processor<byte[], byte[], byte[], byte[]> {
        private final ObjectReader json = new ObjectMapper().readerFor(Payment.class);
        private final Windows windows = new Windows();
        private final float[] known = new float[NUMBERS];
        private ProcessorContext<byte[], byte[]> context;
        private KeyValueStore<Bytes, byte[]> store;

        @Override
        public void init(ProcessorContext<byte[], byte[]> given) {
            context = given;
            store = given.getStateStore(CUSTOMERS);
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            Payment payment;
            try {
                payment = json.readValue(record.value());
            } catch (IOException error) {
                throw new IllegalArgumentException(error);
            }
            Bytes key = Bytes.wrap(utf8(payment.customer_id));
            store.put(key, windows.observe(store.get(key), payment.occurred_at, payment.amount, known, 0));
            byte[] id = utf8(payment.event_id);
            ByteBuffer out = ByteBuffer.allocate(2 * Long.BYTES + NUMBERS * Float.BYTES + id.length);
            out.putLong(payment.occurred_at).putDouble(payment.amount);
            for (float number : known) {
                out.putFloat(number);
            }
            out.put(id);
            context.forward(record.withKey(utf8(payment.terminal_id)).withValue(out.array()));
        }
    }

    /** Knows the terminal, scores, and sends JSON keyed by event. */
    static final class Terminal implements Processor<byte[], byte[], byte[], byte[]> {
        private final Windows windows = new Windows();
        private final Model model = new Model(System.getProperty("model"), 1 + 2 * NUMBERS);
        private final float[] row = new float[1 + 2 * NUMBERS];
        private ProcessorContext<byte[], byte[]> context;
        private KeyValueStore<Bytes, byte[]> store;

        @Override
        public void init(ProcessorContext<byte[], byte[]> given) {
            context = given;
            store = given.getStateStore(TERMINALS);
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            ByteBuffer in = ByteBuffer.wrap(record.value());
            long atMs = in.getLong();
            double amount = in.getDouble();
            row[0] = (float) amount;
            for (int i = 1; i <= NUMBERS; i++) {
                row[i] = in.getFloat();
            }
            byte[] id = new byte[in.remaining()];
            in.get(id);
            Bytes key = Bytes.wrap(record.key());
            store.put(key, windows.observe(store.get(key), atMs, amount, row, 1 + NUMBERS));
            String said = "{\"event_id\":\"" + new String(id, StandardCharsets.UTF_8) + "\",\"score\":" + model.score(row) + "}";
            context.forward(record.withKey(id).withValue(utf8(said)));
        }

        @Override
        public void close() {
            model.close();
        }
    }

    private static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static StoreBuilder<KeyValueStore<Bytes, byte[]>> store(String name) {
        return Stores.keyValueStoreBuilder(Stores.inMemoryKeyValueStore(name), Serdes.Bytes(), Serdes.ByteArray())
            .withCachingEnabled();
    }

    private static Topology topology() {
        StreamsBuilder builder = new StreamsBuilder();
        builder.addStateStore(store(CUSTOMERS)).addStateStore(store(TERMINALS));
        builder.stream(System.getProperty("source"), Consumed.with(BYTES, BYTES))
            .process(Customer::new, CUSTOMERS)
            .repartition(Repartitioned.with(BYTES, BYTES).withName("by-terminal")
                .withNumberOfPartitions(Integer.getInteger("partitions")))
            .process(Terminal::new, TERMINALS)
            .to(System.getProperty("out"), Produced.with(BYTES, BYTES));
        return builder.build();
    }

    private static Properties settings() {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, System.getProperty("out") + "-job");
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, System.getProperty("bootstrap"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, System.getProperty("folder"));
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, System.getProperty("guarantee"));
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, Integer.getInteger("threads"));
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 512L << 20);
        settings.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        settings.put(StreamsConfig.consumerPrefix("isolation.level"), "read_committed");
        return settings;
    }

    public static void main(String[] arguments) {
        KafkaStreams streams = new KafkaStreams(topology(), settings());
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(10))));
        streams.start();
    }
}
