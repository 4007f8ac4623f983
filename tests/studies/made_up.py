"""Made-up results of studies, in the form in which `load_results` gives them."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy
import pandas
import torch

from hf_tickets.pruning.mask import Mask

LEVELS = {"mnli": 0.824, "qqp": 0.902, "sst2": 0.921, "mrpc": 0.852, "rte": 0.662, "cola": 0.545, "mlm": 0.635}
LOSS = {"ticket": 0.012, "oneshot": 0.05, "random": 0.22, "reverse": 0.26, "reinitialised": 0.3, "shuffled": 0.2}


def row(**given: Any) -> dict[str, Any]:
    """Return one measurement; what is not given is that of a finished training of a ticket."""
    values = {
        "kind": "training", "source": "cola", "target": "cola", "control": "ticket", "sparsity": 0.5, "wanted": 0.5,
        "seed": 1, "search_seed": 1, "metric": "accuracy", "value": 0.8, "greater_is_better": True, "steps": 100,
        "seconds": 60.0, "status": "done", "error": None,
    } | given  # fmt: skip
    names = ("kind", "source", "target", "control", "wanted", "seed")
    label = "-".join(str(values[name]) for name in names if values[name] is not None)
    key = values.get("key") or hashlib.sha256(label.encode()).hexdigest()
    values = {"metrics": {values["metric"]: values["value"], "loss": 0.5}, "key": key} | values
    return {**values, "folder": values.get("folder", f"cells/{label.replace('/', '_')}-{key[:12]}")}


def dense(target: str, values: Sequence[float], **given: Any) -> list[dict[str, Any]]:
    """Return dense trainings on a target, a seed each."""
    fixed = {"source": None, "target": target, "control": "dense", "sparsity": 0.0, "wanted": 0.0, "search_seed": None}
    return [row(**fixed | {"seed": seed, "value": value} | given) for seed, value in enumerate(values, 1)]


def tickets(source: str, target: str, values: Sequence[float], **given: Any) -> list[dict[str, Any]]:
    """Return trainings of a source's ticket on a target, a seed each."""
    fixed = {"source": source, "target": target}
    return [row(**fixed | {"seed": seed, "value": value} | given) for seed, value in enumerate(values, 1)]


def frame(*rows: list[dict[str, Any]]) -> pandas.DataFrame:
    """Return the results of a study."""
    return pandas.DataFrame([one for several in rows for one in several])


def transfer_study(names: Sequence[str] = tuple(LEVELS)) -> tuple[pandas.DataFrame, dict[str, Any]]:
    """Return a study of sources that are the targets too, with one-shot masks, controls, failures and a hole."""
    names, controls = list(names), [name for name in LOSS if name != "ticket"]
    settings = _settings(names, names, [0.5, 0.7], ["ticket", "dense", *controls], "Transfer among GLUE tasks and MLM.")
    rows = list(_grid(names, names, settings["sparsities"], controls, LEVELS))
    for index, reason in ((4, "RuntimeError: loss is nan at step 120"), (16, "OSError: [Errno 28] No space left")):
        rows[index] |= {"status": "failed", "error": reason, "value": None, "metrics": None, "metric": None}
    rows[17] |= {"status": "waiting", "value": None, "metrics": None, "steps": None, "seconds": None}
    rows += _searches(names, LEVELS, numpy.linspace(0, 0.7, 8))
    return pandas.DataFrame(rows), settings


def vision_study() -> tuple[pandas.DataFrame, dict[str, Any]]:
    """Return a study of three pre-trainings on three targets at eleven sparsities; no target is a source."""
    sources, levels = ["supervised", "simclr", "moco"], {"cifar10": 0.953, "cifar100": 0.807, "svhn": 0.965}
    sparsities = [*(round(1 - 0.8**index, 6) for index in range(1, 19, 2)), 0.970, 0.982]
    settings = _settings(sources, list(levels), sparsities, ["ticket", "dense", "random", "oneshot"], "CIFAR and SVHN.")
    rows = list(_grid(sources, list(levels), sparsities, ["random", "oneshot"], levels))
    return pandas.DataFrame(rows + _searches(sources, dict.fromkeys(sources, 0.7), [0, *sparsities])), settings


def drawn(density: float, seed: int, pooler: bool = True) -> Mask:
    """Return a mask drawn at random, with or without the layer that some models lack."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {f"encoder.layer.{index}.output.dense.weight": (40, 40) for index in range(6)}
    shapes |= {"pooler.dense.weight": (10, 10)} if pooler else {}
    return Mask({name: torch.rand(shape, generator=generator) < density for name, shape in shapes.items()})


def masks_of(settings: dict[str, Any]) -> dict[str, dict[float, Mask]]:
    """Return masks of every source at every sparsity of a study."""
    return {
        source: {wanted: drawn(1 - wanted, number, source != "mlm") for wanted in settings["sparsities"]}
        for number, source in enumerate(settings["sources"])
    }


def _settings(
    sources: list[str], targets: list[str], sparsities: list[float], controls: list[str], text: str
) -> dict[str, Any]:
    return {
        "version": 1, "description": text, "pairs": "all", "sources": {name: {"task": name} for name in sources},
        "targets": {name: {"task": name} for name in targets}, "sparsities": sparsities, "controls": controls,
        "seeds": [1, 2, 3], "margin": 0.01,
    }  # fmt: skip


def _grid(
    sources: list[str], targets: list[str], sparsities: Sequence[float], controls: list[str], levels: dict[str, float]
) -> Iterator[dict[str, Any]]:
    generator = numpy.random.default_rng(0)
    for target in targets:
        noise = 0.004 + 0.02 * (target == "rte")
        for number, source in enumerate([None] if target in sources else sources):  # other sources, other weights
            level = levels[target] - 0.008 * number
            values = level + noise * generator.standard_normal(3)
            yield from dense(target, values, source=source, steps=900, seconds=410.0)
        pairs = [(source, control) for source in sources for control in ("ticket", *controls)]
        for source, control in pairs:
            if control not in ("ticket", "oneshot") and target in sources and source != target:
                continue
            for wanted in sparsities:
                loss = LOSS[control] * (wanted**3 * 2.2)
                far = 0.03 * (source not in (target, "mlm")) * wanted
                for seed in (1, 2, 3):
                    value = levels[target] * (1 - loss - far) + noise * generator.standard_normal()
                    found = {"value": value}
                    if control == "oneshot":  # one training, whatever the source
                        name = f"oneshot-{target}-{wanted}-{seed}"
                        found = {"value": levels[target] * (1 - loss) + noise * (seed - 2), "key": name}
                        found["folder"] = f"cells/{name}"
                    yield row(
                        source=source, target=target, control=control, sparsity=wanted, wanted=wanted, seed=seed,
                        steps=900, seconds=420.0, **found,
                    )  # fmt: skip


def _searches(sources: list[str], levels: dict[str, float], sparsities: Sequence[float]) -> list[dict[str, Any]]:
    return [
        row(
            kind="search", source=source, target=None, control="ticket" if sparsity else "dense", wanted=float("nan"),
            sparsity=float(sparsity), value=levels[source] * (1 - 0.1 * sparsity**4), steps=900, seconds=400.0,
            key=f"search-{source}" * 4,
        )
        for source in sources
        for sparsity in sparsities
    ]  # fmt: skip
