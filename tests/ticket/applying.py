"""Small models and tickets, and what it means that a ticket was applied to one, or refused."""

import pytest
import torch
import transformers

from hf_tickets.errors import TicketMismatchError
from hf_tickets.pruning.prune import prune
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.ticket import Ticket

BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
    "max_position_embeddings": 16,
}
POOLER = "pooler.dense.weight"


def bert(model_class=transformers.BertForSequenceClassification, **changes):
    return model_class(transformers.BertConfig(**(BERT | changes)))


def bert_ticket(model_class=transformers.BertForMaskedLM, **changes):
    mask = prune(bert(model_class, **changes), sparsity=0.6)
    return Ticket(mask, TicketConfig(model_type="bert"))


def content(model):
    return {name: value.detach().cpu().numpy().tobytes() for name, value in model.state_dict().items()}


def assert_applied(ticket, model, place, absent=(), rename=lambda name: name, **arguments):
    """Pruned weights are +0, and every other byte of the model is as it was; returns the report."""
    inner = getattr(model, "module", model)
    inner = getattr(inner, "_orig_mod", inner)
    before = {name: value.clone() for name, value in inner.state_dict().items()}
    mask = {place + rename(name): kept for name, kept in ticket.mask.items() if name not in absent}
    report = ticket.apply(model, **arguments)
    touched = 0
    for name, value in inner.state_dict().items():
        expected = before[name]
        if name in mask:
            expected = expected.where(mask[name], torch.zeros((), dtype=expected.dtype))
            touched += 1
        assert value.numpy().tobytes() == expected.numpy().tobytes(), name
    assert touched == len(mask)
    assert len(report.matched) == len(mask)
    assert sorted(report.matched.values()) == sorted(name for name in ticket.mask if name not in absent)
    assert sorted(report.unused) == sorted(absent)
    assert report.prefixes == [place]
    return report


def assert_refused(ticket, model, match, **arguments):
    before = content(model)
    with pytest.raises(TicketMismatchError, match=match) as raised:
        ticket.apply(model, **arguments)
    assert "\n" not in str(raised.value)
    assert content(model) == before


def timm_backbone(architecture, out_indices=(1, 2, 3, 4)):
    return transformers.TimmBackboneConfig(backbone=architecture, out_indices=list(out_indices))


def wrapper(architecture):
    config = transformers.TimmWrapperConfig(architecture=architecture, num_labels=3)
    return transformers.TimmWrapperForImageClassification(config)


def detr(architecture="resnet18", **changes):
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    backbone = timm_backbone(architecture, **changes)
    config = transformers.DetrConfig(use_timm_backbone=False, backbone_config=backbone, **sizes, **heads)
    return transformers.DetrForObjectDetection(config)


def rt_detr(architecture="resnet18"):
    config = transformers.RTDetrConfig(
        backbone_config=timm_backbone(architecture, (2, 3, 4)),
        encoder_in_channels=[128, 256, 512],
        encoder_layers=1,
        decoder_layers=2,
        d_model=32,
        encoder_hidden_dim=32,
    )
    return transformers.RTDetrForObjectDetection(config)


def upernet(architecture="resnet18", out_indices=(1, 2, 3, 4), channels=256):
    config = transformers.UperNetConfig(
        backbone_config=timm_backbone(architecture, out_indices), auxiliary_in_channels=channels, hidden_size=32
    )
    return transformers.UperNetForSemanticSegmentation(config)
