"""A ticket of a vision model fits it bare, wrapped, and inside detectors and segmenters."""

import pytest
import timm
from applying import assert_applied, detr, rt_detr, upernet, wrapper

from hf_tickets.pruning.prune import prune
from hf_tickets.ticket.ticket import Ticket


@pytest.mark.parametrize(
    ("build", "prefix"),
    [
        (lambda: timm.create_model("resnet18", num_classes=5), ""),
        (lambda: timm.create_model("resnet18", features_only=True), ""),
        (lambda: wrapper("resnet18"), "timm_model."),
        (detr, "model.backbone.model."),
        (rt_detr, "model.backbone.model._backbone."),
        (upernet, "backbone._backbone."),
    ],
)
def test_a_timm_ticket_fits_wrapper_detectors_and_segmenter(resnet_ticket, build, prefix):
    report = assert_applied(resnet_ticket, build(), prefix)
    assert report.dense == []
    assert len(report.matched) == 19


def test_a_ticket_found_inside_a_detector_fits_the_bare_model():
    ticket = Ticket(prune(detr(), sparsity=0.5))
    assert_applied(ticket, timm.create_model("resnet18"), "")
    assert_applied(ticket, wrapper("resnet18"), "timm_model.")


def test_a_resnet50_ticket_fits_torchvision():
    from torchvision.models import resnet50
    from torchvision.models.detection import fasterrcnn_resnet50_fpn, retinanet_resnet50_fpn
    from torchvision.models.segmentation import deeplabv3_resnet50

    ticket = Ticket(prune(timm.create_model("resnet50"), sparsity=0.5))
    assert sum(kept.numel() for kept in ticket.mask.values()) == 23_445_504
    for build in (fasterrcnn_resnet50_fpn, retinanet_resnet50_fpn):
        detector = build(weights=None, weights_backbone=None)
        assert assert_applied(ticket, detector, "backbone.body.").dense == []
    assert assert_applied(ticket, deeplabv3_resnet50(weights=None, weights_backbone=None), "backbone.").dense == []
    assert assert_applied(ticket, resnet50(), "").dense == []


def flattened(name):
    first, number, rest = name.split(".", 2)
    return f"{first}_{number}.{rest}"


def test_convnext_renamed_by_its_feature_extractor():
    ticket = Ticket(prune(timm.create_model("convnext_atto"), sparsity=0.5))
    extractor = timm.create_model("convnext_atto", features_only=True)
    assert any(name.startswith("stages_0.") for name, _ in extractor.named_parameters())
    assert assert_applied(ticket, extractor, "", rename=flattened).dense == []
    segmenter = upernet("convnext_atto", (0, 1, 2, 3), channels=160)
    assert_applied(ticket, segmenter, "backbone._backbone.", rename=flattened)


def test_a_ticket_found_on_a_feature_extractor_fits_the_same_and_the_plain_model():
    mask = prune(timm.create_model("convnext_atto", features_only=True), sparsity=0.5)
    assert "stages_0.blocks.0.mlp.fc1.weight" in mask
    assert_applied(Ticket(mask), timm.create_model("convnext_atto", features_only=True), "")
    assert_applied(Ticket(mask), timm.create_model("convnext_atto"), "", rename=unflattened)
    assert_applied(Ticket(mask), wrapper("convnext_atto"), "timm_model.", rename=unflattened)


def unflattened(name):
    first, rest = name.split(".", 1)
    return f"{first.replace('_', '.')}.{rest}"


def vit(**changes):
    return timm.create_model("vit_tiny_patch16_224", depth=2, **changes)


def test_vit_renamed_by_its_feature_extractor():
    ticket = Ticket(prune(vit(), sparsity=0.5))
    extractor = vit(features_only=True, out_indices=[0, 1])
    assert any(name.startswith("model.blocks.0.") for name, _ in extractor.named_parameters())
    assert assert_applied(ticket, extractor, "model.").dense == []
    assert_applied(ticket, vit(num_classes=3), "")
    found_on_extractor = prune(extractor, sparsity=0.5)
    assert set(found_on_extractor) == set(ticket.mask)
    assert_applied(Ticket(found_on_extractor), vit(), "")
    found_on_extractor.apply_(extractor)


def test_detr_leaves_everything_but_its_vision_backbone_dense(resnet_ticket):
    model = detr()
    report = resnet_ticket.apply(model)
    assert all(name.startswith("model.backbone.") for name in report.matched)
    for name, value in model.named_parameters():
        if "backbone" not in name and value.dim() > 1 and "layers" in name:
            assert bool((value != 0).any()), name
