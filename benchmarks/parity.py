"""`python -m benchmarks.parity --reference FOLDER`: our exports in the published modelling code, logit by logit.

Small models whose norms, mu and phi all matter are exported and run by both in fp32 on a CPU, as a plain stream of one
document, at lengths around the edges of chunks and windows. Three exports: a byte model of 8 heads, a proxy model in
full, whose raw heads the published code must report and leave out, and the byte model inside it. The greatest
difference must stay below 1e-4: two right computations differ by a few 1e-6, mu in the place of phi gives 3.4, and a
scale in the pooling of keys, the slightest mistake that was tried, 0.8.

FOLDER holds the files of FILES; transformers 4.47 to 4.50 must be importable. The published package needs triton only
for its kernels and for multi-byte decoding: the one is said to be missing, so that it takes its own plain PyTorch
path, and an empty class stands for the other.
"""

import contextlib
import importlib
import io
import sys
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks.preprocess import machine
from schemas.errors import UserError
from schemas.vocabulary import BYTES, COMP_OFFSET, Vocabulary
from trainer.huggingface.config import RAW_HEADS
from trainer.huggingface.export import ExportOptions, Kind, write
from trainer.huggingface.reading import Info
from trainer.model.evabyte import EvaByte, ModelConfig

FILES = ("configuration_evabyte.py", "modeling_evabyte.py", "eva_cache.py", "eva_pt_ref.py")
PACKAGE = "published_evabyte"
WINDOW, CHUNK = 32, 4
LENGTHS = (1, 3, 4, 31, 32, 33, 63, 64, 65, 90, 96, 150)
BOUND = 1e-4
COMP_SYMBOLS = 256


@dataclass(frozen=True, kw_only=True)
class ParityOptions:
    """Compare exports with the published code.

    Attributes:
        reference: folder with the published modelling files.
        seeds: models of each kind, drawn from seeds 0, 1, ...
    """

    reference: str
    seeds: int = 3

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UserError(f"--seeds {self.seeds}: give 1 or more")


@dataclass(frozen=True, kw_only=True)
class Case:
    """An export to compare: main heads P over V ids and R raw heads, written as `kind`."""

    name: str
    vocabulary: Vocabulary
    main_heads: int
    raw_heads: int
    kind: Kind


PROXY = Vocabulary(proxy="gzip", comp_symbols=COMP_SYMBOLS)
CASES = (
    Case(name="byte model, P = 8", vocabulary=BYTES, main_heads=8, raw_heads=0, kind="full"),
    Case(name="proxy, V = 576, P = 1, R = 1, full", vocabulary=PROXY, main_heads=1, raw_heads=1, kind="full"),
    Case(name="proxy, V = 576, P = 1, R = 7, raw-only", vocabulary=PROXY, main_heads=1, raw_heads=7, kind="raw-only"),
)


def main(options: ParityOptions) -> None:
    """Print the table.

    Raises:
        UserError: files are missing, or a difference is too large.
    """
    published = load_published(Path(options.reference))
    machine()
    print(f"\n| export | tensors left out | lengths | greatest logit | greatest difference (bound {BOUND:g}) |")
    print("|---|---|---|---|---|")
    worst = 0.0
    for case in CASES:
        largest = difference = 0.0
        left_out: list[str] = []
        for seed in range(options.seeds):
            model = drawn(case, seed)
            with tempfile.TemporaryDirectory() as folder:
                theirs, left_out = opened(published, exported(model, case, Path(folder) / "out"))
            for length in LENGTHS:
                ids = torch.randint(64, COMP_OFFSET, (2, length), generator=torch.Generator().manual_seed(length))
                ours = our_logits(model, ids, case.kind)
                with torch.no_grad():
                    found = theirs(ids, use_cache=False, return_dict=True, return_all_pred_logits=True).logits
                if case.kind == "full" and case.main_heads == 1:
                    found = found.unsqueeze(2)  # there a single head has no axis
                if found.shape != ours.shape:
                    raise UserError(f"{case.name}: logits {list(found.shape)} there, {list(ours.shape)} here")
                largest = max(largest, float(ours.abs().max()))
                difference = max(difference, float((found - ours).abs().max()))
        if left_out != ([RAW_HEADS] if case.kind == "full" and case.raw_heads else []):
            raise UserError(f"{case.name}: the published code leaves out {left_out}")
        print(f"| {case.name} | {', '.join(left_out) or '-'} | {len(LENGTHS)} | {largest:.2f} | {difference:.2g} |")
        worst = max(worst, difference)
    if not worst < BOUND:
        raise UserError(f"parity: the greatest difference is {worst:.2g}; expected less than {BOUND:g}")


def load_published(folder: Path) -> Any:
    """The class `EvaByteForCausalLM` of the published code, from its own files.

    Raises:
        UserError: files or transformers are missing.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"--reference {folder}: no {', '.join(missing)}; give the folder of the published EvaByte code")
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(folder.resolve())]
    decoding = types.ModuleType(f"{PACKAGE}.multibyte_decoding_evabyte")
    decoding.MultiByteDecodingMixin = type("MultiByteDecodingMixin", (), {})  # type: ignore[attr-defined]
    sys.modules |= {PACKAGE: package, decoding.__name__: decoding}
    sys.modules["triton"] = None  # type: ignore[assignment]  # an import of it fails
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it warns that there is no triton
            speech = importlib.import_module("transformers.utils.logging")
            speech.set_verbosity_error()
            speech.disable_progress_bar()
            return importlib.import_module(f"{PACKAGE}.modeling_evabyte").EvaByteForCausalLM
    except ImportError as error:
        raise UserError(f"--reference {folder}: cannot be imported ({error}); is transformers 4.47 there?") from None


def drawn(case: Case, seed: int) -> EvaByte:
    """A model in which every parameter matters."""
    config = ModelConfig(
        dim=64, ffn=96, layers=2, heads=2, window=WINDOW, chunk=CHUNK,
        vocabulary_size=case.vocabulary.size, main_heads=case.main_heads, raw_heads=case.raw_heads,
    )  # fmt: skip
    model = EvaByte(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            std = 1.0 if "adaptive" in name or "embed" in name else 0.2 if parameter.dim() == 1 else 0.125
            parameter.normal_(std=std, generator=generator)
    return model


def exported(model: EvaByte, case: Case, folder: Path) -> Path:
    """Write a model's folder."""
    info = Info(
        vocabulary=case.vocabulary, fingerprint=None, step=0, config={"mode": "proxy", "sequence": 8 * WINDOW}
    )  # fmt: skip
    write(model, info, ExportOptions(run="", out=str(folder), kind=case.kind, max_shard_bytes=100_000))
    return folder


def opened(published: Any, folder: Path) -> tuple[Any, list[str]]:
    """The model as the published code loads it, and the tensors that it did not expect.

    Raises:
        UserError: it misses some.
    """
    model, found = published.from_pretrained(str(folder), output_loading_info=True)
    if found["missing_keys"] or found["mismatched_keys"] or found["error_msgs"]:
        raise UserError(f"{folder}: not complete for the published code: {found}")
    return model.eval().float(), sorted(found["unexpected_keys"])


def our_logits(model: EvaByte, ids: Tensor, kind: Kind) -> Tensor:
    """Logits fp32 [B, T, P, V] of the trained model, [B, T, P + R, 320] where the export is raw-only."""
    with torch.no_grad():
        hidden = model(ids, torch.zeros_like(ids), torch.arange(ids.shape[1]).expand(ids.shape))
        main_heads: Tensor = model.lm_head(hidden)
        if kind == "full":
            return main_heads
        raw = [] if model.raw_multibyte_lm_head is None else [model.raw_multibyte_lm_head(hidden)]
        return torch.cat([main_heads[..., :COMP_OFFSET], *raw], 2)


if __name__ == "__main__":
    try:
        main(tyro.cli(ParityOptions, description=ParityOptions.__doc__))
    except UserError as error:
        sys.exit(f"parity: {error}")
