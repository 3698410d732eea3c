"""`python -m benchmarks.decoding`: several bytes a pass beside one, on a trained run, on this machine.

Prompts are the first halves of held-out documents. Modes take turns on the same prompts; seconds are of decoding, the
pass over the prompt taken off, except in the table of batches: CPU seconds of one thread, so that other load on the
machine disturbs little. The bytes are compared and must be the same but for ties. Prints Markdown tables.
"""

import copy
import statistics
import time
from dataclasses import dataclass

import torch
import tyro

from benchmarks.preprocess import machine
from schemas.errors import UserError
from schemas.vocabulary import BYTE_OFFSET, EOS, RAW_CLOSE
from trainer.checkpoints.restore import restore
from trainer.data.dataset import Dataset
from trainer.data.views import Mode
from trainer.evaluate.documents import texts_of
from trainer.inference.continuation import Generated
from trainer.inference.decoding import Generator
from trainer.model.evabyte import EvaByte


@dataclass(frozen=True, kw_only=True)
class DecodingBenchOptions:
    """The figures of decoding.

    Attributes:
        run: folder of a run with a raw view; with several heads, or there is nothing to compare.
        data: dataset of the prompts; default the run's first.
        prompts: number of documents.
        max_bytes: made for each prompt.
        rounds: of which the median counts.
        positions: whose cost per byte is compared.
        nodes: further sizes of the tree to try, beside the default.
        costs: further costs of a node to try.
    """

    run: str
    data: str | None = None
    prompts: int = 24
    max_bytes: int = 300
    rounds: int = 3
    positions: tuple[int, ...] = (2048, 8192, 32_768)
    nodes: tuple[int, ...] = ()
    costs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if min(self.prompts, self.max_bytes, self.rounds, *self.positions, *self.nodes) < 1:
            raise UserError("--prompts, --max-bytes, --rounds, --positions and --nodes must be 1 or more")


@dataclass
class Tally:
    """What one generator did with all prompts."""

    seconds: float = 0.0
    made: int = 0
    passes: int = 0

    @property
    def speed(self) -> float:
        """Bytes a second."""
        return self.made / self.seconds


def main(options: DecodingBenchOptions) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    machine()
    restored = restore(options.run)
    dataset = Dataset(options.data or restored.config["data"][0])
    documents = texts_of(dataset, float(restored.config["val_fraction"]), 2 * max(options.prompts, 200))
    texts = [document.raw for document in documents if len(document.raw) > 1][: max(options.prompts, 200)]
    config = restored.model.config
    print(
        f"{options.run}: step {restored.step:,}, D {config.dim}, {config.layers} layers, "
        f"{config.main_heads + config.raw_heads} heads, window {config.window}, chunk {config.chunk}\n"
    )
    prompts = [text[: len(text) // 2] for text in texts[: options.prompts]]
    sentinels = Mode(restored.config["mode"]).sentinels
    one_at_a_time(restored.model, sentinels, prompts, options)
    batches(restored.model, sentinels, prompts, options)
    far_positions(restored.model, sentinels, b"\n".join(texts), options)


def one_at_a_time(model: EvaByte, sentinels: bool, prompts: list[bytes], options: DecodingBenchOptions) -> None:
    """Plain and tree decoding at batch 1."""
    generators = {
        "plain": Generator(model, sentinels=sentinels, nodes=1),
        "tree": Generator(model, sentinels=sentinels),
    }
    for nodes in options.nodes:
        generators[f"tree, at most {nodes} nodes"] = Generator(model, sentinels=sentinels, nodes=nodes)
    for cost in options.costs:
        generators[f"tree, node cost {cost}"] = Generator(model, sentinels=sentinels, cost=cost)
    print(f"## Batch 1, {len(prompts)} prompts, at most {options.max_bytes} bytes each\n")
    print("| temperature | decoding | bytes/s | of plain | bytes a pass | ms a pass | same bytes |")
    print("|---|---|---|---|---|---|---|")
    for temperature in (0.0, 0.8):
        tallies: dict[str, list[Tally]] = {name: [] for name in generators}
        outputs: dict[str, list[bytes]] = {}
        for _ in range(options.rounds):
            for name, generator in generators.items():
                tally, outputs[name] = Tally(), []
                for number, prompt in enumerate(prompts):
                    result = timed(generator, prompt, tally, options.max_bytes, temperature, number)
                    outputs[name].append(result.data)
                tallies[name].append(tally)
        plain = statistics.median(tally.speed for tally in tallies["plain"])
        for name, rounds in tallies.items():
            speed, last = statistics.median(tally.speed for tally in rounds), rounds[-1]
            same = sum(one == other for one, other in zip(outputs[name], outputs["plain"], strict=True))
            print(
                f"| {temperature} | {name} | {speed:,.0f} | {speed / plain:.2f} | {last.made / last.passes:.2f} "
                f"| {last.made / last.passes / speed * 1e3:.2f} | {same} of {len(prompts)} |",
                flush=True,
            )
    print()


def timed(
    generator: Generator, prompt: bytes, tally: Tally, max_bytes: int, temperature: float = 0.0, number: int = 0
) -> Generated:
    """One prompt: seconds, bytes and passes after its first part, which has the pass over the prompt."""
    stream = generator.stream(prompt, max_bytes=max_bytes, temperature=temperature, number=number)
    first = next(stream, b"")
    start = time.process_time()
    for _ in stream:
        pass
    tally.seconds += time.process_time() - start
    result = stream.result
    assert result is not None
    tally.made += result.made - len(first)
    tally.passes += result.passes - 1
    return result


def batches(model: EvaByte, sentinels: bool, prompts: list[bytes], options: DecodingBenchOptions) -> None:
    """Bytes a second of all prompts together, by how many are in work at once; passes over prompts included."""
    print("## Batches\n")
    print("| in work at once | plain, bytes/s | tree, bytes/s | of one at a time | tree: bytes a pass and row |")
    print("|---|---|---|---|---|")
    alone = 0.0
    for batch in (1, 2, 4, 8, 16):
        generators = [Generator(model, sentinels=sentinels, nodes=nodes) for nodes in (1, None)]
        speeds: tuple[list[float], list[float]] = ([], [])
        for _ in range(options.rounds):
            for generator, rounds in zip(generators, speeds, strict=True):
                start = time.process_time()
                results = generator.generate(prompts, max_bytes=options.max_bytes, batch=batch)
                made = sum(result.made for result in results)
                rounds.append(made / (time.process_time() - start))
        rate = made / sum(result.passes for result in results)
        plain, tree = map(statistics.median, speeds)
        alone = alone or tree
        print(f"| {batch} | {plain:,.0f} | {tree:,.0f} | {tree / alone:.2f} | {rate:.2f} |", flush=True)
    print()


def far_positions(model: EvaByte, sentinels: bool, text: bytes, options: DecodingBenchOptions) -> None:
    """Cost of a byte after long prompts, by a model that cannot end."""
    endless = copy.deepcopy(model)
    with torch.no_grad():
        # equal to that of a byte, which comes first: so they are never the likeliest
        endless.lm_head.weight[[RAW_CLOSE, EOS]] = endless.lm_head.weight[BYTE_OFFSET].clone()
    text *= max(options.positions) // len(text) + 1
    print("## Positions\n")
    print("| position | plain, ms a byte | of the first | tree, ms a byte | of the first | tree: bytes a pass |")
    print("|---|---|---|---|---|---|")
    first: list[float] = []
    for position in options.positions:
        cells = [f"{position:,}"]
        generators = [Generator(endless, sentinels=sentinels, nodes=nodes) for nodes in (1, None)]
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(options.rounds):
            for generator, rounds in zip(generators, seconds, strict=True):
                tally = Tally()
                timed(generator, text[:position], tally, options.max_bytes)
                rounds.append(tally.seconds / tally.made * 1e3)
        costs = [statistics.median(rounds) for rounds in seconds]
        first = first or costs
        for cost, of in zip(costs, first, strict=True):
            cells += [f"{cost:.3f}", f"{cost / of:.2f}"]
        print(f"| {' | '.join(cells)} | {tally.made / tally.passes:.2f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(DecodingBenchOptions, description=DecodingBenchOptions.__doc__))
