"""SimCLR and MoCo as tasks: views, models, evaluation, and searches for their tickets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms import v2
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments

from hf_tickets import PruningConfig, Ticket, TicketTrainer
from hf_tickets.errors import DataError, RecipeError
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.images import ImageFormat
from hf_tickets.tasks.probing import ProbeMetrics
from hf_tickets.tasks.registry import prepare
from hf_tickets.tasks.views import Views

SMALL = {
    "pretrained": False,
    "dataset": "sklearn/digits",
    "image_size": 32,
    "horizontal_flip": False,
    "maximum_training_examples": 48,
    "maximum_evaluation_examples": 16,
    "probe_examples": 32,
    "projection": [16, 8],
}


def config(family: str, **changes: Any) -> TaskConfig:
    queue = {"queue_size": 40, "momentum": 0.9, "batch_norm_groups": 2} if family == "moco" else {}
    return TaskConfig(family, **{"model": "test_resnet", **SMALL, **queue, **changes})


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 32,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_steps": 1,
    }
    return TrainingArguments(str(folder), **{**defaults, **changes})


def search(family: str, folder: Path, callbacks: tuple[TrainerCallback, ...] = (), **changes: Any) -> TicketTrainer:
    task = prepare(config(family))
    args = arguments(folder, **changes)
    trainer = TicketTrainer(
        task.model, args, pruning=PruningConfig(amount=0.5, rounds=2), **task.trainer_arguments(args)
    )
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


# Views


def test_the_two_views_differ_by_epoch_and_example_and_by_nothing_else() -> None:
    first, again = (prepare(config("simclr")).train_dataset for _ in range(2))
    example = first[3]["pixel_values"]
    assert example.shape == (2, 3, 32, 32)
    assert not torch.equal(example[0], example[1])
    assert torch.equal(example, again[3]["pixel_values"])
    first.set_epoch(1)
    assert not torch.equal(example, first[3]["pixel_values"])


FORMAT = ImageFormat(32, 32, mean=(0.0,) * 3, std=(1.0,) * 3)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
NOTHING = {
    "crop_scale": 1.0,
    "horizontal_flip": False,
    "colour_jitter": (0.0, 0.0, 0.0, 0.0),
    "colour_jitter_probability": 0.0,
    "grey_probability": 0.0,
    "blur_probability": 0.0,
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"grey_probability": 1.0}, v2.functional.rgb_to_grayscale(NOISE, 3)),
        ({"colour_jitter": (0.0, 0.0, 0.0, 0.0), "colour_jitter_probability": 1.0}, NOISE),
    ],
)
def test_each_strength_is_that_of_its_transform(changes: dict[str, Any], expected: Image.Image) -> None:
    transform = Views(**{**NOTHING, **changes}).transform(FORMAT)
    # a crop of the whole area may still be of another shape: where it is not, the pixels are the image's own
    drawn = [transform(NOISE) for _ in range(60)]
    wanted = v2.functional.pil_to_tensor(expected) / 255
    assert min(float((view - wanted).abs().max()) for view in drawn) < 1e-6


def test_stronger_settings_change_views_more() -> None:
    def spread(**changes: Any) -> float:
        transform = Views(**{**NOTHING, **changes}).transform(FORMAT)
        torch.manual_seed(0)
        plain = Image.new("RGB", (32, 32), (120, 90, 60))
        return float(torch.stack([transform(plain) for _ in range(20)]).std(dim=0).mean())

    assert spread() == 0
    mild, strong = ((0.2, 0.2, 0.2, 0.05), (0.8, 0.8, 0.8, 0.2))
    assert (
        0
        < spread(colour_jitter=mild, colour_jitter_probability=1.0)
        < spread(colour_jitter=strong, colour_jitter_probability=1.0)
    )
    assert spread(colour_jitter=strong, colour_jitter_probability=0.3) > 0
    blurred = Views(**{**NOTHING, "blur_probability": 1.0}).transform(FORMAT)(NOISE)
    assert float(blurred.std()) < 0.9 * float(v2.functional.pil_to_tensor(NOISE).float().std() / 255)


# Evaluation


def test_probes_classify_what_can_be_told_apart_and_guess_the_rest() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 300)
    apart = np.eye(4)[labels] * 5 + generator.normal(size=(300, 4))
    noise = generator.normal(size=(300, 4))
    probe = ProbeMetrics(bank=200, neighbours=10, linear=True)
    good = probe(EvalPrediction(apart, labels))
    bad = probe(EvalPrediction(noise, labels))
    assert min(good.values()) > 0.9
    assert max(bad.values()) < 0.5
    assert set(good) == {"knn_accuracy", "linear_accuracy"}
    assert "linear_accuracy" not in ProbeMetrics(200, 10, linear=False)(EvalPrediction(apart, labels))


def test_knn_is_the_weighted_vote_of_its_paper() -> None:
    generator = np.random.default_rng(1)
    features, labels = generator.normal(size=(60, 3)), generator.integers(0, 3, 60)
    bank = features[:50] / np.linalg.norm(features[:50], axis=1, keepdims=True)
    right = 0
    for feature, label in zip(features[50:], labels[50:], strict=True):
        similarity = bank @ (feature / np.linalg.norm(feature))
        nearest = np.argsort(-similarity)[:7]
        votes = [np.exp(similarity[nearest] / 0.07)[labels[nearest] == c].sum() for c in range(3)]
        right += int(np.argmax(votes) == label)
    measured = ProbeMetrics(50, 7, linear=False)(EvalPrediction(features, labels))
    assert measured["knn_accuracy"] == pytest.approx(right / 10)


@pytest.mark.parametrize("family", ["simclr", "moco"])
def test_each_evaluation_logs_both_probes(family: str, tmp_path: Path) -> None:
    task = prepare(config(family))
    args = arguments(tmp_path, eval_strategy="epoch", num_train_epochs=2)
    trainer = Trainer(task.model, args, **task.trainer_arguments(args))
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "eval_knn_accuracy" in entry]
    assert len(logged) == 2
    assert all({"eval_linear_accuracy", "eval_loss"} <= set(entry) for entry in logged)
    assert f"eval_{task.metric}" in logged[0]
    assert json.dumps(task.provenance)


# Models


@pytest.mark.parametrize("family", ["simclr", "moco"])
def test_its_model_goes_on_training_and_gives_its_encoder_to_other_tasks(family: str, tmp_path: Path) -> None:
    model = prepare(config(family)).model
    model.save_pretrained(tmp_path / "base")
    own = model.state_dict()
    again = prepare(config(family, model=str(tmp_path / "base"), pretrained=True, image_size=None)).model
    assert all(torch.equal(own[name], tensor) for name, tensor in again.state_dict().items())
    other = "moco" if family == "simclr" else "simclr"
    classifying = TaskConfig("image-classification", str(tmp_path / "base"), dataset="sklearn/digits")
    for task in (prepare(config(other, model=str(tmp_path / "base"), pretrained=True)), prepare(classifying)):
        root = task.model if hasattr(task.model, "timm_model") else task.model.encoder
        for name, tensor in model.encoder.timm_model.state_dict().items():
            assert torch.equal(root.timm_model.state_dict()[name], tensor)
    assert task.provenance["image_size"] == [32, 32]


def test_a_recipes_temperature_and_momentum_win_over_the_models(tmp_path: Path) -> None:
    base = prepare(config("moco")).model
    assert base.config.loss_temperature == 0.2
    base.save_pretrained(tmp_path / "base")
    loaded = {"model": str(tmp_path / "base"), "pretrained": True}
    model = prepare(config("moco", **loaded, temperature=0.1, momentum=0.5)).model
    assert (model.config.loss_temperature, model.config.momentum) == (0.1, 0.5)
    for changes in ({"projection": [16, 4]}, {"queue_size": 41}, {"small_stem": True}):
        with pytest.raises(RecipeError, match=next(iter(changes))):
            prepare(config("moco", **{**loaded, **changes}))


# Searches


class Starts(TrainerCallback):
    """Takes the model's state where each training begins, and counts what came back to life after each step."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []
        self.revived = 0
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.states.append({name: tensor.clone() for name, tensor in kwargs["model"].state_dict().items()})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        ticket = self.trainer._rounds.holder.ticket
        if ticket is not None:
            model = kwargs["model"]
            for encoder in (model.encoder, getattr(model, "key_encoder", model.encoder)):
                weights = dict(encoder.timm_model.named_parameters())
                self.revived += sum(int(weights[name][~kept].count_nonzero()) for name, kept in ticket.mask.items())


@pytest.mark.parametrize("family", ["simclr", "moco"])
def test_every_round_starts_where_round_0_did_and_both_encoders_stay_masked(family: str, tmp_path: Path) -> None:
    """Encoder, projection head, key encoder, queue and BatchNorm statistics, to the bit but for pruned weights."""
    starts = Starts()
    trainer = search(family, tmp_path, (starts,))
    starts.trainer = trainer
    trainer.train()
    first, *later = starts.states
    assert len(later) == 2
    sides = ("encoder", "key_encoder") if family == "moco" else ("encoder",)
    assert any(name.startswith("projection.") for name in first)
    assert ("queue" in first) == (family == "moco")
    for ticket, state in zip(trainer.tickets, later, strict=True):
        pruned = {f"{side}.timm_model.{name}": ~kept for name, kept in ticket.mask.items() for side in sides}
        for name, tensor in first.items():
            expected = tensor.masked_fill(pruned[name], 0) if name in pruned else tensor
            assert torch.equal(state[name], expected), name
        assert sum(int(entries.sum()) for entries in pruned.values()) > 0
    assert starts.revived == 0
    trained = load_file(tmp_path / "_run/round-02/trained.safetensors")
    moved = [name for name, tensor in first.items() if not torch.equal(trained[name], tensor)]
    # all of it had moved, or returning would be no feat
    for part in ("encoder.", "projection.", *(("key_encoder.", "queue") if family == "moco" else ())):
        assert any(name.startswith(part) for name in moved), part
    assert any("running_mean" in name for name in moved)


def test_a_ticket_of_moco_fits_a_classifier_and_both_encoders(tmp_path: Path) -> None:
    trainer = search("moco", tmp_path / "run")
    trainer.train()
    ticket = Ticket.from_pretrained(tmp_path / "run", 0.75)
    assert ticket.config.base_config["model_type"] == "timm_wrapper"
    classifier = prepare(TaskConfig("image-classification", **{**_plain(SMALL), "model": "test_resnet"})).model
    assert ticket.apply(classifier).prefixes == ["timm_model."]
    other = prepare(config("moco", task_seed=5)).model
    report = ticket.apply(other, verify="off")
    assert report.prefixes == ["encoder.timm_model.", "key_encoder.timm_model."]
    for name, kept in ticket.mask.items():
        for side in (other.encoder, other.key_encoder):
            assert not side.timm_model.get_parameter(name)[~kept].any()


def _plain(keys: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in keys.items() if name not in ("projection", "probe_examples")}


# Bad input


def test_a_bad_image_is_named_by_its_row_in_training_and_evaluation(tmp_path: Path) -> None:
    features = Features(image=ImageFeature(), label=ClassLabel(names=["cat", "dog"]))
    cells = [{"bytes": b"junk" if i == 2 else _png(i), "path": None} for i in range(6)]
    split = Dataset.from_dict({"image": cells, "label": [0, 1] * 3}, features)
    DatasetDict(train=split, test=split).save_to_disk(tmp_path / "pets")
    keys = {"dataset": str(tmp_path / "pets"), "maximum_training_examples": None, "maximum_evaluation_examples": None}
    task = prepare(config("simclr", **keys))
    for dataset, name in ((task.train_dataset, "train"), (task.evaluation_dataset, "train")):
        with pytest.raises(DataError, match=f"pets, split {name}, row 2: unreadable image in column image"):
            _ = [dataset[i] for i in range(6)]
    with pytest.raises(DataError, match="split test, row 2"):
        _ = task.evaluation_dataset[8]


def _png(value: int) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (value * 30, 10, 200)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "image-classification", "temperature": 0.3}, "temperature: only self-supervised tasks"),
        ({"family": "simclr", "queue_size": 5}, "queue_size: only moco tasks"),
        ({"family": "simclr", "grey_probability": 1.2}, "grey_probability: 1.2"),
        ({"family": "simclr", "crop_scale": 0.0}, "crop_scale: 0.0"),
        ({"family": "simclr", "colour_jitter": [0.1]}, "colour_jitter: give four"),
        ({"family": "simclr", "probe_examples": 0}, "probe_examples: 0"),
        ({"family": "simclr", "temperature": -1.0}, "temperature: -1.0"),
        ({"family": "moco", "momentum": 2.0}, "momentum: 2.0"),
        ({"family": "simclr", "projection": [0]}, "projection"),
    ],
)
def test_a_wrong_key_is_one_line_that_says_which(changes: dict[str, Any], message: str) -> None:
    keys = {"model": "test_resnet", **_plain(SMALL), **changes}
    with pytest.raises(RecipeError, match=message):
        prepare(TaskConfig(**keys))
