"""Models that are built on the spot, and real data where there is some."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_dataset_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real datasets."""
    folder = os.environ.get("HF_TICKETS_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("HF_TICKETS_TEST_DATA names no folder of real data")
    return Path(folder)


def _save_bert(folder: Path, tokenizer: Any, **changes: Any) -> str:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        **changes,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def bert(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny masked-language BERT and bert-base-uncased's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / "bert-base-uncased")
    return _save_bert(tmp_path_factory.mktemp("bert"), tokenizer)


@pytest.fixture(scope="session")
def small_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny BERT of a few words, for tests without real data."""
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "good", "bad", "film", "day"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    return _save_bert(tmp_path_factory.mktemp("small_bert"), tokenizer, max_position_embeddings=64)
