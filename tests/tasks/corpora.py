"""Small tokenizers, models and corpora for the tests of language tasks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizer, PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# each as long as a block of 16 with two special tokens, and of one word: what is masked can be told from the rest
SENTENCES = [" ".join(letter * 14) for letter in "abcdefgh"]


def bert_tokenizer(words: Sequence[str] = LETTERS) -> Any:
    return BertTokenizer(vocab={word: i for i, word in enumerate([*SPECIAL, *words])})


def decoder_tokenizer(begins: bool = False) -> Any:
    """A tokenizer of words like GPT-2's, without special tokens around a text, or like Llama's, with one before."""
    vocab = {word: i for i, word in enumerate(["<s>", "</s>", "<unk>", *LETTERS])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if begins:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def save(folder: Path, model: Any, tokenizer: Any) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_headless_bert(folder: Path, tokenizer: Any = None, **changes: Any) -> str:
    """A BERT of 2 layers of 32 as it comes without a head, pooler included."""
    tokenizer = tokenizer or bert_tokenizer()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **{**sizes, **changes})
    return save(folder, BertModel(config), tokenizer)


def write_rows(folder: Path, **splits: list[dict[str, Any]]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def write_texts(folder: Path, train: Sequence[str], validation: Sequence[str]) -> str:
    return write_rows(folder, train=[{"text": text} for text in train], validation=[{"text": t} for t in validation])


def plain_tokens(model: str, texts: Sequence[str]) -> list[int]:
    """All tokens of some texts, one after another, by the tokenizer alone."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    return [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
