"""Loss, perplexity and accuracy of a language model, over tokens and not over batches."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import EvalPrediction

from hf_tickets.tasks.blocks import IGNORED


@dataclass(frozen=True)
class TokenScores:
    """Trainer's `preprocess_logits_for_metrics`: sum of losses, right tokens and counted tokens of each example.

    No logits are kept: they are hundreds of thousands of bytes a token.

    Args:
        shifted: whether a position predicts the next one's token, as in a decoder, or its own.
    """

    shifted: bool

    def __call__(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        logits = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
        if self.shifted:
            logits, labels = logits[:, :-1], labels[:, 1:]
        rows, columns = (labels != IGNORED).nonzero(as_tuple=True)
        predicted, expected = logits[rows, columns].float(), labels[rows, columns]
        losses = torch.nn.functional.cross_entropy(predicted, expected, reduction="none")
        right = (predicted.argmax(dim=-1) == expected).float()
        scores = torch.stack([losses, right, torch.ones_like(losses)], dim=1)
        return torch.zeros(len(labels), 3, device=logits.device).index_add_(0, rows, scores)


class TokenMetrics:
    """Trainer's `compute_metrics` on TokenScores, whole or batch by batch (`batch_eval_metrics`).

    loss (nats), perplexity (its exponential) and accuracy are over all counted tokens of the evaluation set alike;
    the loss takes the place of Trainer's, which is a mean of batches' means.
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64)

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        self._sums += torch.as_tensor(prediction.predictions).cpu().double().sum(dim=0)
        if not compute_result:
            return {}
        loss, accuracy = self._sums[:2] / self._sums[2]
        self._sums.zero_()
        return {"loss": float(loss), "perplexity": float(loss.exp()), "accuracy": float(accuracy)}
