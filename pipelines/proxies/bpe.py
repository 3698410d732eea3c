"""A tokenizer as a proxy: any `tokenizers` JSON, given or trained on the corpus, made lossless over any bytes.

Runs of valid UTF-8 are encoded whole, every other byte is escaped as id 64 + b. Should a run's tokens not
concatenate to it (a normaliser, a dropped character), it is encoded line by line, and a line that still differs
is escaped. Specials never come from text. Spans come from a table of token lengths, never from `offsets`,
which are slow and count characters.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compressor_model.encoder import StringTable
from compressor_model.text import batches
from pipelines.proxies.base import U32, Encoded, EncodedBatch, Proxy, joined, slices, sums
from pipelines.reading.pieces import pieces
from schemas.digests import digest_of
from schemas.errors import UserError
from schemas.vocabulary import BYTE_OFFSET, COMP_OFFSET, Vocabulary

DEFAULT_SIZE = 32768

PART_BYTES = 1 << 17
"""A longer document is tokenised in parts, cut at a newline where there is one: the library takes 60 bytes of memory a
byte of text, and up to 500 where each byte is a token. So it is part of what decides the symbols."""

_TEXTS = 4096
"""Short texts that are tokenised in one call: each is an object of some 500 bytes there."""

# The library decides the output too, and it may change: what it makes of this enters the fingerprint.
_PROBE = (
    "def f(x):\n\treturn x ** 2  # 0123456789 \r\n  <|endoftext|> don't É é ﬁ Ǆ ß İ ½ ٣ 中文 かな 한국 العربية हिन्दी "
    "👩‍👧 \u00a0\u2028\u3000 ©®™ a\u0301 \0 "
).encode() + bytes(range(128, 256))

# Python decodes a byte that is not UTF-8 to one of these surrogates, which UTF-8 itself cannot hold.
_RUNS = re.compile("[\udc80-\udcff]+|[^\udc80-\udcff]+")


class BpeProxy(Proxy):
    """See the module.

    Args:
        path: a `tokenizers` JSON file.

    Raises:
        UserError: the file is missing or no tokenizer.
    """

    name = "bpe"

    def __init__(self, path: str) -> None:
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"tokenizer {path}: cannot be read ({error.strerror})") from None
        digest = hashlib.sha256(data).hexdigest()
        self._tokenizer = _parse(data, path)
        strings = _token_bytes(self._tokenizer)
        if max(map(len, strings)) > 0xFFFF:
            raise UserError(f"tokenizer {path}: a token covers more than 65,535 bytes, which spans cannot hold")
        self._table = StringTable.of(strings)
        self.vocabulary = Vocabulary(proxy="bpe", comp_symbols=len(strings) - COMP_OFFSET)
        probe = hashlib.sha256(self.encode(_PROBE).ids.tobytes()).hexdigest()
        self.fingerprint = digest_of({"proxy": "bpe", "version": 3, "tokenizer": digest, "probe": probe})

    def encode(self, raw: bytes) -> Encoded:
        """Tokens at 320 + id, escaped bytes at 64 + b."""
        batch = self.encode_batch([raw])
        return Encoded(batch.ids, batch.spans, batch.escaped_bytes)

    def decode(self, ids: U32) -> bytes:
        """The bytes of tokens and escapes."""
        return self._table.concatenate(ids)

    def encode_batch(self, raws: Sequence[bytes]) -> EncodedBatch:
        """As `encode` of each; parts that are UTF-8 are tokenised many in a call."""
        parts = [list(pieces(raw, PART_BYTES)) for raw in raws]
        flat = [part for of_one in parts for part in of_one]
        views = [view for some in batches(flat, PART_BYTES) for view in self._views(some)]
        ids = np.concatenate([*views, np.empty(0, np.uint32)])
        # part by part: indexing makes 8 bytes of each index
        spans = np.concatenate([*(self._table.lengths[view] for view in views), np.empty(0, self._table.lengths.dtype)])
        sizes = np.array([len(view) for view in views], np.int64)
        return EncodedBatch(
            ids=ids,
            spans=spans,
            counts=sums(sizes, np.array([len(of_one) for of_one in parts], np.int64)),
            escaped_bytes=sum(int((view < COMP_OFFSET).sum()) for view in views),
        )

    def _views(self, parts: list[bytes]) -> list[U32]:
        """The tokens of each part."""
        texts = [_utf8(part) for part in parts]
        encodings = iter(self._tokens([text for text in texts if text is not None]))
        views = [np.empty(0, np.uint32) if text is None else next(encodings) for text in texts]
        for index in np.flatnonzero(self._differing(views, parts)):
            views[index] = self._careful(parts[index])
        return views

    def _differing(self, views: list[U32], parts: list[bytes]) -> npt.NDArray[np.bool_]:
        batch = EncodedBatch.of([Encoded(view, None) for view in views])
        return self.mismatches(parts, batch)

    def mismatches(self, raws: Sequence[bytes], batch: EncodedBatch) -> npt.NDArray[np.bool_]:
        """As `Proxy.mismatches`, without the decoded documents in memory."""
        data, offsets = joined(raws)
        return self._table.differing(batch.ids, 0, batch.counts, data, offsets)

    def decode_batch(self, batch: EncodedBatch) -> list[bytes]:
        """As `decode` of each."""
        return slices(self._table.concatenate(batch.ids), sums(self._table.lengths[batch.ids], batch.counts))

    def _tokens(self, texts: list[str]) -> list[U32]:
        try:
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except BaseException as error:
            if isinstance(error, Exception | KeyboardInterrupt | SystemExit):
                raise
            # a panic of the library is no Exception: of one document, and not the end of the job
            raise ValueError(f"the tokenizer gave up: {' '.join(str(error).split())}") from None
        return [np.array(encoding.ids, np.uint32) + np.uint32(COMP_OFFSET) for encoding in encodings]

    def _careful(self, raw: bytes) -> U32:
        """Run by run; a run whose tokens differ from it line by line; a line that differs byte by byte."""
        runs = _RUNS.findall(raw.decode("utf-8", "surrogateescape"))
        return self._exact(runs, lambda run: self._exact(run.splitlines(keepends=True), _escape))

    def _exact(self, texts: list[str], otherwise: Callable[[str], U32]) -> U32:
        """Tokens of each text that they concatenate to, `otherwise` of the rest."""
        parts = [np.empty(0, np.uint32)]
        for at in range(0, len(texts), _TEXTS):
            some = texts[at : at + _TEXTS]
            tokens = iter(self._tokens([text for text in some if not _is_escaped(text)]))
            views = [_escape(text) if _is_escaped(text) else next(tokens) for text in some]
            wrong = self._differing(views, [_bytes(text) for text in some])
            parts += [otherwise(text) if bad else view for text, view, bad in zip(some, views, wrong, strict=True)]
        return np.concatenate(parts)


def train(documents: Iterable[bytes], size: int = DEFAULT_SIZE) -> bytes:
    """Train a byte-level BPE without normalisation and return its JSON; the same documents give the same bytes.

    Args:
        documents: training text; bytes that are not UTF-8 are left out.
        size: vocabulary size, at least 256.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((document.decode("utf-8", "ignore") for document in documents), trainer)
    text: str = tokenizer.to_str()
    return text.encode()


def _parse(data: bytes, path: str) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception for any bad file
        raise UserError(f"tokenizer {path}: not a tokenizers JSON file ({error})") from None
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _token_bytes(tokenizer: Any) -> list[bytes]:
    """Bytes of every vocabulary id: raw bytes at 64 + b, token t at 320 + t.

    Added tokens (specials among them) stand for their text. Ids without a token are empty.
    """
    strings = [b""] * COMP_OFFSET
    strings[BYTE_OFFSET : BYTE_OFFSET + 256] = [bytes([byte]) for byte in range(256)]
    added = {index: token.content.encode() for index, token in tokenizer.get_added_tokens_decoder().items()}
    alphabet = _byte_level_alphabet()
    vocabulary = {index: token for token, index in tokenizer.get_vocab(with_added_tokens=True).items()}
    # the pre-tokenizer is what maps bytes to the alphabet; a tokenizer that is only used to encode needs no decoder
    steps = json.loads(tokenizer.to_str())
    byte_level = '"ByteLevel"' in json.dumps([steps.get("pre_tokenizer"), steps.get("decoder")])
    for index in range(max(vocabulary, default=-1) + 1):
        token = vocabulary.get(index, "")
        strings.append(added.get(index) or _bytes_of(token, alphabet if byte_level else None))
    return strings


def _bytes_of(token: str, alphabet: dict[str, int] | None) -> bytes:
    """Bytes of a token: by the byte-level alphabet; else `<0xNN>` byte fallback and the word mark of SentencePiece."""
    if alphabet is not None:
        return bytes(alphabet[char] for char in token) if all(char in alphabet for char in token) else token.encode()
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's map of printable characters to bytes: printable ones are themselves, the others follow from 256."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _utf8(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _is_escaped(text: str) -> bool:
    return "\udc80" <= text[0] <= "\udcff"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _escape(text: str) -> U32:
    return np.frombuffer(_bytes(text), np.uint8).astype(np.uint32) + np.uint32(BYTE_OFFSET)
