"""StreamKit: a lambda architecture on Kafka whose answers are exact."""

from streamkit.aggregate import Aggregate, Count, First, Last, Max, Min
from streamkit.errors import StreamkitError
from streamkit.mapreduce import Files, Line, MapReduce, Step, To
from streamkit.serving.connect import connect
from streamkit.sketch import Distinct, Quantiles
from streamkit.speed.calls import calling
from streamkit.top import Largest, Top
from streamkit.topology import Guarantee, Topology
from streamkit.total import Mean, Sum, Variance
from streamkit.view import Answer, View
from streamkit.window import Hopping, Session, Tumbling, Window

__all__ = [
    "Aggregate",
    "Answer",
    "Count",
    "Distinct",
    "Files",
    "First",
    "Guarantee",
    "Hopping",
    "Largest",
    "Last",
    "Line",
    "MapReduce",
    "Max",
    "Mean",
    "Min",
    "Quantiles",
    "Session",
    "Step",
    "StreamkitError",
    "Sum",
    "To",
    "Top",
    "Topology",
    "Tumbling",
    "Variance",
    "View",
    "Window",
    "calling",
    "connect",
]
