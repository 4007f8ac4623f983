"""Matching a ticket's names to the parameters of a model, whatever its head and wrappers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from hf_tickets.errors import TicketMismatchError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.scope import backbone, prunable_weights, unwrap
from hf_tickets.pruning.shards import whole_shape
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.names import canonical, is_optional

Shape = tuple[int, ...]

_SCOPE_FIELDS = ("scope", "target_modules", "exclude_modules")


@dataclass(frozen=True)
class ApplyReport:
    """What a ticket did to a model.

    Args:
        matched: Parameter name in the model to name in the ticket.
        dense: Weights of the backbone in scope that the ticket does not cover.
        unused: Entries of the ticket that the model has no weight for.
        prefixes: Where in the model the backbone was found; "" is the model itself.
    """

    matched: dict[str, str] = field(repr=False)
    dense: list[str]
    unused: list[str]
    prefixes: list[str]

    def __str__(self) -> str:
        where = ", ".join(repr(prefix) for prefix in self.prefixes)
        return f"{len(self.matched)} weights matched under {where}, {len(self.dense)} dense, {len(self.unused)} unused"


def canonical_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return a model's parameters by names free of wrapper infixes and timm's flattening."""
    named = unwrap(model).named_parameters(remove_duplicate=False)
    return {canonical(name): parameter for name, parameter in named}


def backbone_prefix(model: nn.Module) -> str:
    """Return the canonical name of a model's backbone in it; "" where it is the model itself."""
    own = backbone(model)
    return next((canonical(name) for name, module in unwrap(model).named_modules() if module is own), "")


def backbone_prefixes(model: nn.Module) -> list[str]:
    """Return the canonical names of a model's backbone and of its copies, such as a momentum encoder, in it.

    A model names its copies in `momentum_copies`: name of a module to name of the copy.
    """
    own = backbone_prefix(model)
    copies: Mapping[str, str] = getattr(unwrap(model), "momentum_copies", {})
    return [own, *(copy + own.removeprefix(name) for name, copy in copies.items() if own.startswith(name))]


def match(
    shapes: Mapping[str, Shape],
    model: nn.Module,
    config: TicketConfig,
    strict: bool = True,
    prefix: str | Sequence[str] | None = None,
) -> ApplyReport:
    """Find the place in a model where a ticket's names fit.

    Args:
        shapes: The ticket's names, relative to the backbone, and shapes.
        model: Any module, wrapped or not.
        config: Its `model_type`, `optional_modules` and `pruning` are used.
        strict: Refuse anything that does not fit; else leave it dense and report it.
        prefix: Where the backbone lies, for models that hold several; one name or a list. A momentum encoder that
            the model names as such is found without.

    Raises:
        TicketMismatchError: The ticket does not fit; the message names what differs.
    """
    if prefix is None and getattr(unwrap(model), "momentum_copies", None):
        prefix = backbone_prefixes(model)
    # A ticket found on a feature extractor has flattened names itself.
    given = {canonical(name): name for name in shapes}
    shapes = {canonical(name): shape for name, shape in shapes.items()}
    parameters = canonical_parameters(model)
    if any(".base_layer." in name for name in parameters):
        raise TicketMismatchError(
            "the model carries PEFT adapters, whose dense updates would fill the zeros: apply the ticket before they "
            "are added, and again to what merge_and_unload() returns"
        )
    prefixes = _given(prefix) if prefix is not None else [_find_prefix(shapes, parameters, config)]
    modules = {canonical(name): module for name, module in unwrap(model).named_modules()}
    report = ApplyReport(matched={}, dense=[], unused=[], prefixes=prefixes)
    for place in prefixes:
        if place.rstrip(".") not in modules:
            raise TicketMismatchError(f"{type(unwrap(model)).__name__} has no module {place.rstrip('.')!r}")
        _match_at(place, modules[place.rstrip(".")], shapes, parameters, config, strict, report)
    matched = {name: given[entry] for name, entry in report.matched.items()}
    return replace(report, matched=matched, unused=[given[name] for name in report.unused])


def _match_at(
    prefix: str,
    module: nn.Module,
    shapes: Mapping[str, Shape],
    parameters: Mapping[str, nn.Parameter],
    config: TicketConfig,
    strict: bool,
    report: ApplyReport,
) -> None:
    found = getattr(getattr(module, "config", None), "model_type", None)
    if config.model_type and found and config.model_type != found:
        raise TicketMismatchError(f"the ticket is for {config.model_type} models, this one is {found}")
    other_shapes: list[str] = []
    for name, shape in shapes.items():
        parameter = parameters.get(prefix + name)
        if parameter is None:
            report.unused.append(name)
        elif tuple(whole_shape(parameter)) != shape:
            other_shapes.append(
                f"{name} is {_times(tuple(whole_shape(parameter)))} here and {_times(shape)} in the ticket"
            )
            report.dense.append(prefix + name)
        else:
            report.matched[prefix + name] = name
    pruning = PruningConfig(**{name: config.pruning[name] for name in _SCOPE_FIELDS if name in config.pruning})
    in_scope = (canonical(name) for name in prunable_weights(module, pruning))
    report.dense.extend(prefix + name for name in in_scope if name not in shapes)
    if strict:
        missing = [name for name in report.unused if not is_optional(name, config)]
        uncovered = [name for name in report.dense if not is_optional(name.removeprefix(prefix), config)]
        uncovered = [name for name in uncovered if name.removeprefix(prefix) not in shapes]
        _refuse(other_shapes, "shapes differ")
        _refuse(missing, "the model lacks weights of the ticket")
        _refuse(uncovered, "the ticket does not cover weights of the model")
    if not report.matched:
        raise TicketMismatchError("no weight of the ticket fits the model: is it the same architecture?")


def _find_prefix(
    shapes: Mapping[str, Shape],
    parameters: Mapping[str, nn.Parameter],
    config: TicketConfig,
) -> str:
    places = [(name[:start], name[start:]) for name in parameters for start in _starts(name)]
    hits = Counter(place for place, entry in places if entry in shapes)
    required = {name for name in shapes if not is_optional(name, config)}
    required_hits = Counter(place for place, entry in places if entry in required)
    if not hits:
        examples = f"{next(iter(shapes), 'nothing')} in the ticket, {next(iter(parameters), 'nothing')} in the model"
        raise TicketMismatchError(f"no weight name of the ticket occurs in the model ({examples})")
    full = [place for place in hits if required_hits[place] == len(required)]
    if len(full) > 1:
        fitting = [place for place in full if _shapes_fit(place, shapes, parameters)]
        # A module registered under two names is one place.
        unique = {
            tuple(id(parameters.get(place + name)) for name in shapes): place for place in reversed(fitting or full)
        }
        full = list(unique.values())
    if len(full) > 1:
        raise TicketMismatchError(f"the ticket fits in {len(full)} places; choose with prefix= from {sorted(full)}")
    if full:
        return full[0]
    return hits.most_common(1)[0][0]


def _shapes_fit(prefix: str, shapes: Mapping[str, Shape], parameters: Mapping[str, nn.Parameter]) -> bool:
    return all(
        tuple(whole_shape(parameters[prefix + name])) == shape
        for name, shape in shapes.items()
        if prefix + name in parameters
    )


def _starts(name: str) -> list[int]:
    return [0, *(index + 1 for index, letter in enumerate(name) if letter == ".")]


def _given(prefix: str | Sequence[str]) -> list[str]:
    places = [prefix] if isinstance(prefix, str) else list(prefix)
    return [f"{place.rstrip('.')}." if place else "" for place in places]


def _times(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "a scalar"


def _refuse(different: list[str], what: str) -> None:
    if different:
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise TicketMismatchError(f"{what}: {'; '.join(different[:3])}{more}")
