"""From shards to batches: `dataset` (verified row groups), `lanes` (who reads what), `views`, `packing`, `loader`."""
