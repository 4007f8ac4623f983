"""Scope: exactly the weights that the papers and the documentation name, counted by hand or by name."""

import copy

import pytest
import timm
import torch
import transformers
from torch import nn

from hf_tickets.errors import PruningError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.mask import Mask
from hf_tickets.pruning.prune import prune
from hf_tickets.pruning.scope import plain_name, prunable_weights, unwrap

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
SMALL_BERT = SMALL | {"vocab_size": 50, "max_position_embeddings": 16}
BERT_LAYER = 4 * 32 * 32 + 2 * 32 * 64


def count(model, config=None):
    return sum(weight.numel() for weight in prunable_weights(model, config).values())


def names(model, config=None):
    return list(prunable_weights(model, config))


def weights_by_name(model, layers=(nn.Linear, nn.Conv2d)):
    """Every weight of the given layer types: what a hand-made rule then takes names from."""
    return [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, layers)]


def timm_backbone(architecture="resnet18", out_indices=(1, 2, 3, 4)):
    return transformers.TimmBackboneConfig(backbone=architecture, out_indices=list(out_indices))


def small_detr(backbone=None):
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone_config=backbone or timm_backbone(), **sizes, **heads
    )
    return transformers.DetrForObjectDetection(config)


def small_rt_detr():
    config = transformers.RTDetrConfig(
        backbone_config=timm_backbone(out_indices=(2, 3, 4)),
        encoder_in_channels=[128, 256, 512],
        encoder_layers=1,
        decoder_layers=2,
        d_model=32,
        encoder_hidden_dim=32,
    )
    return transformers.RTDetrForObjectDetection(config)


def small_upernet():
    config = transformers.UperNetConfig(backbone_config=timm_backbone(), auxiliary_in_channels=256, hidden_size=32)
    return transformers.UperNetForSemanticSegmentation(config)


# The papers' numbers.


@pytest.mark.parametrize("model_class", [transformers.BertModel, transformers.BertForSequenceClassification])
def test_bert_base_has_the_papers_number_of_weights(model_class):
    assert count(model_class(transformers.BertConfig())) == 85_524_480


def test_resnet50_has_the_papers_number_of_weights_bare_and_wrapped():
    config = transformers.TimmWrapperConfig(architecture="resnet50", num_labels=10)
    wrapped = transformers.TimmWrapperForImageClassification(config)
    assert count(wrapped) == 23_445_504
    assert count(wrapped.timm_model) == 23_445_504
    assert names(wrapped) == names(wrapped.timm_model)


# Language models.


@pytest.mark.parametrize(
    ("model_class", "pooled"),
    [
        (transformers.BertModel, True),
        (transformers.BertForSequenceClassification, True),
        (transformers.BertForMaskedLM, False),
        (transformers.BertForQuestionAnswering, False),
        (transformers.BertForTokenClassification, False),
    ],
)
def test_bert_heads_and_embeddings_are_out_of_scope(model_class, pooled):
    model = model_class(transformers.BertConfig(**SMALL_BERT))
    assert count(model) == 2 * BERT_LAYER + pooled * 32 * 32
    assert all(name.startswith(("encoder.layer.", "pooler.dense.")) for name in names(model))
    assert "encoder.layer.1.output.dense.weight" in names(model)


@pytest.mark.parametrize("model_class", [transformers.GPT2Model, transformers.GPT2LMHeadModel])
def test_gpt2_has_its_conv1d_weights_and_no_embedding(model_class):
    model = model_class(transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=50, n_positions=16))
    assert count(model) == 2 * 12 * 32 * 32
    assert names(model)[:2] == ["h.0.attn.c_attn.weight", "h.0.attn.c_proj.weight"]


@pytest.mark.parametrize("model_class", [transformers.T5ForConditionalGeneration, transformers.T5Model])
@pytest.mark.parametrize("tied", [True, False])
def test_t5_has_no_output_layer_in_scope_tied_or_not(model_class, tied):
    sizes = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    model = model_class(transformers.T5Config(**sizes, tie_word_embeddings=tied))
    attention, feed_forward = 4 * 16 * 16, 2 * 16 * 24
    assert count(model) == 3 * attention + 2 * feed_forward
    assert not any("lm_head" in name or "shared" in name or "embed" in name for name in names(model))


def test_heads_come_in_with_scope_model_but_never_a_weight_tied_to_an_embedding():
    model = transformers.BertForMaskedLM(transformers.BertConfig(**SMALL_BERT))
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    scope = PruningConfig(scope="model")
    assert count(model, scope) == 2 * BERT_LAYER + 32 * 32
    assert "cls.predictions.transform.dense.weight" in names(model, scope)
    gpt = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=50, n_positions=16)
    )
    assert gpt.lm_head.weight is gpt.transformer.wte.weight
    assert count(gpt, scope) == 12 * 32 * 32


class TiedToEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.hidden = nn.Linear(4, 4)
        self.output = nn.Linear(4, 10, bias=False)
        self.output.weight = self.embedding.weight


class TiedLinears(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.third = nn.Linear(4, 4)


def test_a_linear_tied_to_an_embedding_is_never_in_scope():
    assert names(TiedToEmbedding()) == ["hidden.weight"]


def test_tied_linears_are_in_scope_once():
    model = TiedLinears()
    assert names(model) == ["first.weight", "third.weight"]
    mask = prune(model, sparsity=0.5)
    assert mask.numel == 32
    assert mask.kept == 16
    mask.apply_(model)
    assert int((model.second.weight == 0).sum()) == mask["first.weight"].numel() - mask.kept_by_layer["first.weight"]


def test_a_module_registered_twice_is_in_scope_once():
    model = nn.Module()
    model.one = nn.Linear(3, 3)
    model.two = nn.Sequential(model.one, nn.Linear(3, 2))
    assert names(model) == ["one.weight", "two.1.weight"]


# Layers.


@pytest.mark.parametrize("convolution", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_all_convolutions_but_the_first_are_in_scope(convolution):
    model = nn.Sequential()
    for index, (before, after) in enumerate([(1, 4), (4, 6), (6, 6), (6, 6), (6, 8)]):
        model.add_module(f"layer{index}", nn.Sequential(convolution(before, after, 3), nn.ReLU()))
    assert names(model) == [f"layer{index}.0.weight" for index in range(1, 5)]


def test_norms_biases_and_embeddings_are_never_in_scope():
    parts = nn.ModuleDict(
        {
            "linear": nn.Linear(4, 4),
            "layer_norm": nn.LayerNorm((2, 4)),
            "batch_norm": nn.BatchNorm1d(4),
            "group_norm": nn.GroupNorm(2, 4),
            "embedding": nn.Embedding(4, 4),
            "bag": nn.EmbeddingBag(4, 4),
        }
    )
    assert names(parts) == ["linear.weight"]


# Vision models.


def test_vit_of_transformers():
    config = transformers.ViTConfig(**SMALL, image_size=16, patch_size=8)
    assert count(transformers.ViTForImageClassification(config)) == 2 * BERT_LAYER
    assert not any("embeddings" in name for name in names(transformers.ViTModel(config)))


def test_vit_of_timm():
    model = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=3)
    assert count(model) == 2 * 12 * 192 * 192
    assert names(model) == [name for name in weights_by_name(model) if name.startswith("blocks.")]


@pytest.mark.parametrize(
    ("architecture", "stem_and_head"),
    [
        ("resnet18", ("conv1.", "fc.")),
        ("resnet50d", ("conv1.", "fc.")),
        ("resnet10t", ("conv1.", "fc.")),
        ("convnext_atto", ("stem.", "head.")),
        ("vgg11", ("features.0.", "head.")),
        ("efficientnet_lite0", ("conv_stem.", "classifier.")),
        ("swin_tiny_patch4_window7_224", ("patch_embed.", "head.")),
        ("crossvit_tiny_240", ("patch_embed.", "head.")),
    ],
)
def test_timm_models_leave_out_their_stem_and_head_and_nothing_else(architecture, stem_and_head):
    with torch.device("meta"):
        model = timm.create_model(architecture)
    model.to_empty(device="cpu")
    expected = [name for name in weights_by_name(model) if not name.startswith(stem_and_head)]
    assert names(model) == expected
    assert len(expected) < len(weights_by_name(model))


def test_deep_stems_have_three_convolutions_out_of_scope():
    model = timm.create_model("resnet10t")
    stem = [name for name in weights_by_name(model) if name.startswith("conv1.")]
    assert len(stem) == 3
    assert not set(stem) & set(names(model))


def test_convnext_of_transformers():
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
    model = transformers.ConvNextForImageClassification(config)
    expected = [
        name.removeprefix("convnext.")
        for name in weights_by_name(model)
        if not name.startswith(("convnext.embeddings.", "classifier."))
    ]
    assert names(model) == expected
    assert "encoder.stages.1.downsampling_layer.1.weight" in expected


@pytest.mark.parametrize("build", [small_detr, small_rt_detr, small_upernet])
def test_detectors_and_segmenters_have_their_vision_backbone_in_scope_and_no_more(build):
    bare = timm.create_model("resnet18")
    assert names(build()) == names(bare)
    assert count(build()) == count(bare)


def test_a_backbone_of_transformers_inside_upernet():
    backbone = transformers.ConvNextConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = transformers.UperNetConfig(backbone_config=backbone, auxiliary_in_channels=24, hidden_size=16)
    model = transformers.UperNetForSemanticSegmentation(config)
    bare = transformers.ConvNextModel(transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]))
    assert names(model) == names(bare)


# Wrappers.


def test_wrappers_change_neither_names_nor_order():
    plain = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL_BERT))
    expected = names(plain)
    assert names(torch.compile(copy.deepcopy(plain))) == expected
    assert names(nn.DataParallel(copy.deepcopy(plain))) == expected
    assert names(nn.DataParallel(torch.compile(copy.deepcopy(plain)))) == expected
    inside = copy.deepcopy(plain)
    inside.bert.encoder.layer[1] = torch.compile(inside.bert.encoder.layer[1])
    assert names(inside) == expected
    inside = copy.deepcopy(plain)
    inside.bert = torch.compile(inside.bert)
    assert names(inside) == expected


def test_checkpoint_wrapped_layers_keep_their_names():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = transformers.BertModel(transformers.BertConfig(**SMALL_BERT))
    expected = names(model)
    model.encoder.layer[0] = checkpoint_wrapper(model.encoder.layer[0])
    assert names(model) == expected


def test_unwrapping_stops_at_the_model():
    model = nn.Linear(2, 2)
    assert unwrap(nn.DataParallel(nn.DataParallel(model))) is model
    assert unwrap(model) is model
    assert plain_name("_orig_mod.layer._checkpoint_wrapped_module.weight") == "layer.weight"
    assert plain_name("a_orig_mod.weight") == "a_orig_mod.weight"


# target_modules and exclude_modules.


@pytest.fixture(scope="module")
def bert():
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL_BERT))


def test_target_modules_by_suffix(bert):
    expected = [name for name in names(bert) if name.endswith(("query.weight", "value.weight"))]
    assert names(bert, PruningConfig(target_modules=["query", "value"])) == expected
    assert len(expected) == 4
    attention_output = PruningConfig(target_modules=["attention.output.dense"])
    assert names(bert, attention_output) == [f"encoder.layer.{i}.attention.output.dense.weight" for i in range(2)]


def test_a_suffix_is_a_whole_name_part(bert):
    with pytest.raises(PruningError, match="did you mean query"):
        names(bert, PruningConfig(target_modules=["uery"]))
    with pytest.raises(PruningError, match="did you mean query"):
        names(bert, PruningConfig(target_modules=["qery"]))


def test_target_modules_by_one_regular_expression_over_whole_names(bert):
    config = PruningConfig(target_modules=r"encoder\.layer\.1\..*\.dense")
    expected = [name for name in names(bert) if name.startswith("encoder.layer.1.") and ".dense." in name]
    assert names(bert, config) == expected
    with pytest.raises(PruningError):
        names(bert, PruningConfig(target_modules="query"))


def test_target_modules_may_name_embeddings(bert):
    found = names(bert, PruningConfig(target_modules=["word_embeddings"]))
    assert found == ["embeddings.word_embeddings.weight"]


def test_exclude_modules_in_both_forms(bert):
    everything = names(bert)
    assert names(bert, PruningConfig(exclude_modules=["pooler.dense"])) == everything[:-1]
    by_expression = PruningConfig(exclude_modules=r"encoder\.layer\.0\..*")
    assert names(bert, by_expression) == [name for name in everything if not name.startswith("encoder.layer.0.")]
    both = PruningConfig(target_modules=["query", "key"], exclude_modules=r".*layer\.0.*")
    assert names(bert, both) == [f"encoder.layer.1.attention.self.{part}.weight" for part in ("query", "key")]


def test_a_regular_expression_that_is_none_is_an_error_of_the_library(bert):
    for field in ("target_modules", "exclude_modules"):
        with pytest.raises(PruningError, match=field):
            names(bert, PruningConfig(**{field: "layer.("}))


# Errors.


@pytest.mark.parametrize("model", [nn.Embedding(4, 4), nn.Sequential(nn.ReLU()), nn.LayerNorm(4)])
def test_nothing_in_scope_is_an_error(model):
    with pytest.raises(PruningError, match=r"no linear or convolution weight in scope.*target_modules"):
        names(model)


def test_everything_excluded_is_an_error(bert):
    with pytest.raises(PruningError, match="scope"):
        names(bert, PruningConfig(exclude_modules=".*"))


def test_a_model_on_the_meta_device_is_an_error():
    with pytest.raises(PruningError, match=r"weight is on the meta device"):
        names(nn.Sequential(nn.Linear(4, 4, device="meta")))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_quantised_model_is_an_error(dtype):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(torch.zeros(4, 4).to(dtype), requires_grad=False)
    with pytest.raises(PruningError, match=r"1\.weight is quantised"):
        prune(model, sparsity=0.5)


def test_masks_of_the_whole_model_find_their_weights():
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL_BERT))
    mask = prune(model, PruningConfig(scope="model"), sparsity=0.5)
    assert "classifier.weight" in mask
    mask.apply_(model)
    assert int((model.classifier.weight == 0).sum()) == int((~mask["classifier.weight"]).sum())
    assert Mask(mask).kept == mask.kept
