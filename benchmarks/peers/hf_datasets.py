"""Hugging Face datasets: load JSONL, map a tokenizer over batches, write Parquet."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from common import main
from datasets import load_dataset
from tokenizers import Tokenizer


def run(files: list[Path], tokenizer: Path, out: Path, workers: int) -> None:
    """Load, map and write; the cache, which a second run finds again, lies beside the data."""
    encoder = Tokenizer.from_file(str(tokenizer))

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": [found.ids for found in encoder.encode_batch(batch["text"], add_special_tokens=False)]}

    names = [str(file) for file in files]
    dataset = load_dataset("json", data_files=names, split="train", cache_dir=str(out / "cache"), num_proc=workers)
    dataset = dataset.map(encode, batched=True, num_proc=workers)
    (out / "data").mkdir(parents=True, exist_ok=True)
    dataset.to_parquet(str(out / "data" / "train.parquet"))


def read(out: Path) -> Iterator[np.ndarray]:
    """The column of ids."""
    for batch in pq.ParquetFile(out / "data" / "train.parquet").iter_batches(columns=["ids"]):
        for ids in batch.column(0):
            yield np.array(ids.values)


if __name__ == "__main__":
    main(run, read)
