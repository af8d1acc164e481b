"""Word count and the Yahoo job on the batch layer and on its peers, over the same records, side by side.

    python -m benchmarks.batch [--records N] [--jobs words yahoo] [--peers ...] [--no-save]
    python -m benchmarks.batch --small          # StreamKit, DuckDB and polars, 20,000 records

    words   lines of ten words, as JSON; how often each of 100,000 words is there, which is by Zipf's law
    yahoo   the events of the Yahoo streaming benchmark, as in benchmarks/peers: keep views, look the ad's campaign up,
            count per campaign and 10 s of event time

The records lie on a Kafka topic, in Parquet files with the JSON in a column `_value` (as the archive has it), and in
text files, a JSON a line; the same in all three. A run is timed from the start of its process until its results are
written, start-up and all: that is how a batch job is waited for. CPU is that of all its processes, memory the greatest
sum over them. A rate counts only if all totals are right. Nobody has more than two threads or processes to work with.

The cost of the shuffle: `streamkit-no-combine` shuffles every pair, where `streamkit` shuffles what `combine` leaves.

    data.py       the records, where they lie, and what a job must come to
    peers.py      who is measured, and on what
    run.py        one run: start, listen, watch CPU and memory, compare
    report.py     batch.md, batch.json
    programs/     what runs inside a peer's own environment; how they are told is as in benchmarks/peers/task.py
"""
