"""`Ticket`: masks and provenance that travel as two small files."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from huggingface_hub import CommitInfo
from torch import Tensor, nn

from hf_tickets.errors import PruningError, SparsityError, TicketFileError, TicketMismatchError
from hf_tickets.paths import is_folder, is_local
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.mask import Mask, bit_pattern, zero_pruned_
from hf_tickets.pruning.scope import prunable_weights, unwrap
from hf_tickets.pruning.shards import cut, is_spread, local, whole_shape
from hf_tickets.ticket.base import Verify, describe_base, verify_base
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.ladder import LADDER_FILE, Ladder
from hf_tickets.ticket.matching import ApplyReport, canonical_parameters, match
from hf_tickets.ticket.names import canonical, is_optional
from hf_tickets.ticket.pull import pull
from hf_tickets.ticket.theta import THETA_FILE, load_theta, save_theta

logger = logging.getLogger(__name__)


class Ticket:
    """A sparse subnetwork of a pre-trained model: nested masks, and where they come from.

    Args:
        masks: A mask, nested masks from dense to sparse, or a ladder.
        config: Provenance (default: none).
        theta: Backbone weights and buffers by name, where θ0 is not a model that others can load.
        sparsity: The rung that `mask` and `apply` use (default: the last).

    Raises:
        SparsityError: There is no rung at that sparsity; the message lists the rungs.

    Example:
        >>> ticket = Ticket(prune(model, sparsity=0.7))
        >>> ticket.save_pretrained("my-ticket")
        >>> report = Ticket.from_pretrained("my-ticket").apply(model)
    """

    def __init__(
        self,
        masks: Mask | Iterable[Mask] | Ladder,
        config: TicketConfig | None = None,
        theta: Mapping[str, Tensor] | None = None,
        sparsity: float | None = None,
    ) -> None:
        if isinstance(masks, Mask):
            masks = [masks]
        if isinstance(masks, nn.Module):
            raise TicketFileError("a ticket is made of masks: Ticket(prune(model)), or Ticket.from_model(sparse_model)")
        self.ladder = masks if isinstance(masks, Ladder) else Ladder(masks)
        self.config = config or TicketConfig()
        self.theta = dict(theta) if theta is not None else None
        self._index = self._find(sparsity)

    def __repr__(self) -> str:
        rungs = ", ".join(f"{value:.4f}" for value in self.sparsities)
        return f"Ticket(sparsity={self.sparsity:.4f}, rungs=[{rungs}], base_model={self.config.base_model!r})"

    @property
    def sparsities(self) -> tuple[float, ...]:
        """Sparsity of each rung, rising."""
        return self.ladder.sparsities

    @property
    def sparsity(self) -> float:
        """Sparsity of the selected rung."""
        return self.sparsities[self._index]

    @property
    def mask(self) -> Mask:
        """Mask of the selected rung, on the CPU."""
        return self.ladder.mask(self._index)

    @property
    def masks(self) -> list[Mask]:
        """Masks of all rungs up to the selected one, on the CPU."""
        return [self.ladder.mask(index) for index in range(self._index + 1)]

    @property
    def default_sparsity(self) -> float:
        """Sparsity of the rung that `from_pretrained` selects where none is named."""
        recorded = self.config.default_sparsity
        return self.sparsities[-1] if recorded is None else self.sparsities[self._find(recorded)]

    def rung(self, theta: bool = False) -> "Ticket":
        """Return the selected rung as a ticket of its own.

        Args:
            theta: Whether it carries the weights that this one carries (default: no).
        """
        mask = self.mask  # what `alone` goes on from
        rungs = [rung for rung in self.config.rungs if rung.get("digest") == mask.digest]
        config = replace(self.config, rungs=rungs, theta_digest=None, default_sparsity=None)
        return Ticket(self.ladder.alone(self._index), config, self.theta if theta else None)

    def at(self, sparsity: float) -> "Ticket":
        """Return the same ticket at another of its rungs.

        Args:
            sparsity: Sparsity of the rung, to four decimals.

        Raises:
            SparsityError: There is no such rung; the message lists the rungs.
        """
        return Ticket(self.ladder, self.config, self.theta, sparsity)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the ticket into a folder: `ticket_config.json`, `ticket.safetensors`, and θ where it has one.

        Args:
            folder: Made if it is missing.

        Raises:
            TicketFileError: It is a file, or the config holds what JSON has no form for.
        """
        path = Path(folder)
        if path.exists() and not path.is_dir():
            raise TicketFileError(f"{path} is a file; give a folder")
        self.config.to_json()  # what cannot be written is found before anything is
        self.ladder.save(path / LADDER_FILE)
        theta_digest = None
        if self.theta is not None:
            theta_digest = save_theta(self.theta, self.ladder.mask(0), path / THETA_FILE)
        else:
            (path / THETA_FILE).unlink(missing_ok=True)
        replace(self.config, theta_digest=theta_digest).save(path)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        sparsity: float | None = None,
        *,
        revision: str | None = None,
        subfolder: str = "",
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> "Ticket":
        """Read a ticket from a folder or from the Hub.

        Args:
            source: A folder that `save_pretrained` wrote, or a Hub id "owner/name".
            sparsity: The rung to use, to four decimals (default: the recorded default, else the last).
            revision: Branch, tag such as "sparsity-0.70", or commit on the Hub (default: main).
            subfolder: Folder inside the repository or the folder.
            token: Token for the Hub, or whether to use the stored one (default: where one is stored).
            cache_dir: Cache of downloads (default: the Hub's).
            local_files_only: Take what the cache has, and do not ask the Hub.

        Raises:
            HubError: The Hub does not have it, refuses, or cannot be reached.
            TicketFileError: A file is missing, damaged, or of an unknown format.
            SparsityError: There is no rung at that sparsity; the message lists the rungs.
        """
        path = Path(source, subfolder)
        if not is_folder(source):
            if is_local(str(source)):
                raise TicketFileError(f"there is no folder {source}")
            path = pull(
                str(source),
                revision=revision,
                subfolder=subfolder,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        config = TicketConfig.load(path)
        ladder = Ladder.load(path / LADDER_FILE)
        ticket = cls(ladder, config, sparsity=config.default_sparsity if sparsity is None else sparsity)
        if config.theta_digest is not None or (path / THETA_FILE).exists():
            ticket.theta = load_theta(path / THETA_FILE, ticket.ladder.mask(0), config.theta_digest)
        return ticket

    @classmethod
    def from_model(cls, model: nn.Module, pruning: PruningConfig | None = None) -> "Ticket":
        """Return the ticket that a sparse model is: its mask is where its weights are zero.

        Args:
            model: A model with zeros, such as a pruned checkpoint of the Hub.
            pruning: Says which weights are looked at (default: those of the backbone, as in `prune`).

        Raises:
            PruningError: Nothing is in scope, or nothing there is zero.
        """
        weights = prunable_weights(model, pruning or PruningConfig())
        mask = Mask({name: weight.detach() != 0 for name, weight in weights.items()}).to("cpu")
        if mask.kept == mask.numel:
            raise PruningError(f"none of the {mask.numel:,} weights in scope is zero: the model is dense")
        return cls(mask, describe_base(model, pruning))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str | None = None,
        token: str | None = None,
        tags: Sequence[str] = (),
        push_base: bool = False,
    ) -> CommitInfo:
        """Publish the ticket on the Hub with a card; each rung also lies alone under a tag, as "sparsity-0.70".

        Where θ0 is not a model on the Hub, the weights travel with the ticket. Paths of this machine do not.

        Args:
            repo_id: "owner/name"; made if it is missing.
            private: Whether a repository that is made is private (default: your account's setting).
            revision: Branch to push to; rungs get their tags only from main (default: main).
            create_pr: Open a pull request in place of a commit; the rungs get no tags then.
            commit_message: Message of the commit.
            token: Token for the Hub (default: the stored one).
            tags: More tags for the card.
            push_base: Upload a base model of this machine to "<repo_id>-base", in place of weights in the ticket.

        Returns:
            The commit of the ladder.

        Raises:
            HubError: The Hub refuses or cannot be reached, or the ticket does not say which weights it belongs to.
        """
        from hf_tickets.ticket.push import push

        return push(
            self,
            repo_id,
            private=private,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
            token=token,
            tags=tags,
            push_base=push_base,
        )

    def match(self, model: nn.Module, strict: bool = True, prefix: str | Sequence[str] | None = None) -> ApplyReport:
        """Say how the ticket fits a model, without changing it; arguments and errors as in `apply`."""
        return match(self.ladder.shapes, model, self.config, strict, prefix)

    def matched_masks(self, model: nn.Module, report: ApplyReport) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Pair the weights of a model with their whole masks, one at a time where weights are spread over processes.

        Args:
            model: As for `match`.
            report: What `match` returned.
        """
        parameters = canonical_parameters(model)
        places: dict[str, list[nn.Parameter]] = {}
        for name, entry in report.matched.items():
            places.setdefault(entry, []).append(parameters[name])
        spread = any(is_spread(parameter) for parameter in parameters.values())
        for entry, kept in self.ladder.layers(self._index, hold=not spread):
            for parameter in places.get(entry, ()):
                yield parameter, kept

    @torch.no_grad()
    def apply(
        self,
        model: nn.Module,
        strict: bool = True,
        prefix: str | Sequence[str] | None = None,
        verify: Verify = "warn",
    ) -> ApplyReport:
        """Set the pruned weights of a model to zero, and the others to θ where the ticket carries one.

        To keep them zero while training, give the ticket to `TicketTrainer` or `PruningCallback`.

        Args:
            model: A model with the ticket's backbone under any head, wrapped or not.
            strict: Refuse a shape mismatch, an unused entry of the ticket, or a weight in scope that it does
                not cover; else leave these dense and report them.
            prefix: Where the backbone lies, for models that hold several; one name or a list.
            verify: What to do where the model's weights are not those that the ticket was found on: "warn",
                "error", or "off" for a model that was trained since.

        Returns:
            What matched, what is left dense, what is unused.

        Raises:
            TicketMismatchError: The ticket does not fit; nothing is changed then.
        """
        report = self.match(model, strict, prefix)
        if self.theta is None:
            verify_base(model, self.config, verify)
        for target, value in self._theta_for(model, report, strict).items():
            local(target).copy_(cut(value, target))
        for parameter, kept in self.matched_masks(model, report):
            zero_pruned_(parameter, bit_pattern(cut(kept, parameter).to(local(parameter).device)))
        logger.info("ticket of sparsity %.4f applied: %s", self.sparsity, report)
        return report

    def merge(self, model: nn.Module, verify: Verify = "warn") -> nn.Module:
        """Return the model with the ticket's zeros in its weights: an ordinary model, saved and loaded as any.

        Args:
            model: As for `apply`; it is changed.
            verify: As for `apply`.

        Raises:
            TicketMismatchError: The ticket does not fit; nothing is changed then.
        """
        self.apply(model, verify=verify)
        return model

    def _theta_for(self, model: nn.Module, report: ApplyReport, strict: bool) -> dict[Tensor, Tensor]:
        """Pair the model's backbone tensors with θ, checked before any is written."""
        if self.theta is None:
            return {}
        state = {canonical(name): tensor for name, tensor in unwrap(model).state_dict(keep_vars=True).items()}
        pairs: dict[Tensor, Tensor] = {}
        for prefix in report.prefixes:
            for name, value in self.theta.items():
                target = state.get(prefix + canonical(name))
                if target is None:
                    counter = not value.is_floating_point()  # frozen BatchNorm counts no batches
                    if strict and not counter and not is_optional(name, self.config):
                        raise TicketMismatchError(f"the model lacks {prefix}{name}, which is in the ticket's weights")
                    continue
                if (here := whole_shape(target)) != value.shape:
                    raise TicketMismatchError(
                        f"{prefix}{name} is {tuple(here)} here and {tuple(value.shape)} in the ticket's weights"
                    )
                pairs[target] = value
        return pairs

    def _find(self, sparsity: float | None) -> int:
        if not self.ladder.rungs:
            raise TicketFileError("a ticket needs at least one mask")
        if sparsity is None:
            return len(self.ladder.rungs) - 1
        distances = [abs(value - sparsity) for value in self.sparsities]
        nearest = min(range(len(distances)), key=distances.__getitem__)
        # Four decimals are what tables print; in a small model one weight is more than that.
        if not distances[nearest] <= max(5e-5, 0.5 / self.ladder.numel) + 1e-12:
            rungs = ", ".join(f"{value:.4f}" for value in self.sparsities)
            share = "" if 0 <= sparsity <= 1 else " (a share from 0 to 1)"
            raise SparsityError(f"the ticket has no rung at sparsity {sparsity:g}{share}; its rungs are {rungs}")
        return nearest
