"""Offline preprocessing: a raw corpus in, verified Parquet shards with a raw and a comp view out.

`python -m pipelines preprocess | verify | manifest | inspect | sql | measure`. The flow is
`corpus` (list) -> `plan` (blocks, units) -> `preprocess` (Beam) -> `shard.encode_shard` (read, encode, prove,
write) -> `commit` (receipts) -> manifest.
"""
