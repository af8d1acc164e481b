"""Loops that numba compiles: the columnar speed path's inner ones. See `loader` for when they are there.

    kinds.py      the kinds of fields, by number
    memory.py     reading and writing at addresses
    scan.py       JSON records to columns
    batches.py    record batches as brokers have them to columns
    messages.py   librdkafka's messages to flat buffers
    loader.py     loads them in the background, once it is worth it; says why they cannot be

The only place that imports numba. Without it everything works, by one Python object a record.
"""
