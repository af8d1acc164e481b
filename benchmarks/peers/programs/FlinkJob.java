import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.File;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.functions.ScalarFunction;
import org.apache.flink.table.functions.TableFunction;
import org.apache.flink.types.Row;
import org.apache.flink.types.RowKind;
import org.apache.flink.util.CloseableIterator;

/** Flink SQL, in a mini cluster in this process; told and telling as task.py says. The Task's settings are Flink's. */
public final class FlinkJob {
    private static final ObjectMapper JSON = new ObjectMapper();

    private static final Map<String, String> QUERIES = Map.of(
        "views",
        "SELECT campaign, began, COUNT(*) FROM (SELECT campaign(ad_id) AS campaign, "
            + "event_time - MOD(event_time, 10000) AS began FROM events WHERE event_type = 'view') "
            + "GROUP BY campaign, began",
        "unique",
        "SELECT 'all', COUNT(*), SUM(n) FROM (SELECT page_id, COUNT(*) AS n FROM events GROUP BY page_id)",
        "heavy",
        "SELECT campaign, began, COUNT(*), SUM(price), MIN(price), MAX(price), COUNT(DISTINCT user_id) FROM "
            + "(SELECT campaign(ad_id) AS campaign, began, price, user_id FROM events, "
            + "LATERAL TABLE(starts(event_time)) AS w (began) WHERE event_type = 'view') GROUP BY campaign, began");

    /**
     * Says what is counted when a burst of results is over: a mini-batch's rows come all at once, and in the middle of
     * them less is told than is done.
     */
    private static final class Progress extends Thread {
        private static final long QUIET_NS = 150_000_000;
        private long at;
        private long counted;
        private long said;

        Progress() {
            setDaemon(true);
        }

        synchronized void is(long counted, boolean all) {
            this.at = System.nanoTime();
            this.counted = counted;
            if (all) {
                say();
            }
        }

        private void say() {
            System.out.println("{\"at\": " + at + ", \"counted\": " + counted + "}");
            System.out.flush();
            said = counted;
        }

        @Override
        public void run() {
            while (true) {
                synchronized (this) {
                    if (counted != said && System.nanoTime() - at > QUIET_NS) {
                        say();
                    }
                }
                try {
                    Thread.sleep(10);
                } catch (InterruptedException interrupted) {
                    return;
                }
            }
        }
    }

    /** The fixed map of ads to campaigns. */
    public static final class CampaignOf extends ScalarFunction {
        private final HashMap<String, String> campaigns;

        public CampaignOf(HashMap<String, String> campaigns) {
            this.campaigns = campaigns;
        }

        public String eval(String ad) {
            return campaigns.get(ad);
        }
    }

    /** The starts of the 60 s windows, one every 10 s, that a time is in; of SQL's own windows nothing is told early. */
    public static final class Starts extends TableFunction<Long> {
        public void eval(Long time) {
            for (long began = time - time % 10_000; began > time - 60_000; began -= 10_000) {
                collect(began);
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        JsonNode task = JSON.readTree(System.getenv("PEERS_TASK"));
        String job = task.get("job").asText();
        long total = task.get("total").asLong();
        TableEnvironment environment = TableEnvironment.create(EnvironmentSettings.inStreamingMode());
        task.get("settings").properties()
            .forEach(each -> environment.getConfig().set(each.getKey(), each.getValue().asText()));
        environment.getConfig()
            .set("execution.checkpointing.dir", new File(task.get("directory").asText(), "checkpoints").toURI().toString());
        tables(environment, task);

        Map<List<Object>, Object[]> found = new HashMap<>();
        long counted = 0;
        Progress progress = new Progress();
        progress.start();
        try (CloseableIterator<Row> rows = environment.executeSql(QUERIES.get(job)).collect()) {
            while (rows.hasNext()) {
                Row row = rows.next();
                if (row.getKind() == RowKind.UPDATE_BEFORE || row.getKind() == RowKind.DELETE) {
                    continue;
                }
                if (job.equals("unique")) {
                    counted = ((Number) row.getField(2)).longValue();
                    found.put(List.of("all"), new Object[] {row.getField(1), counted});
                } else {
                    List<Object> where = List.of(row.getField(0), ((Number) row.getField(1)).longValue());
                    Object[] numbers = new Object[row.getArity() - 2];
                    for (int n = 0; n < numbers.length; n++) {
                        numbers[n] = row.getField(n + 2);
                    }
                    Object[] before = found.put(where, numbers);
                    counted += ((Number) numbers[0]).longValue() - (before == null ? 0 : ((Number) before[0]).longValue());
                }
                progress.is(counted, counted == total);
            }
        }
        JSON.writeValue(new File(task.get("directory").asText() + "/totals.json"), rows(job, found));
        System.out.println("{\"finished\": true}");
        System.out.flush();
        Thread.sleep(Long.MAX_VALUE);
    }

    private static void tables(TableEnvironment environment, JsonNode task) throws Exception {
        environment.executeSql(
            "CREATE TABLE events (user_id STRING, page_id STRING, ad_id STRING, ad_type STRING, "
                + "event_type STRING, event_time BIGINT, ip_address STRING, price BIGINT) WITH ("
                + "'connector' = 'kafka', 'topic' = '" + task.get("topic").asText() + "', "
                + "'properties.bootstrap.servers' = '" + task.get("brokers").asText() + "', "
                + "'properties.group.id' = '" + task.get("group").asText() + "', "
                + "'properties.max.poll.records' = '10000', 'properties.max.partition.fetch.bytes' = '10485760', "
                + "'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset', "
                + "'format' = 'json')");
        HashMap<String, String> campaigns = new HashMap<>();
        JSON.readTree(new File(task.get("ads").asText())).properties()
            .forEach(each -> campaigns.put(each.getKey(), each.getValue().asText()));
        environment.createTemporarySystemFunction("campaign", new CampaignOf(campaigns));
        environment.createTemporarySystemFunction("starts", Starts.class);
    }

    private static List<Object> rows(String job, Map<List<Object>, Object[]> found) {
        List<Object> rows = new ArrayList<>();
        if (job.equals("unique")) {
            Object[] numbers = found.get(List.of("all"));
            rows.add(List.of("keys", 0, numbers[0]));
            rows.add(List.of("events", 0, numbers[1]));
            return rows;
        }
        found.forEach((where, numbers) -> {
            List<Object> row = new ArrayList<>(where);
            row.addAll(List.of(numbers));
            if (job.equals("heavy")) {
                row.add(null); // no median
            }
            rows.add(row);
        });
        return rows;
    }
}
