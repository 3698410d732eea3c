"""Bytes in, bytes out: several bytes a pass, many prompts at once, and the same bytes as one at a time.

The next byte is chosen from the main head, then a tree of what may follow is grown from the look-ahead heads
(`tree.py`) and the trunk runs over all its nodes in one pass. At each node the byte that follows is chosen as
`sampling.py` says; if a child has that byte, it was right and its own choice counts too. So every byte is chosen from
the logits that plain decoding would have, by the same function: greedy or sampled, the output is the same with any
tree, in any batch, up to the rounding of matrix products of different shapes: in fp32 that decides between choices
whose scores differ by less than 1e-4, in bf16 the margin is wider. The tree ends where the window does, since later
positions see its summaries.

A prompt is bos `<raw>` bytes. Only bytes and the ends (`</raw>`, eos) are chosen, whatever the model was trained on.
Speeds are in benchmarks/RESULTS.md.

Shapes: B prompts in work, N nodes, D width, H heads, 258 choices.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from schemas.errors import UserError
from schemas.vocabulary import BOS, BYTE_OFFSET, RAW_OPEN
from trainer.checkpoints.restore import restore
from trainer.data.views import Mode
from trainer.inference.byte_heads import ByteHeads
from trainer.inference.continuation import Generated, Options, Request, Row, as_bytes
from trainer.inference.sampling import CHOICES, Sampler
from trainer.inference.stops import whole_characters
from trainer.inference.tree import MOST, ancestors, common_size, grow, node_cost
from trainer.model.cache import Cache
from trainer.model.evabyte import EvaByte

NODES = {"cpu": 16, "cuda": 64}
"""Places for nodes in a pass."""

NODE_COST = {"cpu": 0.02, "cuda": 0.002}
"""Cost of a node in passes, see `tree.node_cost`. CPU: measured at `tiny` on one thread. A GPU is idle in a pass over
few ids; there it is a guess."""

BATCH = 8
"""Prompts in work at once."""


class Generator:
    """A model that goes on from prompts.

    Attributes:
        model: in evaluation mode; not changed.
        nodes: places in a tree; 1 is plain decoding.
        start: ids before every prompt: those that begin a raw text, unless they are set to others.
    """

    def __init__(
        self, model: EvaByte, *, sentinels: bool = True, nodes: int | None = None, cost: float | None = None
    ) -> None:
        """A generator.

        Args:
            model: trained with a raw view.
            sentinels: whether with `<raw>` and `</raw>`.
            nodes: places in a tree; default by device, 1 if the model has one head.
            cost: of a node in passes, see `tree.node_cost`; default by device.

        Raises:
            UserError: no node, or more than 64.
        """
        device = model.embed_tokens.weight.device.type
        config = model.config
        self.model = model
        self.nodes = NODES.get(device, NODES["cpu"]) if nodes is None else nodes
        if not 1 <= self.nodes <= MOST:
            raise UserError(f"nodes is {nodes}; expected 1 to {MOST}")
        self._heads = ByteHeads(model)
        if self._heads.ahead == 0:
            self.nodes = 1
        self._cost = NODE_COST.get(device, NODE_COST["cpu"]) if cost is None else cost
        self.start: Sequence[int] = [BOS, RAW_OPEN] if sentinels else [BOS]
        weights = config.layers * (4 * config.dim**2 + 3 * config.dim * config.ffn) + len(CHOICES) * config.dim
        self._key_to_weights = config.layers * 2 * config.dim / weights

    @classmethod
    def from_run(cls, run: str, *, nodes: int | None = None) -> "Generator":
        """From the newest checkpoint of a run: on a GPU in bf16 if there is one, else as it is.

        Raises:
            UserError: there is none, or the model never saw raw bytes.
        """
        restored = restore(run)
        mode = Mode(restored.config["mode"])
        if mode is Mode.COMP_ONLY:
            raise UserError(f"RUN={run}: trained with MODE={mode}: it cannot write bytes; take a run of another mode")
        model = restored.model
        if torch.cuda.is_available():
            model = model.to("cuda", torch.bfloat16)
        return cls(model, sentinels=mode.sentinels, nodes=nodes)

    def generate(
        self, prompts: Sequence[bytes | str], *, batch: int = BATCH, **options: Unpack[Options]
    ) -> list[Generated]:
        """Go on from each prompt; the result of one does not depend on the others.

        Args:
            prompts: any bytes; texts are taken as UTF-8.
            batch: prompts in work at once; memory and speed.
            options: see `Request`.

        Returns:
            One for each prompt, in order. The noise of sampling hangs on that order, too: see `stream`.

        Raises:
            UserError: an option is out of range.
        """
        found = dict(self.results(prompts, batch=batch, **options))
        return [found[number] for number in range(len(prompts))]

    def results(
        self, prompts: Sequence[bytes | str], *, batch: int = BATCH, **options: Unpack[Options]
    ) -> Iterator[tuple[int, Generated]]:
        """As `generate`, but each result with its prompt's number as soon as it is there."""
        if batch < 1:
            raise UserError(f"batch is {batch}; expected 1 or more")
        if isinstance(prompts, bytes | str):
            raise UserError(f"prompts is {prompts!r}; expected a list of prompts")
        data = [bytearray() for _ in prompts]
        request = Request(**options)
        for row, part in self._decode(enumerate(map(as_bytes, prompts)), request, min(batch, len(prompts))):
            data[row.number] += part
            if row.ended is not None:
                yield row.number, Generated(bytes(data[row.number]), row.ended, row.made, row.passes)

    def stream(self, prompt: bytes | str, *, number: int = 0, **options: Unpack[Options]) -> "Stream":
        """Bytes that follow a prompt, given out as soon as they cannot belong to a stop text.

        Args:
            prompt: any bytes; a text is taken as UTF-8.
            number: of the prompt; the bytes are those of `generate` for the prompt of this number.
            options: see `Request`.

        Raises:
            UserError: an option is out of range.
        """
        return Stream(self._decode([(number, as_bytes(prompt))], Request(**options), 1))

    def stream_text(self, prompt: bytes | str, *, number: int = 0, **options: Unpack[Options]) -> Iterator[str]:
        """As `stream`, as text: no part splits a character, what is not UTF-8 becomes U+FFFD."""
        return whole_characters(self.stream(prompt, number=number, **options), before=as_bytes(prompt))

    def _decode(self, prompts: Iterable[tuple[int, bytes]], request: Request, rows: int) -> Iterator[tuple[Row, bytes]]:
        """Parts of all prompts, `rows` of them in work at once, in the order in which they are made; some are empty."""
        waiting = deque(prompts)
        sampler = Sampler(request)
        cache = Cache(self.model, rows, self.nodes)
        places: list[Row | None] = [None] * rows
        while True:
            for place, row in enumerate(places):
                while row is None or row.ended is not None:
                    if not waiting:
                        places[place] = row = None
                        break
                    number, prompt = waiting.popleft()
                    row = places[place] = Row(number, request, sampler)
                    yield row, self._begin(cache, place, row, prompt)
            living = [place for place, row in enumerate(places) if row is not None]
            if not living:
                return
            if len(living) < len(places):
                cache.keep(living)
            working = [row for row in places if row is not None]
            places = [*working]
            for row, part in zip(working, self._advance(cache, working), strict=True):
                yield row, part

    def _begin(self, cache: Cache, place: int, row: Row, prompt: bytes) -> bytes:
        """Take in a prompt and choose its first byte; the part that is free."""
        ids = np.frombuffer(prompt, dtype=np.uint8).astype(np.int64) + BYTE_OFFSET
        ids = torch.from_numpy(np.concatenate([self.start, ids])).to(self._heads.device)
        hidden = cache.prefill(place, ids)[-1:]
        part = row.take([row.choose(self._heads.main(hidden)[0], len(ids))])
        self._believe(hidden, [row], [len(ids)])
        return part

    def _advance(self, cache: Cache, rows: list[Row]) -> list[bytes]:
        """One pass for all rows: their free parts."""
        cost = node_cost(self._cost, len(rows), cache.keys * self._key_to_weights)
        trees = [
            grow(
                row.root,
                row.beliefs,
                # the byte after the last one that is right needs no place in the tree
                depth=min(cache.room(place) - 1, row.remaining - 1),
                nodes=self.nodes,
                cost=cost,
                trust=row.trust,
            )
            for place, row in enumerate(rows)
        ]
        count = common_size(trees, cost)
        trees = [tree.cut(count) for tree in trees]
        lengths, device = list(cache.lengths), self._heads.device
        # places after a tree hold its root at its position: nobody sees them, nobody asks for them
        ids = torch.tensor([padded(tree.bytes, count, tree.bytes[0]) for tree in trees], device=device) + BYTE_OFFSET
        depths = torch.tensor([padded(tree.depths, count, 0) for tree in trees], device=device)
        sees = torch.from_numpy(ancestors(trees, count)).to(device)
        hidden = cache.look(ids, depths, sees)
        walks = [
            row.walk(tree, logits, length)
            for row, tree, logits, length in zip(rows, trees, self._heads.main(hidden), lengths, strict=True)
        ]
        cache.accept([path for path, _ in walks])
        parts = [row.take(choices) for row, (_, choices) in zip(rows, walks, strict=True)]
        last = hidden[range(len(rows)), [path[-1] for path, _ in walks]]
        self._believe(last, rows, cache.lengths)
        return parts

    def _believe(self, hidden: Tensor, rows: list[Row], lengths: list[int]) -> None:
        """What the look-ahead heads say at each row's last id: hidden [B, D], lengths without the root."""
        if self.nodes == 1:
            return
        depths = range(1, self._heads.ahead + 1)
        noise = None
        if rows[0].sampler.sampling.temperature > 0:
            noise = np.stack(
                [
                    [row.sampler.noise(row.number, length + depth) for depth in depths]
                    for row, length in zip(rows, lengths, strict=True)
                ]
            )
        for row, beliefs in zip(rows, self._heads.beliefs(hidden, noise), strict=True):
            row.beliefs = beliefs


class Stream(Iterator[bytes]):
    """The bytes that follow one prompt, in parts as they are made; no part is empty.

    Attributes:
        result: all of it, once the parts are used up.
    """

    def __init__(self, parts: Iterator[tuple[Row, bytes]]) -> None:
        self.result: Generated | None = None
        self._parts = parts
        self._data = bytearray()

    def __next__(self) -> bytes:
        """The next part."""
        for row, part in self._parts:
            self._data += part
            if row.ended is not None:
                self.result = Generated(bytes(self._data), row.ended, row.made, row.passes)
            if part:
                return part
        raise StopIteration


def padded(values: list[int], count: int, fill: int) -> list[int]:
    """With fill up to a length of count."""
    return values + [fill] * (count - len(values))
