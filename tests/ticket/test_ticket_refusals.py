"""What a ticket does not fit it refuses, in words that say what differs, and leaves as it was."""

import copy

import pytest
import timm
import torch
import transformers
from applying import BERT, POOLER, assert_applied, assert_refused, bert, bert_ticket, content, detr
from torch import nn

from hf_tickets.pruning.prune import prune
from hf_tickets.ticket.ticket import Ticket

# Refused, in words that say what differs.


def test_another_depth_both_ways():
    assert_refused(
        bert_ticket(num_hidden_layers=4), bert(), r"lacks weights of the ticket: encoder\.layer\.2\..* and 9 more"
    )
    assert_refused(
        bert_ticket(), bert(num_hidden_layers=4), r"does not cover weights of the model: bert\.encoder\.layer\.2\."
    )
    assert_refused(Ticket(prune(timm.create_model("resnet26"), sparsity=0.5)), detr("resnet50"), "weights")
    assert_refused(Ticket(prune(timm.create_model("resnet50"), sparsity=0.5)), timm.create_model("resnet26"), "weights")


@pytest.mark.parametrize("architecture", ["resnet34", "resnet10t"])
def test_another_resnet(resnet_ticket, architecture):
    assert_refused(resnet_ticket, timm.create_model(architecture), "weights")


@pytest.mark.parametrize("changes", [{"hidden_size": 48}, {"intermediate_size": 96}])
def test_another_width(changes):
    assert_refused(
        bert_ticket(), bert(**changes), r"shapes differ: encoder\.layer\.0\..* is \d+×\d+ here and \d+×\d+ in"
    )


def test_a_transposed_shape():
    ticket = Ticket(prune(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4)), sparsity=0.5))
    assert_refused(ticket, nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 6)), r"0\.weight is 4×6 here and 6×4")


def test_another_model_type():
    electra = transformers.ElectraForSequenceClassification(
        transformers.ElectraConfig(**BERT, embedding_size=32, num_labels=2)
    )
    assert_refused(bert_ticket(), electra, "for bert models, this one is electra")
    assert_refused(bert_ticket(), electra, "for bert models, this one is electra", strict=False)


def test_another_family(resnet_ticket):
    assert_refused(bert_ticket(), timm.create_model("resnet18"), r"encoder\.layer\.0.* in the ticket")
    assert_refused(bert_ticket(), nn.Linear(3, 3), "no weight name")
    assert_refused(resnet_ticket, bert(), r"layer1\.0\.conv1\.weight in the ticket")
    assert_refused(resnet_ticket, bert(), "no weight name", strict=False)


def test_a_model_without_backbone_weights_of_the_ticket():
    model = timm.create_model("resnet18", features_only=True, out_indices=[0, 1, 2])
    ticket = Ticket(prune(timm.create_model("resnet18"), sparsity=0.5))
    assert_refused(ticket, model, r"lacks weights of the ticket: layer3")


def test_a_weight_that_only_the_ticket_has():
    mask = prune(bert(), sparsity=0.5)
    extra = {**mask, "encoder.layer.0.extra.weight": torch.ones(3, 3, dtype=torch.bool)}
    assert_refused(Ticket(type(mask)(extra)), bert(), r"encoder\.layer\.0\.extra\.weight")


# Not strict: what fits is pruned, the rest is left dense and reported.


def test_not_strict_leaves_what_is_not_covered_dense():
    model = bert(num_hidden_layers=4)
    report = assert_applied(bert_ticket(), model, "bert.", strict=False)
    assert len(report.dense) == 2 * 6 + 1
    assert all(
        name.startswith(("bert.encoder.layer.2.", "bert.encoder.layer.3.", "bert.pooler")) for name in report.dense
    )


def test_not_strict_reports_what_is_unused():
    ticket = bert_ticket(num_hidden_layers=4)
    absent = [name for name in ticket.mask if name.startswith(("encoder.layer.2.", "encoder.layer.3."))]
    assert_applied(ticket, bert(), "bert.", absent=absent, strict=False)


def test_not_strict_leaves_other_shapes_dense():
    ticket, model = bert_ticket(), bert(intermediate_size=96)
    before = content(model)
    report = ticket.apply(model, strict=False)
    wide = [f"bert.encoder.layer.{i}.{part}.dense.weight" for i in range(2) for part in ("intermediate", "output")]
    assert sorted(report.dense) == sorted([*wide, f"bert.{POOLER}"])
    assert len(report.matched) == 8
    after = content(model)
    assert all(after[name] == before[name] for name in after if name not in report.matched)
    assert all(after[name] != before[name] for name in report.matched)


# Several places.


class TwoEncoders(nn.Module):
    """As in momentum contrast: one architecture twice."""

    def __init__(self):
        super().__init__()
        self.encoder_q = timm.create_model("resnet18", num_classes=8)
        self.encoder_k = timm.create_model("resnet18", num_classes=8)


def test_several_full_matches_need_a_prefix(resnet_ticket):
    assert_refused(resnet_ticket, TwoEncoders(), r"fits in 2 places; choose with prefix= .*encoder_k.*encoder_q")
    model = TwoEncoders()
    other = copy.deepcopy(model.encoder_k.state_dict())
    assert_applied(resnet_ticket, model, "encoder_q.", prefix="encoder_q")
    assert all(torch.equal(value, other[name]) for name, value in model.encoder_k.state_dict().items())
    assert_applied(resnet_ticket, TwoEncoders(), "encoder_k.", prefix="encoder_k.")


def test_a_list_of_prefixes_applies_to_each(resnet_ticket):
    model = TwoEncoders()
    expected = copy.deepcopy(model)
    report = resnet_ticket.apply(model, prefix=["encoder_q", "encoder_k"])
    assert report.prefixes == ["encoder_q.", "encoder_k."]
    assert len(report.matched) == 2 * 19
    resnet_ticket.mask.apply_(expected.encoder_q)
    resnet_ticket.mask.apply_(expected.encoder_k)
    assert content(model) == content(expected)


def test_a_prefix_that_is_not_there_is_refused(resnet_ticket):
    assert_refused(resnet_ticket, TwoEncoders(), "no module 'encoder_x'", prefix="encoder_x")
    assert_refused(resnet_ticket, TwoEncoders(), "encoder_x", prefix=["encoder_q", "encoder_x"])
    assert_refused(resnet_ticket, TwoEncoders(), "lacks weights", prefix="encoder_q.layer1")


def test_one_bad_place_of_several_changes_none(resnet_ticket):
    model = TwoEncoders()
    model.encoder_k = timm.create_model("resnet34", num_classes=8)
    assert_refused(resnet_ticket, model, "does not cover", prefix=["encoder_q", "encoder_k"])


def test_an_encoder_decoder_of_two_berts_is_ambiguous():
    configs = [transformers.BertConfig(**BERT), transformers.BertConfig(**BERT, is_decoder=True)]
    model = transformers.EncoderDecoderModel(transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*configs))
    assert_refused(bert_ticket(), model, "places")
    assert_applied(bert_ticket(), model, "encoder.", prefix="encoder")


class Siamese(transformers.BertPreTrainedModel):
    """A second encoder beside the one that transformers calls the base model."""

    def __init__(self, config):
        super().__init__(config)
        self.bert = transformers.BertModel(config)
        self.teacher = transformers.BertModel(config)
        self.post_init()


def test_a_second_encoder_beside_the_base_model_can_be_named():
    model = Siamese(transformers.BertConfig(**BERT))
    assert_applied(bert_ticket(), model, "teacher.", prefix="teacher")
    assert_applied(bert_ticket(), model, "bert.", prefix="bert")


def test_a_second_encoder_beside_the_base_model_is_ambiguous():
    assert_refused(bert_ticket(), Siamese(transformers.BertConfig(**BERT)), "fits in 2 places")


def test_the_same_encoder_under_two_names_is_one_place():
    model = TwoEncoders()
    model.encoder_k = model.encoder_q
    ticket = Ticket(prune(timm.create_model("resnet18"), sparsity=0.7))
    report = ticket.apply(model)
    assert report.prefixes == ["encoder_q."]
    assert len(report.matched) == 19


def test_two_encoders_of_different_width_are_told_apart(resnet_ticket):
    model = TwoEncoders()
    model.encoder_k = timm.create_model("resnet18", num_classes=8, base_width=64)
    model.encoder_k = timm.models.resnet.ResNet(
        timm.models.resnet.BasicBlock, (2, 2, 2, 2), channels=(32, 64, 128, 256)
    )
    assert_applied(resnet_ticket, model, "encoder_q.")
