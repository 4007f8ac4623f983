"""`TicketTrainer`: a transformers `Trainer` that finds tickets, or trains one."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import HubStrategy, TrainOutput, rotate_checkpoints

from hf_tickets.errors import HubError, RunFolderError, TicketsError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.mask import Mask
from hf_tickets.pruning.schedules import sparsity_schedule
from hf_tickets.ticket.card import TAGS
from hf_tickets.ticket.publishing import public_config
from hf_tickets.ticket.ticket import Ticket
from hf_tickets.trainer.backends import check_deepspeed
from hf_tickets.trainer.checkpoints import (
    MARKER,
    RestoreSums,
    SaveAfterEpoch,
    last_complete_checkpoint,
    read_marker,
    resume_callback_states,
    save_beside,
    write_marker,
)
from hf_tickets.trainer.holder import MaskHolder
from hf_tickets.trainer.learning_rates import forward_, split_head_
from hf_tickets.trainer.processes import ShareBuffers
from hf_tickets.trainer.repairs import keys_differ, load_renamed_, loss_counts_items, name_layers_to_shard
from hf_tickets.trainer.rewind import RewindConfig
from hf_tickets.trainer.rounds import Rounds
from hf_tickets.trainer.run_folder import RoundResult, RunFolder

logger = logging.getLogger(__name__)


class TicketTrainer(Trainer):
    """Find lottery tickets by iterative magnitude pruning with rewinding, or train a ticket.

    With `pruning`, `train()` repeats one ordinary training, that which `args` describe, for each round: round 0
    dense, round k from the k-th mask on θ0, with fresh optimizer, schedule and seeds (BERT tickets, algorithm 1).
    All state is in `args.output_dir`: the same program started again goes on where it stopped, and does nothing
    when all is done. With `ticket`, it is one training with the ticket's mask held. With neither, it is `Trainer`.

    Args:
        *args: As for `transformers.Trainer`: model, args, data_collator, train_dataset, ...
        pruning: Find a ticket by this configuration.
        rewind: What is rewound between rounds (default: everything, to the initialisation).
        ticket: Train this ticket: a `Ticket`, a `Mask`, a folder, or a Hub id (default: the one that an
            `AutoTicketModel…` was loaded with).
        sparsity: Rung of the ticket (default: as in `Ticket.from_pretrained`).
        prefix: Where the ticket's backbone lies, for models that hold several; one name or a list.
        head_learning_rate: Learning rate of what is not backbone (default: that of `args`, as for the backbone).
        provenance: Fields of `TicketConfig` that the trainer cannot know, such as `task` or `base_model`.
        **kwargs: As for `transformers.Trainer`.

    Raises:
        TicketsError: Both pruning and ticket are given, the ticket does not fit the model, or the
            configuration cannot be used; before anything is changed.

    Example:
        >>> trainer = TicketTrainer(model, args, train_dataset=data, pruning=PruningConfig(amount=0.2, rounds=10))
        >>> trainer.train()
        >>> trainer.ticket.save_pretrained("my-ticket")
    """

    model_accepts_loss_kwargs: bool
    _given: Ticket | None = None  # what each model that model_init makes is to become

    def __init__(
        self,
        *args: Any,
        pruning: PruningConfig | None = None,
        rewind: RewindConfig | None = None,
        ticket: Ticket | Mask | str | Path | None = None,
        sparsity: float | None = None,
        prefix: str | Sequence[str] | None = None,
        head_learning_rate: float | None = None,
        provenance: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if pruning is not None and ticket is not None:
            raise TicketsError("give pruning to find a ticket, or ticket to train one, not both")
        if pruning is not None and tuple(kwargs.get("optimizers", (None, None))) != (None, None):
            raise TicketsError("each round needs a fresh optimizer: give optimizer_cls_and_kwargs, not optimizers")
        if pruning is not None and not isinstance(pruning, PruningConfig):
            raise TicketsError(f"pruning must be a PruningConfig, not {type(pruning).__name__}")
        super().__init__(*args, **kwargs)
        if self.is_deepspeed_enabled:
            check_deepspeed(self.accelerator)
        if self.is_fsdp_enabled:
            name_layers_to_shard(self.accelerator.state.fsdp_plugin, self.model)
        self.pruning = pruning
        self.rewind = rewind or RewindConfig()
        self.head_learning_rate = head_learning_rate
        self.ticket: Ticket | None = None
        self._prefix = prefix
        self._probed_loss = False
        self._started = 0.0
        self._stopped_at: int | None = None  # max_steps of a training that is over
        self._rounds: Rounds | None = None
        given = _as_ticket(ticket, sparsity) if ticket is not None else None
        of_model = getattr(self.model, "ticket", None)
        if given is None and pruning is None and isinstance(of_model, Ticket):
            given = of_model
        if given is not None:
            if RunFolder(self.args.output_dir).begun:
                raise RunFolderError(f"{self.args.output_dir} holds a search for a ticket; use another output_dir")
            given.apply(self.model, prefix=prefix, verify="warn" if ticket is not None else "off")
            if self.model_init is not None:
                self._given = given
            # What is saved beside the model is the mask it holds, not the ladder it came from.
            self.ticket = given.rung()
            self.ticket.config = public_config(self.ticket.config)  # the model may be pushed with it
            self._add_first(MaskHolder(self.ticket, prefix))
        elif pruning is not None:
            self._rounds = Rounds(self, pruning, self.rewind, dict(provenance or {}))
            self._add_first(self._rounds.holder)
        if self.exact and self.args.world_size > 1:
            self.add_callback(ShareBuffers())

    @property
    def exact(self) -> bool:
        """Whether a ticket is sought or held: only then does anything differ from `Trainer`."""
        return self._rounds is not None or self.ticket is not None

    @property
    def history(self) -> list[RoundResult]:
        """Finished rounds: sparsity, metrics, steps and seconds of each."""
        return list(self._rounds.results) if self._rounds is not None else []

    @property
    def tickets(self) -> list[Ticket]:
        """The ticket of each finished round, dense to sparse."""
        if self.ticket is None:
            return []
        return [self.ticket.at(sparsity) for sparsity in self.ticket.sparsities]

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train: all rounds with `pruning`, else once.

        Args:
            resume_from_checkpoint: As in `Trainer`. With `pruning` the run folder decides, and a path is refused.
            *args: As in `Trainer`.
            **kwargs: As in `Trainer`.

        Returns:
            Trainer's output; with `pruning` that of the last round, its metrics naming `round` and `sparsity`.

        Raises:
            RunFolderError: `output_dir` holds a run of another configuration or of other weights.
        """
        if self._rounds is None:
            if self.exact and resume_from_checkpoint is True:
                checkpoint = last_complete_checkpoint(Path(self.args.output_dir))
                if checkpoint is None:
                    raise RunFolderError(f"{self.args.output_dir} holds no whole checkpoint to resume from")
                resume_from_checkpoint = str(checkpoint)
            return self.train_once(resume_from_checkpoint, *args, **kwargs)
        if isinstance(resume_from_checkpoint, str):
            raise RunFolderError("a search resumes from its output_dir by itself; do not give a checkpoint")
        return self._rounds.run()

    def train_once(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Run one training of `Trainer`, resumed exactly; arguments as in `Trainer.train`."""
        self._started, self._stopped_at = time.monotonic(), None
        if not self.exact:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        callbacks: list[TrainerCallback] = [SaveAfterEpoch()]
        evaluates_first, self.current_flos = self.args.eval_on_start, 0
        if isinstance(resume_from_checkpoint, str) and (Path(resume_from_checkpoint) / MARKER).exists():
            sums = read_marker(Path(resume_from_checkpoint))
            self._started -= sums["seconds"]
            self._stopped_at, evaluates_first = sums["stopped_at"], False
            callbacks.append(RestoreSums(self, sums))
        for callback in callbacks:
            self.add_callback(callback)
        try:
            with self._argument("eval_on_start", evaluates_first):
                return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            for callback in callbacks:
                self.remove_callback(callback)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of the current training, those before it was resumed included."""
        return time.monotonic() - self._started

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model, and the ticket it holds beside it; arguments as in `Trainer`."""
        super().save_model(output_dir, _internal_call)
        if not self.exact or not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        ticket = self._rounds.holder.ticket if self._rounds is not None and self.is_in_train else self.ticket
        if ticket is not None:
            # Read back, it is at the rung whose zeros the model has.
            config = replace(ticket.config, default_sparsity=ticket.sparsity)
            Ticket(ticket.ladder, config, ticket.theta).save_pretrained(folder)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Push to `args.hub_model_id`: after a search the ticket, else the model with its ticket beside it.

        Args:
            commit_message: As in `Trainer`.
            blocking: As in `Trainer`; a ticket is always waited for.
            token: As in `Trainer`.
            revision: As in `Trainer`.
            private: As in `Trainer`.
            **kwargs: As in `Trainer`; for a ticket as in `Ticket.push_to_hub`.

        Returns:
            The commit; None in a process that does not push.

        Raises:
            HubError: The Hub refuses a ticket or cannot be reached.
            TicketsError: No round of the search is finished.
        """
        if self._rounds is None:
            if self.ticket is not None:
                kwargs["tags"] = [*TAGS, *_as_list(kwargs.get("tags"))]
            return super().push_to_hub(commit_message, blocking, token, revision, private=private, **kwargs)
        ticket = self._rounds.portable_ticket()
        if ticket is None:
            raise TicketsError("there is no ticket to push yet: call train() first")
        if not self.is_world_process_zero():
            return None
        return ticket.push_to_hub(
            self.args.hub_model_id or Path(self.args.output_dir).name,
            commit_message=commit_message,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            private=self.args.hub_private_repo if private is None else private,
            **kwargs,
        )

    def push_round(self, index: int) -> None:
        """Push the ticket so far, where the arguments say so; without the Hub the search goes on.

        Args:
            index: The round that is done.
        """
        if not self.args.push_to_hub or self.args.hub_strategy == HubStrategy.END:
            return
        try:
            self.push_to_hub(f"Round {index}")
        except HubError as error:
            logger.warning("round %d was not pushed, the next push will bring it: %s", index, error)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint with its ticket; in a search the rounds push, and checkpoints stay here."""
        if self._rounds is not None:
            return
        if self.exact:
            self._mark(Path(checkpoint_folder))  # nothing is written there once it is being uploaded
        if self.ticket is not None and self.args.should_save:
            save_beside(self.ticket, Path(self.args.output_dir))  # Trainer copies only files that it knows
        super()._push_from_checkpoint(checkpoint_folder)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Make the model anew, with the ticket and the weights that it carries."""
        model = super().call_model_init(trial)
        if self._given is not None:
            self._given.apply(model, prefix=self._prefix)
        return model

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimizer of a round, backbone and head in groups of their own where their rates differ."""
        there = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        return optimizer if there else split_head_(optimizer, model or self.model, self.head_learning_rate)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Create the schedule of a round; without rewinding one schedule spans all rounds."""
        if self._rounds is None or self.rewind.rewind != "none":
            return super().create_scheduler(num_training_steps, optimizer)
        done, rounds = len(self.history), len(sparsity_schedule(self._rounds.pruning)) + 1
        scheduler = super().create_scheduler(num_training_steps * rounds, optimizer)
        return forward_(scheduler, done * num_training_steps)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-step; before the first, ask the head whether it scales its loss itself."""
        if self.exact and not self._probed_loss:
            self._probe_loss(inputs, num_items_in_batch)
        return super().training_step(model, inputs, num_items_in_batch)

    def _probe_loss(self, inputs: dict[str, Any], num_items_in_batch: Any) -> None:
        self._probed_loss = True
        scaled = self.args.gradient_accumulation_steps > 1 or self.args.world_size > 1
        own_loss = self.compute_loss_func is not None or self.label_smoother is not None
        if scaled and not own_loss and self.model_accepts_loss_kwargs and num_items_in_batch is not None:
            with self.compute_loss_context_manager():
                counts = loss_counts_items(self.model, self._prepare_inputs(inputs))
            self._probed_loss = counts is not None
            if counts is False:
                logger.info("%s ignores num_items_in_batch: its loss is averaged here", type(self.model).__name__)
                self.model_accepts_loss_kwargs = False

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if not self.exact:
            super()._save_checkpoint(model, trial)
            return
        checkpoint = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            (checkpoint / MARKER).unlink(missing_ok=True)  # of an earlier run in the same folder
        with self._argument("save_total_limit", None) as limit:
            super()._save_checkpoint(model, trial)
        if self._rounds is not None or not self.args.push_to_hub:
            self._mark(checkpoint)
        if self.args.should_save:
            # Only now may older checkpoints go: this one is whole.
            rotate_checkpoints(
                output_dir=str(checkpoint.parent),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _mark(self, checkpoint: Path) -> None:
        if not self.args.save_only_model:  # nothing resumes to the bit without the optimizer
            write_marker(self, checkpoint, self.seconds)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """One epoch; none where the checkpoint that is resumed from was saved when training was over."""
        if self._stopped_at == self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    @contextmanager
    def _argument(self, name: str, value: Any) -> Iterator[Any]:
        """Give a training argument another value for a while; yield the user's."""
        own = getattr(self.args, name)
        setattr(self.args, name, value)
        try:
            yield own
        finally:
            setattr(self.args, name, own)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.exact and keys_differ(model or self.model, Path(resume_from_checkpoint)):
            load_renamed_(model or self.model, Path(resume_from_checkpoint))
            return
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self.exact and keys_differ(self.model, Path(self.state.best_model_checkpoint)):
            load_renamed_(self.model, Path(self.state.best_model_checkpoint))
            return
        super()._load_best_model()

    def _load_callback_state(self) -> None:
        super()._load_callback_state()
        if self.exact and not self.args.restore_callback_states_from_checkpoint:
            resume_callback_states(self)

    def _add_first(self, callback: MaskHolder) -> None:
        """Let the mask be held before, and sparsity logged before, any other callback runs."""
        self.callback_handler.callbacks.insert(0, callback)


def _as_list(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _as_ticket(ticket: Ticket | Mask | str | Path, sparsity: float | None) -> Ticket:
    if isinstance(ticket, (str, Path)):
        return Ticket.from_pretrained(ticket, sparsity)
    if isinstance(ticket, Mask):
        return Ticket(ticket, sparsity=sparsity)
    return ticket if sparsity is None else ticket.at(sparsity)
