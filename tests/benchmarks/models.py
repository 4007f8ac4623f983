"""The models of the benchmarks: BERT-base and linear layers with random weights, and small ones for `--quick`."""

from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

WIDTH = 4096


def bert_config(quick: bool) -> BertConfig:
    """BERT-base, 85.5 M weights in scope, or one of 0.8 M."""
    small: dict[str, Any] = {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 512,
    }
    return BertConfig(**small) if quick else BertConfig()


def bert(quick: bool) -> BertModel:
    """BERT without a head."""
    return BertModel(bert_config(quick))


def classifier(quick: bool) -> BertForSequenceClassification:
    """BERT with a head for two classes."""
    return BertForSequenceClassification(bert_config(quick))


def billion(quick: bool) -> nn.Module:
    """Sixty linear layers of 4096 by 4096: 1.007 billion weights, 4 GB; a 256th of it when quick."""
    width = WIDTH // 16 if quick else WIDTH
    return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(60)))


def linear_layers(count: int, width: int, device: str, dtype: torch.dtype) -> nn.Module:
    """Square linear layers, made where they are to be, without a copy elsewhere."""
    layers = nn.Sequential(*(nn.Linear(width, width, bias=False, device=device, dtype=dtype) for _ in range(count)))
    with torch.no_grad():
        for weight in layers.parameters():
            weight.normal_(std=0.02)
    return layers
