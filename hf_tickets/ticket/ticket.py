"""`Ticket`: masks and provenance that travel as two small files."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hf_tickets.errors import SparsityError, TicketFileError, TicketMismatchError
from hf_tickets.pruning.mask import Mask, bit_pattern, zero_pruned_
from hf_tickets.pruning.scope import unwrap
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.ladder import LADDER_FILE, Ladder
from hf_tickets.ticket.matching import ApplyReport, canonical, canonical_parameters, is_optional, match
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

    def rung(self) -> "Ticket":
        """Return the selected rung as a ticket of its own, without θ."""
        mask = self.mask
        rungs = [rung for rung in self.config.rungs if rung.get("digest") == mask.digest]
        return Ticket(mask, replace(self.config, rungs=rungs, theta_digest=None))

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
        """
        path = Path(folder)
        self.config.to_json()  # what cannot be written is found before anything is
        self.ladder.save(path / LADDER_FILE)
        theta_digest = None
        if self.theta is not None:
            theta_digest = save_theta(self.theta, self.ladder.mask(0), path / THETA_FILE)
        else:
            (path / THETA_FILE).unlink(missing_ok=True)
        replace(self.config, theta_digest=theta_digest).save(path)

    @classmethod
    def from_pretrained(cls, folder: str | Path, sparsity: float | None = None) -> "Ticket":
        """Read a ticket from a folder.

        Args:
            folder: A folder that `save_pretrained` wrote.
            sparsity: The rung to use, to four decimals (default: the last).

        Raises:
            TicketFileError: A file is missing, damaged, or of an unknown format.
            SparsityError: There is no rung at that sparsity; the message lists the rungs.
        """
        path = Path(folder)
        if not path.is_dir():
            raise TicketFileError(f"{path} is not a folder")
        config = TicketConfig.load(path)
        ticket = cls(Ladder.load(path / LADDER_FILE), config, sparsity=sparsity)
        if config.theta_digest is not None or (path / THETA_FILE).exists():
            ticket.theta = load_theta(path / THETA_FILE, ticket.ladder.mask(0), config.theta_digest)
        return ticket

    def match(self, model: nn.Module, strict: bool = True, prefix: str | Sequence[str] | None = None) -> ApplyReport:
        """Say how the ticket fits a model, without changing it; arguments and errors as in `apply`."""
        return match(self.ladder.shapes, model, self.config, strict, prefix)

    @torch.no_grad()
    def apply(self, model: nn.Module, strict: bool = True, prefix: str | Sequence[str] | None = None) -> ApplyReport:
        """Set the pruned weights of a model to zero, and the others to θ where the ticket carries one.

        To keep them zero while training, give the ticket to `TicketTrainer` or `PruningCallback`.

        Args:
            model: A model with the ticket's backbone under any head, wrapped or not.
            strict: Refuse a shape mismatch, an unused entry of the ticket, or a weight in scope that it does
                not cover; else leave these dense and report them.
            prefix: Where the backbone lies, for models that hold several; one name or a list.

        Returns:
            What matched, what is left dense, what is unused.

        Raises:
            TicketMismatchError: The ticket does not fit; nothing is changed then.
        """
        report = self.match(model, strict, prefix)
        mask = self.mask
        parameters = canonical_parameters(model)
        for target, value in self._theta_for(model, report, strict).items():
            target.copy_(value)
        for name, entry in report.matched.items():
            zero_pruned_(parameters[name], bit_pattern(mask[entry].to(parameters[name].device)))
        logger.info("ticket of sparsity %.4f applied: %s", self.sparsity, report)
        return report

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
                if target.shape != value.shape:
                    raise TicketMismatchError(
                        f"{prefix}{name} is {tuple(target.shape)} here and {tuple(value.shape)} in the ticket's weights"
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
            raise SparsityError(f"the ticket has no rung at sparsity {sparsity:g}; its rungs are {rungs}")
        return nearest
