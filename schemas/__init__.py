"""The contract between the pipeline and the trainer: vocabulary, shard and manifest formats, draws.

Imports none of the other packages, so that each of them can be deployed without the rest. `FORMAT.md`
beside this file is the same contract in prose.
"""
