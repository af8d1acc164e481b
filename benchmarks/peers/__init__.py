"""The same jobs on StreamKit and on its peers, from the same topic, in one run.

    python -m benchmarks.peers [--jobs views unique heavy agent] [--peers ...] [--events N] [--rounds N] [--no-save]
    python -m benchmarks.peers --jobs latency [--rates 1000 10000 100000]
    python -m benchmarks.peers --small          # StreamKit and the bare loop, 50,000 events

Events are those of the Yahoo streaming benchmark, about 240 bytes of JSON on 4 partitions: user, page, ad, type of ad,
type of event, time, address; and a price. Record keys are campaigns, so that nobody has to move events between
partitions before they can be grouped.

    views     keep views, look the ad's campaign up, count per campaign and 10 s of event time
    unique    count per page view: as many keys as events, records keyed by it
    heavy     views as above: count, sum, least and greatest price, distinct users, median price, per campaign and
              60 s every 10 s
    agent     a function called for each view: running mean and deviation of the price per campaign (Welford)
    latency   the job `views` at a fixed rate: from producing an event until its count can be read

How a rate is told, the same for all: a peer's program says, with a time, how much of all that is to be counted its
results have counted so far (`task.say`). The rate is that between the first time that it says of a tenth or more, and
the moment when the last total is right: neither start-up nor what was counted before, while JIT compilers warm up and
groups form, is in it. CPU is that of the peer's processes (not the broker) between the same two moments; memory the
greatest sum over them. A rate counts only if all totals are right: `events.expected` works them out with numpy,
without reading the topic.

    events.py     the events, what each job must come to, and whether it did
    task.py       what a peer's program is told, and how it tells (standard library only: it runs in every environment)
    peer.py       what a peer is; python.py, java.py: what peers of a kind share
    run.py        one run of one peer: start, listen, watch CPU and memory, compare
    latency.py    events at a fixed rate, and when their counts were seen
    report.py     peers.md, peers.json, peers.svg
    programs/     what runs inside a peer's own environment
"""
