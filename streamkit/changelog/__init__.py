"""Changelogs: every Checkpoint as records, from which any copy of the state is made and kept up to date.

A changelog is the truth; a store is a copy of it. A worker writes its Checkpoint to the changelogs first and to its
store second, so a store may be one Checkpoint behind and never ahead. A worker that starts again, one that takes a
partition over, one whose disk is lost, a standby and a serving node all do the same thing: follow the changelog from
where their copy is. They differ in how far behind they are.

One worker at a time writes a changelog partition, in whole Checkpoints: Blocks of changes, and a Mark at the end.

    being restored   everything up to where the log ended at the start is applied as it comes, in large batches, the
                     last value per key; until then the copy shows parts of many Checkpoints and is not `whole`
    followed         changes wait for their Mark, so the copy is at every moment some Checkpoint

Where a changelog was compacted past what a copy has followed, the copy is made anew: see `compaction`.
"""
