"""The masking of BERT (Devlin et al. 2019, section 3.1)."""

from typing import Any

import torch
from transformers import DataCollatorForLanguageModeling

from hf_tickets.tasks.blocks import IGNORED


class Masking:
    """Choose tokens to predict: mask 80 % of them, put random ones for 10 %, leave 10 %.

    It draws from torch's process-wide generator, which `SeededDataset` seeds for each example. A block in which
    the draw chooses none has one masked all the same: the loss of no token is no number.

    Args:
        tokenizer: one that has a mask token.
        probability: share of tokens to predict, above 0 and at most 1; special tokens are never chosen.
    """

    def __init__(self, tokenizer: Any, probability: float) -> None:
        self._masking = DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability)

    def __call__(self, example: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tokens, special = example["input_ids"], example["labels"] == IGNORED
        # a batch of one, masked in place
        inputs, labels = self._masking.torch_mask_tokens(tokens[None].clone(), special_tokens_mask=special[None])
        inputs, labels = inputs[0], labels[0]
        if bool((labels == IGNORED).all()):
            ordinary = (~special).nonzero()[:, 0]
            chosen = ordinary[torch.randint(len(ordinary), ())]
            inputs[chosen], labels[chosen] = self._masking.tokenizer.mask_token_id, tokens[chosen]
        return {"input_ids": inputs, "labels": labels}
