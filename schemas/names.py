"""Names of a dataset's files, relative to its folder; FORMAT.md says what each is."""

import re

MANIFEST = "manifest.json"
DATASET = "meta/dataset.json"
ROW_GROUPS = "meta/row_groups.parquet"

SHARD_NAME = re.compile(r"part-\d{5,}-of-\d{5,}-[0-9a-f]{8}\.parquet")
"""Of a shard, and of its rejects in their folder; nothing else is ever read or deleted for what a file here says."""
