"""The training loop of one process: batches in, losses and checkpoints out.

Everything that decides a step is a function of the options, the data and the step: a run that was killed and resumed
gives the same losses to the last bit on one machine. Of the model's time, data and logs take about 1 %.
"""

import json
import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from schemas.errors import UserError
from schemas.vocabulary import BYTE_OFFSET, COMP_OFFSET
from trainer import checkpoint, optim, plan
from trainer.config import TrainOptions
from trainer.data.batch import Arrays, Batch
from trainer.data.loader import Loader
from trainer.data.state import differences
from trainer.model.evabyte import EvaByte, ModelConfig, parameters
from trainer.model.heads import loss_sum
from trainer.run_log import RunLog

log = logging.getLogger(__name__)

CONFIG = "config.json"


class Trainer:
    """A run, ready to go on from its newest checkpoint.

    Args:
        options: of the run.

    Raises:
        UserError: no dataset, a checkpoint of another configuration, sizes that cannot be.
    """

    def __init__(self, options: TrainOptions) -> None:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self.options = options
        self.loader = Loader(options.loader())
        self.steps = self.loader.options.steps
        self.model_config = ModelConfig.of(
            options.sizes,
            vocabulary_size=self.loader.vocabulary.size,
            main_heads=self.loader.options.main_heads,
            raw_heads=self.loader.options.raw_heads,
        )
        plan.check_fits(options.scale, self.model_config, plan.available_bytes())
        self.model = EvaByte(self.model_config)
        self.model.init_weights(torch.Generator().manual_seed(options.seed), options.sizes.init)
        self.peak_rate = options.peak_rate or options.sizes.peak_rate
        self.optimiser = optim.adamw(self.model.parameters(), self.peak_rate)
        self.warmup = optim.warmup_steps(self.steps)
        self.step = 0
        self._saved = 0  # the step of the newest checkpoint
        self._stop: signal.Signals | None = None
        if not options.afresh:
            self._resume()

    def notes(self) -> list[str]:
        """Lines to show at the start."""
        first = f"{self.options.folder}: {parameters(self.model_config):,} parameters, {self.steps:,} steps"
        resumed = [f"resuming after step {self.step:,}"] if self.step else []
        return [first, *self.loader.notes, *resumed]

    def train(self) -> None:
        """Run to the end, or save and return when SIGINT or SIGTERM comes.

        Raises:
            UserError: a loss that is not finite, a damaged dataset, a full disk.
        """
        run = self.options.folder
        run.mkdir(parents=True, exist_ok=True)
        (run / CONFIG).write_text(json.dumps(self.identity(), indent=1, default=str) + "\n")
        with (
            RunLog(run, self.step, tensorboard=self.options.tensorboard) as run_log,
            self.loader,
            self._stop_on_signals(),
        ):
            while self.step < self.steps and self._stop is None:
                metrics = self.train_step()
                run_log.write(metrics, self._line(metrics))
                if self.step % self.options.checkpoint_every == 0 or self.step == self.steps:
                    self.save()
            if self.step != self._saved:
                self.save()

    @property
    def stopped_by(self) -> signal.Signals | None:
        """The signal that ended `train` before its time."""
        return self._stop

    def train_step(self) -> dict[str, Any]:
        """One optimiser step; returns what is logged of it."""
        start = time.perf_counter()
        batch = self._next_batch()
        waited = time.perf_counter() - start
        rate = self.peak_rate * optim.rate_factor(self.step, self.steps, self.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        nats = _Nats()
        total = 0.0
        for arrays in batch.micro_batches(self.options.micro_batch or self.loader.options.local_batch):
            ids, doc, position = (torch.from_numpy(array) for array in (arrays.ids, arrays.doc, arrays.position))
            hidden = self.model(ids, doc, position)
            loss = loss_sum(self.model, hidden, torch.from_numpy(arrays.labels), torch.from_numpy(arrays.weights))
            (loss.total / max(batch.counts.targets, 1)).backward()
            total += float(loss.total.detach())
            nats.add(arrays, loss.next_nats)
        loss_value = total / max(batch.counts.targets, 1)
        for parameter in self.model.parameters():
            if parameter.grad is None:  # probes of chunks, where a sequence is one window
                parameter.grad = torch.zeros_like(parameter)
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), optim.CLIP_NORM))
        if not math.isfinite(loss_value) or not math.isfinite(norm):
            raise UserError(
                f"step {self.step}: the loss is {loss_value} and the gradient norm {norm}; nothing was saved of this "
                "step: lower --peak-rate and start the same run again from its last checkpoint"
            )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return self._metrics(batch, loss_value, nats, norm, rate, waited, time.perf_counter() - start)

    def _next_batch(self) -> Batch:
        """The next batch; a dataset that turns out damaged costs no step that is done."""
        try:
            return next(self.loader)
        except UserError:
            if self.step != self._saved:
                self.save()
            raise

    def save(self) -> None:
        """Write a checkpoint."""
        model, optimiser = get_state_dict(self.model, self.optimiser)
        state = {"step": self.step, "loader": self.loader.state(), "config": self.identity()}
        checkpoint.save(self.options.folder, {"model": model, "optimiser": optimiser}, state, keep=self.options.keep)
        self._saved = self.step

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with: the model, its vocabulary, the schedule; the loader checks its own."""
        identity: dict[str, Any] = {
            "model": asdict(self.model_config),
            "vocabulary": self.loader.vocabulary.to_json(),
            "scale": self.options.scale,
            "mode": self.options.mode.value,
            "loss": self.options.loss,
            "steps": self.steps,
            "sequence": self.loader.options.sequence,
            "peak_rate": self.peak_rate,
            "data": list(self.options.data),
            "val_fraction": self.options.val_fraction,
        }
        return identity

    def _resume(self) -> None:
        found = checkpoint.newest(self.options.folder)
        if found is None:
            return
        saved, now = ({**config, "data": None} for config in (found.state["config"], self.identity()))
        different = differences(saved, now)  # datasets may have moved: the loader compares what is in them
        if different:
            raise UserError(
                f"RUN={self.options.folder} is another run: {'; '.join(different)}. Choose another RUN, or --afresh"
            )
        model, optimiser = get_state_dict(self.model, self.optimiser)
        found.load_into({"model": model, "optimiser": optimiser})
        set_state_dict(self.model, self.optimiser, model_state_dict=model, optim_state_dict=optimiser)
        self.loader.load_state(found.state["loader"])
        self.step = self._saved = found.step

    def _metrics(
        self, batch: Batch, loss: float, nats: "_Nats", norm: float, rate: float, waited: float, seconds: float
    ) -> dict[str, Any]:
        counts = batch.counts
        symbols = counts.raw_symbols + counts.comp_symbols
        return {
            "step": batch.step,
            "loss": loss,
            "raw_bits_per_byte": nats.raw_bits_per_byte(),
            "comp_bits_per_byte": nats.comp / math.log(2) / counts.comp_view_bytes if counts.comp_view_bytes else None,
            "rate_of_comp": self.loader.schedule.rate(batch.step) if self.options.mode.mixes else None,
            "pairs": counts.pairs,
            "padding": counts.padding / batch.arrays.ids.size,
            "raw_view_bytes": counts.raw_view_bytes,
            "comp_view_bytes": counts.comp_view_bytes,
            "symbols": symbols,
            "symbols_per_second": symbols / seconds,
            "data_wait": waited / seconds,
            "gradient_norm": norm,
            "learning_rate": rate,
            "epoch_min": batch.epochs[0],
            "epoch_mean": batch.epochs[1],
            "epoch_max": batch.epochs[2],
        }

    def _line(self, metrics: dict[str, Any]) -> str:
        parts = [f"step {metrics['step'] + 1:,}/{self.steps:,}", f"loss {metrics['loss']:.3f}"]
        views = [(view, metrics[f"{view}_bits_per_byte"]) for view in ("raw", "comp")]
        shown = ", ".join(f"{view} {bits:.3f}" for view, bits in views if bits is not None)
        parts += [f"{shown} bits/byte"] if shown else []
        ids_left = (self.steps - self.step) * self.loader.options.batch * self.loader.options.sequence
        seconds_left = ids_left / metrics["symbols_per_second"]
        parts += [f"{metrics['symbols_per_second']:,.0f} symbols/s", f"epoch {metrics['epoch_mean']:.2f}"]
        parts += [f"{seconds_left / 60:,.0f} min left" if seconds_left >= 90 else f"{seconds_left:.0f} s left"]
        return ", ".join(parts)

    @contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the run after the step that is under way, with a checkpoint."""

        def stop(number: int, frame: object) -> None:
            self._stop = signal.Signals(number)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Nats:
    """Head 0's cross-entropy by view, summed over micro-batches."""

    def __init__(self) -> None:
        self.raw_bytes = 0
        self.raw = 0.0
        self.comp = 0.0

    def add(self, arrays: Arrays, next_nats: torch.Tensor) -> None:
        """Count the raw bytes predicted in raw views, and everything in comp views."""
        nats = next_nats.numpy()
        label = arrays.labels[:, :, 0]
        byte = (arrays.view == 0) & (arrays.weights[:, :, 0] > 0) & (label >= BYTE_OFFSET) & (label < COMP_OFFSET)
        self.raw_bytes += int(byte.sum())
        self.raw += float(nats[byte].sum(dtype="float64"))
        self.comp += float(nats[arrays.view == 1].sum(dtype="float64"))

    def raw_bits_per_byte(self) -> float | None:
        """Bits per raw byte in raw views; None if there was none."""
        return self.raw / math.log(2) / self.raw_bytes if self.raw_bytes else None
