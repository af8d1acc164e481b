"""The Spark Runner: the same fold and the same files, computed by the executors of a Spark cluster.

session (a SparkSession, its JVM, what becomes of errors) | java | connector (Kafka's settings in Java's names)
source (ranges of a topic as a DataFrame, Arrow batches as Chunks) | views (what is particular to Views)
"""
