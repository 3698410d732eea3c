"""The training loop: batches in, losses and checkpoints out, in one process or in W of them.

Everything that decides a step is a function of the options, the data and the step: a run that was killed and resumed
gives the same losses to the last bit on one machine and number of processes, and sees the same batches on any. Of the
model's time, data and logs take about 1 %.
"""

import json
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor

from schemas.errors import UserError
from trainer import optim
from trainer.checkpoints.saving import Checkpoint, Saver, newest
from trainer.checkpoints.stores import store_at
from trainer.config import RUN_CONFIG, TrainOptions
from trainer.data.batch import Batch
from trainer.data.dataset import Dataset
from trainer.data.loader import Loader, vocabulary_of
from trainer.data.state import differences, merge_states
from trainer.data.views import Mode
from trainer.figures import StepFigures, ViewNats, bits_per_byte, finite
from trainer.huggingface.reading import config_in, load_into
from trainer.model.evabyte import EvaByte, ModelConfig, parameters
from trainer.model.heads import reweighted
from trainer.parallel import ALONE, Processes, shard
from trainer.planning import limits
from trainer.planning.memory import DTYPES, Precision, StepShape
from trainer.profiling import profiled
from trainer.run_log import RunLog
from trainer.spikes import StepGuard
from trainer.validate import Validation

log = logging.getLogger(__name__)


class Trainer:
    """A run, ready to go on from its newest checkpoint.

    Args:
        options: of the run.

    Raises:
        UserError: no dataset, a checkpoint of another configuration, sizes that cannot be.
    """

    def __init__(self, options: TrainOptions, processes: Processes = ALONE) -> None:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self.options = options
        self.processes = processes
        datasets = [Dataset(url) for url in options.data]
        loader_options = options.loader(vocabulary_of(datasets, options.mode).size)
        self.loader = Loader(replace(loader_options, rank=processes.rank, world=processes.world), datasets)
        self.steps = self.loader.options.steps
        self._store = store_at(options.checkpoint_place)
        self.saver = Saver(self._store, options.keep, processes, background=options.background_checkpoints)
        found = None if options.afresh else self._newest()
        self.model_config = self._sizes(found)
        self.model = self._build(drawn=found is None)
        self.peak_rate = options.peak_rate or options.sizes.peak_rate
        self.optimiser = optim.adamw(self.model.parameters(), self.peak_rate)
        self.warmup = optim.warmup_steps(self.steps)
        self.guard = StepGuard(options.spike_factor, options.skip_spikes)
        self.validation = self._validation()
        self.step = 0
        self.raw_bytes = 0  # that raw views have shown, in all processes
        self._saved = 0  # the step of the newest checkpoint, written or under way
        self._signalled: signal.Signals | None = None  # this process
        self._stop: signal.Signals | None = None  # as all have agreed
        if found is not None:
            self._resume(found)

    def _validation(self) -> Validation | None:
        options, loader = self.options, self.loader.options
        if not options.validate_every or options.mode is Mode.COMP_ONLY:  # that one never sees bytes
            return None
        return Validation(
            options.data,
            val_fraction=options.val_fraction,
            size=options.validate_bytes,
            context=loader.sequence,
            rows=loader.pass_size,
            sentinels=options.mode.sentinels,
            processes=self.processes,
        )

    def _newest(self) -> Checkpoint | None:
        if self.processes.is_first:
            self._store.sweep()
        return newest(self._store, self.processes)

    def _sizes(self, found: Checkpoint | None) -> ModelConfig:
        """Of the model: the scale's, or those of the one that it starts from, which need not be there for a resume."""
        options, loader = self.options, self.loader
        config = options.model(loader.vocabulary.size)
        if options.init_from is None:
            return config
        given = config_in(options.init_from) if found is None else ModelConfig(**found.state["config"]["model"])
        if loader.options.sequence % given.window:
            raise UserError(
                f"--sequence {loader.options.sequence}: expected a multiple of the {given.window} ids of a window of "
                f"{options.init_from}"
            )
        ours = {name: getattr(config, name) for name in ("vocabulary_size", "main_heads", "raw_heads")}
        return replace(given, **ours)

    def _build(self, *, drawn: bool) -> EvaByte:
        """The model.

        Args:
            drawn: from the seed, the same for any number of processes on one kind of device, or from `--init-from`.
        """
        options, processes = self.options, self.processes
        precision = DTYPES[self._precision]
        stored = torch.float64 if precision is torch.float64 else torch.float32
        # a process alone on a CPU computes in what it stores, without FSDP
        shared = dist.is_initialized()
        if not shared and precision is torch.bfloat16:
            raise UserError("--precision bf16: needs a GPU or torchrun; one process on a CPU takes fp32")
        self._check_memory(shared)
        with torch.device("meta" if shared else processes.device):
            model = EvaByte(self.model_config).to(stored)
        for layer in model.layers:
            layer.recompute = options.recompute
            if options.compile or (options.compile is None and processes.device.type == "cuda"):
                layer.compile(dynamic=False)
        if shared:
            shard(model, processes, replicas=options.replicas, precision=None if precision is stored else precision)
            model.to_empty(device=processes.device)
        generator = torch.Generator(processes.device).manual_seed(options.seed)
        model.init_weights(generator, options.sizes.init)
        if drawn and options.init_from is not None:
            reason: str | None = None
            try:
                proxy = self.loader.datasets[0].fingerprint
                load_into(model, options.init_from, vocabulary=self.loader.vocabulary, fingerprint=proxy)
            except UserError as error:  # each process reads the folder itself
                reason = str(error)
            processes.agree(reason)
        return model

    @property
    def _precision(self) -> Precision:
        """What the blocks compute in; parameters are stored in fp32, with fp64 in that."""
        return self.options.precision or ("bf16" if self.processes.device.type == "cuda" else "fp32")

    def _check_memory(self, shared: bool) -> None:
        """Before anything is allocated, so that what cannot be is said in one line, by all processes."""
        options, loader, processes = self.options, self.loader.options, self.processes
        on_gpu = processes.device.type == "cuda"
        step = StepShape(
            sequence=loader.sequence,
            micro_batch=loader.pass_size,
            micro_batches=loader.local_batch // loader.pass_size,
            recompute=options.recompute,
            precision=self._precision,
            shared=shared,
            gpu=on_gpu,
        )
        sharing = max(processes.world // max(options.replicas, 1), 1)
        reason: str | None = None
        try:
            available = limits.available_bytes(processes.device)
            limits.check_fits(options.scale, self.model_config, available, sharing, step=step)
        except UserError as error:
            reason = str(error)
        processes.agree(reason)

    def notes(self) -> list[str]:
        """Lines to show at the start."""
        first = f"{self.options.folder}: {parameters(self.model_config):,} parameters, {self.steps:,} steps"
        resumed = [f"resuming after step {self.step:,}"] if self.step else []
        return [first, *self.loader.notes, *resumed]

    def train(self) -> None:
        """Run to the end, or save and return when SIGINT or SIGTERM comes to any process.

        Raises:
            UserError: losses that stay not finite, a damaged dataset, a full disk.
        """
        run = self.options.folder
        if self.processes.is_first:
            run.mkdir(parents=True, exist_ok=True)
            config = {**self.identity(), "checkpoints": self.options.checkpoints}
            (run / RUN_CONFIG).write_text(json.dumps(config, indent=1, default=str) + "\n")
        profiling = profiled(run, self.options.profile_steps, self.processes.rank)
        with (
            self._saving(),
            self._run_log() as run_log,
            self.loader,
            self._stop_on_signals(),
            profiling as profile_step,
        ):
            while not self.is_over and self._stop is None:
                metrics = self.train_step()
                profile_step()
                metrics["validation_bits_per_byte"] = self._validate()
                if run_log is not None:
                    run_log.write(metrics, self._line(metrics))
                # last: a run that goes on from it has all steps before in its log
                if self._is_due(self.options.checkpoint_every):
                    self.save()
            if self.step != self._saved:
                self.save()
            self.saver.wait()

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """A checkpoint under way is finished before the processes part, whatever ends the run."""
        try:
            yield
        finally:
            self.saver.finish()

    def _validate(self) -> float | None:
        """Held-out bits per byte where they are due."""
        if self.validation is None or not self._is_due(self.options.validate_every):
            return None
        return self.validation.bits_per_byte(self.model)

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.is_over

    @property
    def is_over(self) -> bool:
        """Whether all steps are done, or all raw bytes of the budget shown."""
        return self.step >= self.steps or self.options.budget.is_spent(self.raw_bytes)

    def _run_log(self) -> AbstractContextManager[RunLog | None]:
        """The log, kept by the first process."""
        if not self.processes.is_first:
            return nullcontext()
        return RunLog(self.options.folder, self.step, tensorboard=self.options.tensorboard)

    @property
    def stopped_by(self) -> signal.Signals | None:
        """The signal that ended `train` before its time."""
        return self._stop

    def train_step(self) -> dict[str, Any]:
        """One optimiser step; returns what is logged of it, the same in every process."""
        start = time.perf_counter()
        batch = self._next_batch()
        waited = time.perf_counter() - start
        # the one agreement before the first backward pass: positions with labels in all processes
        targets = max(int(self.processes.gather([batch.counts.targets]).sum()), 1)
        rate = self.peak_rate * optim.rate_factor(self.step, self.steps, self.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        nats = ViewNats()
        total = 0.0
        # FSDP adds up the gradients of each at once: kept whole they might not fit
        for arrays in batch.micro_batches(self.loader.options.pass_size):
            ids, doc, position, labels, weights = (
                torch.from_numpy(array).to(self.processes.device, non_blocking=True)
                for array in (arrays.ids, arrays.doc, arrays.position, arrays.labels, arrays.weights)
            )
            loss = self.model.loss(ids, doc, position, labels, reweighted(weights, self.options.head_weights))
            # FSDP takes the mean of the processes' gradients, the loss is a sum over them
            (loss.total * (self.processes.world / targets)).backward()
            total += float(loss.total.detach())
            nats.add(arrays, loss.next_nats)
        for parameter in self.model.parameters():
            if parameter.grad is None:  # probes of chunks, where a sequence is one window
                parameter.grad = torch.zeros_like(parameter)
        found_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), optim.CLIP_NORM)
        own_norm = float(found_norm.full_tensor() if isinstance(found_norm, DTensor) else found_norm)
        everywhere = StepFigures.of(
            self.processes, batch, total, nats, own_norm, waited, self._signalled, self.saver.failed
        )
        if everywhere.save_failed:
            self.saver.wait()  # says why
        loss_value, norm = everywhere.total / targets, everywhere.norm
        wanted, spike = self.guard.judge(self.step, loss_value, norm)
        if wanted:
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.raw_bytes += int(everywhere.sums["raw_view_bytes"])
        self._stop = everywhere.stop
        seconds = time.perf_counter() - start
        metrics = self._metrics(batch.step, loss_value, everywhere, norm, rate, seconds)
        return {**metrics, "spike": spike, "skipped": not wanted}

    def _next_batch(self) -> Batch:
        """The next batch; a dataset that turns out damaged costs no step that is done."""
        batch: Batch | None = None
        reason: str | None = None
        before = self.loader.state()
        try:
            batch = next(self.loader)
        except UserError as error:
            reason = str(error)
        if self.processes.gather([reason is not None]).any():
            if self.step != self._saved:
                self.save(before)
            self.saver.wait()
            self.processes.agree(reason)
        assert batch is not None
        return batch

    def save(self, loader_state: dict[str, Any] | None = None) -> None:
        """Begin to write a checkpoint.

        Args:
            loader_state: of this process; None: where its loader is.

        Raises:
            UserError: the one before could not be written.
        """
        model, optimiser = get_state_dict(self.model, self.optimiser)
        loader = merge_states(self.processes.gather_objects(loader_state or self.loader.state()))
        state = {
            "step": self.step,
            "raw_bytes": self.raw_bytes,
            "loader": loader,
            "guard": self.guard.state(),
            "config": self.identity(),
        }
        tensors = {"model": model, "optimiser": optimiser}
        self.saver.save(tensors, state)
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
            "head_weights": list(self.options.head_weights),
        }
        if self.options.pair_symbols is not None:
            identity["pair_symbols"] = self.options.pair_symbols
        return identity

    def _resume(self, found: Checkpoint) -> None:
        saved, now = ({**config, "data": None} for config in (found.state["config"], self.identity()))
        different = differences(saved, now)  # datasets may have moved: the loader compares what is in them
        if different:
            found.release()
            raise UserError(
                f"RUN={self.options.folder} is another run: {'; '.join(different)}. Choose another RUN, or --afresh"
            )
        model, optimiser = get_state_dict(self.model, self.optimiser)
        found.load_into({"model": model, "optimiser": optimiser})
        set_state_dict(self.model, self.optimiser, model_state_dict=model, optim_state_dict=optimiser)
        self.loader.load_state(found.state["loader"])
        self.guard.load_state(found.state["guard"])
        self.step = self._saved = found.step
        self.raw_bytes = int(found.state["raw_bytes"])

    def _metrics(
        self, step: int, loss: float, everywhere: "StepFigures", norm: float, rate: float, seconds: float
    ) -> dict[str, Any]:
        sums = everywhere.sums
        symbols = sums["raw_symbols"] + sums["comp_symbols"]
        return {
            "step": step,
            "loss": finite(loss),
            "raw_bits_per_byte": bits_per_byte(sums["raw_nats"], sums["raw_bytes"]),
            "comp_bits_per_byte": bits_per_byte(sums["comp_nats"], sums["comp_view_bytes"]),
            "rate_of_comp": self.loader.schedule.rate(step) if self.options.mode.mixes else None,
            "pairs": int(sums["pairs"]),
            "padding": sums["padding"] / (self.loader.options.batch * self.loader.options.sequence),
            "raw_view_bytes": int(sums["raw_view_bytes"]),
            "comp_view_bytes": sums["comp_view_bytes"],
            "symbols": int(symbols),
            "symbols_per_second": symbols / seconds,
            "bytes_per_second": (sums["raw_view_bytes"] + sums["comp_view_bytes"]) / seconds,
            "data_wait": everywhere.waited / seconds,
            "gradient_norm": finite(norm),
            "learning_rate": rate,
            "memory_bytes": everywhere.memory,
            "mfu": self._utilisation(symbols / seconds),
            "epoch_min": everywhere.epochs[0],
            "epoch_mean": everywhere.epochs[1],
            "epoch_max": everywhere.epochs[2],
        }

    def _utilisation(self, symbols_per_second: float) -> float | None:
        """Share of the GPUs' peak that the model's operations are; None where the peak is not known."""
        peak = limits.peak_flops(self.processes.device)
        if peak is None:
            return None
        flops = limits.flops_per_symbol(self.model_config, self.loader.options.sequence)
        return symbols_per_second * flops / (peak * self.processes.world)

    def _line(self, metrics: dict[str, Any]) -> str:
        parts = [
            f"step {metrics['step'] + 1:,}/{self.steps:,}",
            "loss not finite" if metrics["loss"] is None else f"loss {metrics['loss']:.3f}",
        ]
        views = [(view, metrics[f"{view}_bits_per_byte"]) for view in ("raw", "comp")]
        shown = ", ".join(f"{view} {bits:.3f}" for view, bits in views if bits is not None)
        parts += [f"{shown} bits/byte"] if shown else []
        held_out = metrics["validation_bits_per_byte"]
        parts += [f"held out {held_out:.3f}"] if held_out is not None else []
        parts += ["update skipped"] if metrics["skipped"] else []
        ids_left = (self.steps - self.step) * self.loader.options.batch * self.loader.options.sequence
        seconds_left = ids_left / metrics["symbols_per_second"]
        parts += [f"{metrics['symbols_per_second']:,.0f} symbols/s", f"epoch {metrics['epoch_mean']:.2f}"]
        parts += [f"{seconds_left / 60:,.0f} min left" if seconds_left >= 90 else f"{seconds_left:.0f} s left"]
        return ", ".join(parts)

    @contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the run after the step that is under way, with a checkpoint."""

        def stop(number: int, frame: object) -> None:
            self._signalled = signal.Signals(number)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
