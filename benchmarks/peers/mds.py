"""MosaicML Streaming: an MDS writer a group of files in a pool of processes, then one index over all groups.

Text and ids a sample, zstd, and SHA-1 for integrity, as its guide to conversion has it.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from common import main
from tokenizers import Tokenizer

try:
    import torchvision  # noqa: F401 - what `streaming` imports first
except RuntimeError:
    # torchvision's CUDA build beside torch's CPU build lacks its operators, of which two are asked for by name.
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from streaming import LocalDataset, MDSWriter
from streaming.base.compression import decompress
from streaming.base.util import merge_index


def convert(arguments: tuple[Path, Path, str]) -> None:
    """One file to a folder of shards."""
    file, tokenizer, out = arguments
    encoder = Tokenizer.from_file(str(tokenizer))
    columns = {"text": "str", "ids": "ndarray:uint16"}
    with MDSWriter(out=out, columns=columns, compression="zstd", hashes=["sha1"]) as writer, file.open() as lines:
        for line in lines:
            text = json.loads(line)["text"]
            ids = encoder.encode(text, add_special_tokens=False).ids
            writer.write({"text": text, "ids": np.array(ids, np.uint16)})


def run(files: list[Path], tokenizer: Path, out: Path, workers: int) -> None:
    """Convert all files, then merge the indexes."""
    data = out / "data"
    groups = [(file, tokenizer, str(data / str(index))) for index, file in enumerate(files)]
    with Pool(workers) as pool:
        for _ in pool.imap(convert, groups):
            pass
    merge_index(str(data), keep_local=True)


def read(out: Path) -> Iterator[np.ndarray]:
    """Through its own reader, which wants the shards decompressed: in a copy, so that the output stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(out / "data", Path(folder) / "data"))
        for path in copy.rglob("*.mds.zstd"):
            path.with_suffix("").write_bytes(decompress("zstd", path.read_bytes()))
        dataset = LocalDataset(str(copy))
        for index in range(len(dataset)):
            yield dataset[index]["ids"]


if __name__ == "__main__":
    main(run, read)
