"""Which proxy, as a user says it: the options that preprocess and measure share."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines import proxies
from pipelines.proxies import bpe, neural
from schemas.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ProxyOptions:
    """Which proxy.

    Attributes:
        proxy: neural, bpe, gzip, identity, or one that an installed package registers.
        coder: of the neural proxy: codebook (lossless, fast) or range (the paper's literal form).
        bits: of the neural proxy's symbols, 12 to 16.
        compressor: of the neural proxy: auto, pretrained, or a folder made by `make compressor`.
        segmentation: of the neural proxy: table (fast, local) or lm (the byte LM's own entropies, the paper's form).
        windows: of the codebook: segment (a segment each), packed (several segments) or equal-info (no segments).
        fuzz: of the codebook: none (lossless) or tail (a window may drop up to a quarter of its length at a segment's
            end).
        tau: of the neural proxy, in bits: segments start where the entropy is above it; default the compressor's.
        target_ratio: of the neural proxy: choose tau for at least this many bytes a symbol on a sample of the corpus.
        lm_device: where a large byte LM runs; auto takes a GPU if there is one.
        tokenizer: of bpe: a tokenizers JSON file; by default one is trained on the corpus.
        vocab_size: of a trained tokenizer.
    """

    proxy: str = "neural"
    coder: str = "codebook"
    bits: int = 16
    compressor: str = "auto"
    segmentation: str = "table"
    windows: str = "segment"
    fuzz: str = "none"
    tau: float | None = None
    target_ratio: float | None = None
    lm_device: Literal["auto", "cpu", "cuda"] = "auto"
    tokenizer: str | None = None
    vocab_size: int = bpe.DEFAULT_SIZE

    def __post_init__(self) -> None:
        if self.proxy not in proxies.names():
            raise UserError(f"PROXY={self.proxy}: unknown; there are {', '.join(proxies.names())}")
        neural.Parameters.of(self.form_fields())
        if self.tau is not None and not math.isfinite(self.tau):
            raise UserError(f"--tau {self.tau}: give bits, 0 to 8 for most text")
        if self.target_ratio is not None and not 1 <= self.target_ratio < math.inf:
            raise UserError(f"--target-ratio {self.target_ratio}: give bytes a symbol, 1 or more")
        if self.tau is not None and self.target_ratio is not None:
            raise UserError("--tau and --target-ratio both say where segments start; give one")
        if self.target_ratio is not None and self.windows != "segment":
            raise UserError(f"--target-ratio: windows of WINDOWS={self.windows} hardly follow tau; use WINDOWS=segment")
        if self.vocab_size < 256:
            raise UserError(f"--vocab-size {self.vocab_size}: a byte-level tokenizer needs at least 256")
        if self.tokenizer is not None and not Path(self.tokenizer).is_file():
            raise UserError(f"TOKENIZER={self.tokenizer}: no such file")

    @property
    def is_chosen_by_corpus(self) -> bool:
        """Whether the artefact follows from the corpus, not from a path that the user gave."""
        return (self.proxy == "bpe" and self.tokenizer is None) or (
            self.proxy == "neural" and self.compressor == "auto"
        )

    def request(self) -> dict[str, Any]:
        """The options that matter to this proxy, for the dataset's description."""
        if self.proxy == "bpe":  # of a given tokenizer its fingerprint says all, wherever the file was
            return {"tokenizer": "given"} if self.tokenizer else {"tokenizer": None, "vocab_size": self.vocab_size}
        if self.proxy == "neural":
            return {**self.form_fields(), "tau": self.tau, "target_ratio": self.target_ratio}
        return {}

    @property
    def form(self) -> list[str]:
        """Of the neural proxy, as `default_out` takes it."""
        return list(self.form_fields().values())

    def form_fields(self) -> dict[str, str]:
        """Coder, bits, segmentation, windows and fuzz by name."""
        names = ("coder", "bits", "segmentation", "windows", "fuzz")
        return {name: str(getattr(self, name)) for name in names}
