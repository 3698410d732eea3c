"""The trainer: streams shards, mixes views, trains an EvaByte-style model, generates from bytes alone."""
