"""A ticket of image classification is carried to detection and segmentation by the commands, and found there too."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, AutoModelForObjectDetection, AutoModelForSemanticSegmentation

from hf_tickets import Ticket
from hf_tickets.cli.main import main

COMMON = """
model: test_resnet
pretrained: false
max_steps: 2
per_device_train_batch_size: 2
per_device_eval_batch_size: 2
save_strategy: "no"
use_cpu: true
sparsities: [0.8]
"""
CLASSIFICATION = f"""{COMMON}
family: image-classification
dataset: sklearn/digits
image_size: 32
maximum_training_examples: 8
maximum_evaluation_examples: 8
output_dir: found
pretrain: {{}}
"""
DETECTION = f"""{COMMON}
family: object-detection
dataset: boxes
image_size: 64
model_arguments: {{d_model: 16, encoder_ffn_dim: 16, decoder_ffn_dim: 16, encoder_attention_heads: 2,
  decoder_attention_heads: 2, decoder_layers: 2, num_queries: 20, num_denoising: 10}}
head_learning_rate: 1e-3
output_dir: detection
"""
SEGMENTATION = f"""{COMMON}
family: semantic-segmentation
dataset: masks
image_size: 64
model_arguments: {{hidden_size: 16, auxiliary_channels: 8}}
optim: sgd
lr_scheduler_type: polynomial
lr_scheduler_kwargs: {{power: 0.9, lr_end: 0.0}}
learning_rate: 1e-3
head_learning_rate: 1e-2
output_dir: segmentation
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ticket of image classification, a dataset of boxes and one of masks."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
    from pictures import GOOD, boxes_dataset, halves, mask_of, masks_dataset

    folder = tmp_path_factory.mktemp("dense")
    boxes_dataset(folder, [GOOD] * 4)
    masks_dataset(folder, [mask_of(halves())] * 4)
    for name, recipe in {"found": CLASSIFICATION, "detection": DETECTION, "segmentation": SEGMENTATION}.items():
        (folder / f"{name}.yaml").write_text(recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["find", "found.yaml"]) == 0
    return folder


@pytest.mark.parametrize(
    ("name", "auto_class", "prefix", "metric"),
    [
        ("detection", AutoModelForObjectDetection, "model.backbone.model._backbone.", "map"),
        ("segmentation", AutoModelForSemanticSegmentation, "backbone._backbone.", "mean_iou"),
    ],
)
def test_a_ticket_of_classification_fine_tunes(
    folder: Path, name: str, auto_class: type, prefix: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backbone's learning rate is next to nothing: it still is the masked base model's."""
    monkeypatch.chdir(folder)
    words = ["train", f"{name}.yaml", "--ticket", "found", "--output_dir", f"tuned-{name}"]
    assert main([*words, "--learning_rate", "1e-9"]) == 0
    result = json.loads((folder / f"tuned-{name}" / "result.json").read_text())
    assert result["metric"] == metric
    assert 0 <= result["metrics"][metric] <= 1
    ticket = Ticket.from_pretrained(folder / "found")
    base = AutoModelForImageClassification.from_pretrained(ticket.config.base_model).timm_model.state_dict()
    tuned = auto_class.from_pretrained(folder / f"tuned-{name}").state_dict()
    for entry, kept in ticket.mask.items():
        assert (tuned[prefix + entry][~kept] == 0).all(), entry
        assert torch.allclose(tuned[prefix + entry], base[entry] * kept, atol=1e-6), entry


@pytest.mark.parametrize("name", ["detection", "segmentation"])
def test_a_ticket_is_found_on_the_task_itself_and_used_there(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(m_T, θ0) and (m_T, θ_50 %) of the paper: random weights, and weights rewound to a step of round 0."""
    monkeypatch.chdir(folder)
    words = ["find", f"{name}.yaml", "--rewind_share", "0.5"]
    assert main(words) == 0
    ticket = Ticket.from_pretrained(folder / name)
    assert ticket.sparsities == pytest.approx((0.8,), abs=1e-4)
    assert set(ticket.mask) == set(Ticket.from_pretrained(folder / "found").mask)
    # another seed, so that the weights it learns from can only be those that the ticket carries
    words = ["train", f"{name}.yaml", "--ticket", name, "--task_seed", "7", "--learning_rate", "1e-9"]
    assert main([*words, "--output_dir", f"{name}-again"]) == 0
    state = load_file(folder / f"{name}-again" / "model.safetensors")
    place = "model.backbone.model." if name == "detection" else "backbone."
    for entry, kept in ticket.mask.items():
        found = next(value for key, value in state.items() if key.startswith(place) and key.endswith(entry))
        assert torch.allclose(found, ticket.theta[entry] * kept, atol=1e-6), entry


def test_a_search_goes_on_in_a_transfer_to_another_family(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    transfer = "transfer:\n  controls: [ticket, random, dense]\n  at: [0.8]\n"
    detection = "".join(f"  {line}\n" for line in DETECTION.replace(COMMON, "").replace("\n  ", " ").splitlines())
    recipe = CLASSIFICATION.replace("output_dir: found", "output_dir: both") + transfer + detection
    recipe = recipe.replace("  output_dir: detection\n", "").replace("pretrain: {}", "pretrain:\n  max_steps: 1")
    (folder / "both.yaml").write_text(recipe)
    assert main(["find", "both.yaml"]) == 0
    cells = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("both/transfer/*/result.json")}
    assert set(cells) == {"ticket-0.8000", "random-0.8000", "dense"}
    assert cells["ticket-0.8000"]["kept"] == cells["random-0.8000"]["kept"]
    assert all(cell["metric"] == "map" for cell in cells.values())
