"""MapReduce: what a stage's tasks do (records, columns, shuffle, parts), and the run that has them done."""
