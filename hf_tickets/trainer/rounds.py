"""`Rounds`: iterative magnitude pruning with rewinding, one round at a time, from a run folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn import Parameter
from transformers import TrainerCallback
from transformers.trainer_utils import TrainOutput

from hf_tickets.errors import RunFolderError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.criteria import FIRST_ORDER
from hf_tickets.pruning.mask import Mask
from hf_tickets.pruning.prune import prune_parts
from hf_tickets.pruning.schedules import sparsity_schedule
from hf_tickets.pruning.scope import prunable_weights, unwrap
from hf_tickets.pruning.shards import assemble, cut, is_spread, rows, whole_shape
from hf_tickets.ticket.base import base_fields
from hf_tickets.ticket.config import TicketConfig, without_nan
from hf_tickets.ticket.ladder import Ladder
from hf_tickets.ticket.matching import backbone_prefixes
from hf_tickets.ticket.results import last_matching
from hf_tickets.ticket.theta import backbone_digest, backbone_state
from hf_tickets.ticket.ticket import Ticket
from hf_tickets.trainer.backends import cast_partitioned_, release_engine_
from hf_tickets.trainer.callback import PruningCallback
from hf_tickets.trainer.checkpoints import callback_states, last_complete_checkpoint, lies_in, restore_callback_states
from hf_tickets.trainer.combinations import changes, check_combination
from hf_tickets.trainer.early_bird import EarlyBird
from hf_tickets.trainer.first_order import FirstOrder, read_sums, save_sums
from hf_tickets.trainer.holder import MaskHolder
from hf_tickets.trainer.keep_step import KeepStep
from hf_tickets.trainer.processes import check_agreement, wait_for_everyone
from hf_tickets.trainer.provenance import describe, versions
from hf_tickets.trainer.reporting import report_round
from hf_tickets.trainer.rewind import RewindConfig
from hf_tickets.trainer.run_folder import RoundResult, RunFolder
from hf_tickets.trainer.weights import buffer_names, file_digest, head_names, load_weights_, save_weights

if TYPE_CHECKING:
    from hf_tickets.trainer.trainer import TicketTrainer

logger = logging.getLogger(__name__)


class Rounds:
    """The search of one `TicketTrainer`.

    Args:
        trainer: Trains the rounds.
        pruning: How masks are chosen.
        rewind: What is rewound.
        provenance: Fields of `TicketConfig` that the trainer cannot know.
    """

    def __init__(
        self, trainer: TicketTrainer, pruning: PruningConfig, rewind: RewindConfig, provenance: dict[str, Any]
    ) -> None:
        self.trainer = trainer
        self.pruning = pruning
        self.rewind = rewind
        self.sparsities = sparsity_schedule(pruning)
        # Where the masks come from; another part of the model may fit them too.
        place = "" if pruning.scope == "model" else backbone_prefixes(trainer.model)
        self.holder = MaskHolder(prefix=place)
        if pruning.gradual:
            self.holder = PruningCallback(None, pruning, pruning.gradual_start, pruning.gradual_end, place)
        self.folder = RunFolder(trainer.args.output_dir)
        adds_up = pruning.criterion in FIRST_ORDER and not pruning.gradual  # which has sums of its own
        self.first_order = FirstOrder(pruning) if adds_up else None
        self.results: list[RoundResult] = []
        self._provenance = provenance
        self._ladder = Ladder()
        self._loaded: int | None = None  # the round whose trained weights the model holds
        self._record: dict[str, Any] = {}  # what run.json says
        self._callback_states: list[tuple[TrainerCallback, dict[str, Any]]] = []
        check_combination(trainer, pruning, rewind)
        for weight in prunable_weights(trainer.model, pruning).values():
            rows(weight)  # nothing in scope, or weights cut by columns, is an error now, not after round 0

    @property
    def _trainings(self) -> int:
        """How many trainings the whole search is."""
        return 1 if self.pruning.gradual else len(self.sparsities) + 1

    def run(self) -> TrainOutput:
        """Train every round that is not finished; return the last one's output."""
        with self.folder.locked() if self._leads else nullcontext():
            return self._run()

    @property
    def _leads(self) -> bool:
        """Whether this process, alone of all, writes the run folder; the others read it."""
        return bool(self.trainer.is_world_process_zero())

    def _run(self) -> TrainOutput:
        self._open()
        if len(self.results) >= self._trainings:
            logger.info("all %d rounds are done already", len(self.results))
        for index in range(len(self.results), self._trainings):
            self._run_round(index)
        last = len(self.results) - 1
        if self._loaded != last:
            load_weights_(self.trainer.model, self.folder.trained(last))
            self._loaded = last
        result = self.results[last]
        metrics = {**result.training, "round": result.round, "sparsity": result.sparsity}
        return TrainOutput(result.steps, result.training["train_loss"], metrics)

    def _open(self) -> None:
        """Start a new run folder, or take up one of the same configuration."""
        folder = self.folder
        # Where nothing was trained yet, as after a refused recipe, there is nothing to go on from.
        record = folder.read_record() if folder.begun else None
        if not self._record:
            settings = describe(self.trainer, self.pruning, self.rewind, self._provenance)
            self._record = {"settings": settings, "backbone_digest": backbone_digest(self.trainer.model)}
            self._callback_states = callback_states(self.trainer)
        wait_for_everyone()  # nothing is written before all have read
        if record is None:
            save_weights(self.trainer.model, folder.theta0, self._leads)
            wait_for_everyone()
            self._check_shared()
            self._record["theta0_digest"] = file_digest(folder.theta0)
        else:
            self._compare(record)
            self._record["theta0_digest"] = record["theta0_digest"]
        self.results = folder.results()[: self._trainings]
        found = len(self.sparsities) if self.pruning.gradual else 1
        self._ladder = folder.read_masks(found * len(self.results))
        self._make_ticket()
        if self._leads:
            folder.write_record(self._record)
            folder.tidy(len(self.results))
            self._restore_ticket()
        wait_for_everyone()

    def _check_shared(self) -> None:
        if not self.folder.theta0.exists():
            raise RunFolderError(
                f"process {self.trainer.args.process_index} does not see {self.folder.theta0}, which the first process "
                "wrote: output_dir must lie on storage that all machines share"
            )

    def _restore_ticket(self) -> None:
        """Write the ticket again where its files are gone or are another's."""
        ticket = self.trainer.ticket
        if ticket is not None and not lies_in(ticket, self.folder.output_dir):
            ticket.save_pretrained(self.folder.output_dir)

    def _compare(self, record: dict[str, Any]) -> None:
        """Refuse another configuration than the run folder's, except more rounds, and other weights."""
        changed = changes(record["settings"], self._record["settings"])
        if changed:
            raise RunFolderError(
                f"{self.folder.output_dir} holds a run of another configuration ({'; '.join(changed)}); "
                "use another output_dir, or the same configuration"
            )
        if record["backbone_digest"] != self._record["backbone_digest"]:
            raise RunFolderError(
                f"{self.folder.output_dir} holds a run that started from other weights; use another output_dir"
            )

    def _run_round(self, index: int) -> None:
        folder, trainer = self.folder, self.trainer
        if release_engine_(trainer):
            self._loaded = None
        if index:
            self._find_mask(index)
        self.holder.ticket = Ticket(self._ladder.alone(index - 1), self._config()) if index else None
        self._load_start(index)
        restore_callback_states(self._callback_states)
        with self._training_in(folder.round(index)):
            checkpoint = last_complete_checkpoint(folder.round(index))
            output = trainer.train_once(str(checkpoint) if checkpoint else None)
            seconds = trainer.seconds
            metrics = self._evaluate()
        self._loaded = index
        save_weights(trainer.model, folder.trained(index), self._leads)
        if self.first_order is not None and self._leads:
            save_sums(self.first_order.sums, folder.accumulated(index))
        if self.pruning.gradual and self.holder.ticket is not None:
            self._ladder = self.holder.ticket.ladder
            check_agreement(self._ladder.digests[-1])
            if self._leads:
                self._ladder.save(folder.masks)
        rung = -1 if self.pruning.gradual else index - 1
        pruned = bool(index or self.pruning.gradual)
        result = RoundResult(
            round=index,
            sparsity=self._ladder.sparsities[rung] if pruned else 0.0,
            kept=self._ladder.rungs[rung].kept if pruned else self._prunable(),
            digest=self._ladder.digests[rung] if pruned else None,
            metrics=metrics,
            steps=output.global_step,
            seconds=round(seconds, 3),
            training={"train_loss": output.training_loss, **output.metrics},
            log_history=trainer.state.log_history,
        )
        self.results.append(result)
        self._make_ticket()
        if self._leads:
            if trainer.ticket is not None:
                trainer.ticket.save_pretrained(folder.output_dir)
            folder.finish(result)
        report_round(trainer, result)
        if trainer.ticket is not None:
            trainer.push_round(index)
        wait_for_everyone()

    def _find_mask(self, index: int) -> None:
        """Prune the weights that the round before trained."""
        if len(self._ladder.rungs) >= index:
            return
        if self._loaded != index - 1:
            load_weights_(self.trainer.model, self.folder.trained(index - 1))
        weights, parts = self._choose(index, self._sums(index - 1))
        shapes = {name: tuple(whole_shape(weight)) for name, weight in weights.items()}
        self._ladder.append_layers(shapes, lambda name: assemble(parts[name], weights[name]))
        check_agreement(self._ladder.digests[-1])
        if self._leads:
            self._ladder.save(self.folder.masks)

    def _sums(self, index: int) -> dict[str, Tensor] | None:
        """Return what the training of a finished round added up, for a criterion of first order."""
        if self.first_order is None:
            return None
        device = self.trainer.args.device
        return {name: value.to(device) for name, value in read_sums(self.folder.accumulated(index)).items()}

    def _choose(
        self, index: int, accumulated: dict[str, Tensor] | None
    ) -> tuple[dict[str, Parameter], dict[str, Tensor]]:
        """Choose a round's mask by the weights of now; no process holds more of a spread mask than its part."""
        weights = prunable_weights(self.trainer.model, self.pruning)
        spread = any(map(is_spread, weights.values()))
        before: dict[str, Tensor] = {}
        kept: dict[str, int] = {}
        for name, layer in self._ladder.layers(index - 2, hold=not spread) if index > 1 else ():
            part = cut(layer, weights[name])
            before[name], kept[name] = part.clone() if spread else part, int(layer.count_nonzero())
        # A criterion that draws at random ranks anew each round, from a seed of its own.
        config = replace(self.pruning, pruning_seed=self.pruning.pruning_seed + index - 1)
        parts = prune_parts(weights, config, self.sparsities[index - 1], before or None, kept or None, accumulated)
        return weights, parts

    def _looking_on(self) -> list[TrainerCallback]:
        """Return what accompanies the training of the next round."""
        index, callbacks = len(self.results), []
        earliest = self.rewind.step if self._rewinds_early and index == 0 else lambda steps: 0
        if self._rewinds_early and index == 0:
            callbacks.append(KeepStep(self.rewind, self.folder.theta_step))
        if self.first_order is not None:
            callbacks.append(self.first_order)
        if self.pruning.early_bird_distance is not None and index < len(self.sparsities):
            callbacks.append(EarlyBird(self.pruning, lambda: self._next_mask(index + 1), earliest))
        return callbacks

    def _next_mask(self, index: int) -> Mask:
        """Return the mask that a round would have if the training before it ended now."""
        return Mask(self._choose(index, self.first_order.sums if self.first_order is not None else None)[1])

    def _load_start(self, index: int) -> None:
        """Put the weights that a round starts from into the model."""
        folder, model = self.folder, self.trainer.model
        self._loaded = None
        if self._leads and file_digest(folder.theta0) != self._record["theta0_digest"]:
            raise RunFolderError(f"{folder.theta0} has changed since the run began; use another output_dir")
        if index == 0:
            load_weights_(model, folder.theta0)
            return
        goes_on = self._going_on()
        if goes_on:
            load_weights_(model, folder.trained(index - 1), goes_on.__contains__)
        load_weights_(model, self._rewind_file(), lambda name: name not in goes_on)
        if self.holder.ticket is not None:  # before DeepSpeed copies the weights
            self.holder.ticket.apply(model, prefix=self.holder.prefix, verify="off")

    def _going_on(self) -> set[str]:
        """Names of weights and buffers that are not rewound."""
        model = self.trainer.model
        names = set(unwrap(model).state_dict())
        if self.rewind.rewind != "weights":
            return names
        head, buffers = head_names(model), buffer_names(model)
        kept = set() if self.rewind.rewind_head else head - buffers
        return kept if self.rewind.rewind_statistics else kept | buffers

    @property
    def _rewinds_early(self) -> bool:
        return bool(self.rewind.rewind_step or self.rewind.rewind_share)

    def _rewind_file(self) -> Path:
        return self.folder.theta_step if self._rewinds_early else self.folder.theta0

    def _evaluate(self) -> dict[str, float]:
        """Return the metrics of the trained model, evaluated once."""
        if self.trainer.eval_dataset is None:
            return {}
        state = self.trainer.state
        entries = [entry for entry in state.log_history if entry["step"] == state.global_step]
        metrics = {name: value for entry in entries for name, value in entry.items() if name.startswith("eval_")}
        if not metrics or self.trainer.args.load_best_model_at_end:
            metrics = self.trainer.evaluate()
        timing = ("_runtime", "_per_second", "_preparation_time")
        return {
            name.removeprefix("eval_"): value
            for name, value in metrics.items()
            if name.startswith("eval_") and not name.endswith(timing)
        }

    @contextmanager
    def _training_in(self, folder: Path) -> Iterator[None]:
        """Let Trainer make everything but the model anew, and write its checkpoints into the round's folder."""
        trainer, output_dir = self.trainer, self.trainer.args.output_dir
        callbacks = self._looking_on()
        trainer.args.output_dir = str(folder)
        trainer.model_init = lambda: trainer.model
        cast_partitioned_(trainer.model, trainer.args)
        if isinstance(trainer.model, FSDPModule):
            # The round before has wrapped its layers; Accelerate would look for them once more, in vain.
            trainer.accelerator.state.fsdp_plugin.activation_checkpointing = False
        for callback in callbacks:
            trainer.add_callback(callback)
        try:
            yield
        finally:
            trainer.args.output_dir = output_dir
            trainer.model_init = None
            for callback in callbacks:
                trainer.remove_callback(callback)

    def _prunable(self) -> int:
        return sum(
            whole_shape(weight).numel() for weight in prunable_weights(self.trainer.model, self.pruning).values()
        )

    def _config(self) -> TicketConfig:
        settings = self._record["settings"]
        dense, *rungs = [
            without_nan(
                {name: value for name, value in vars(result).items() if name not in ("training", "log_history")}
            )
            for result in self.results
        ]
        if self.pruning.gradual:  # none of its tickets was trained by itself yet, nor was the dense model
            dense, rungs = (
                {},
                [
                    {"round": 0, "sparsity": sparsity, "kept": rung.kept, "digest": digest, "metrics": {}}
                    for sparsity, rung, digest in zip(
                        self._ladder.sparsities, self._ladder.rungs, self._ladder.digests, strict=True
                    )
                ],
            )
        fields: dict[str, Any] = {
            **base_fields(self.trainer.model),
            "theta0_digest": self._record["backbone_digest"],
            "dense": dense,
            "rungs": rungs,
            "versions": versions(),
            **{name: settings[name] for name in ("pruning", "rewind", "task", "training", "seeds")},
        }
        extra = {name: value for name, value in self._provenance.items() if name not in ("task", "seeds")}
        config = TicketConfig(**{**fields, **extra})
        return replace(config, default_sparsity=last_matching(config))

    def _make_ticket(self) -> None:
        """Make the ticket of the finished rounds."""
        finished = len(self._ladder.rungs) if self.pruning.gradual else len(self.results) - 1
        if finished < 1:
            return
        # What rounds start from is then no model that others can load.
        theta = self._theta() if self._rewinds_early or self._provenance.get("control") else None
        self.trainer.ticket = Ticket(self._ladder.first(finished), self._config(), theta)

    def portable_ticket(self) -> Ticket | None:
        """Return the ticket so far, with the weights it starts from where no model that others can load has them."""
        ticket = self.trainer.ticket
        if ticket is None or ticket.theta is not None or ticket.config.base_model is not None:
            return ticket
        return Ticket(ticket.ladder, ticket.config, self._theta())

    def _theta(self) -> dict[str, Tensor]:
        """Return the backbone's weights that rounds start from."""
        theta = load_file(self._rewind_file())
        state = unwrap(self.trainer.model).state_dict(keep_vars=True)
        names = {id(state[name]): name for name in theta}  # of tied weights the one that the file has
        return {name: theta[names[id(tensor)]] for name, tensor in backbone_state(self.trainer.model).items()}
