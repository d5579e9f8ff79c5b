"""A tiny encoder with random weights, saved as a base model: everything real about it but its size."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from core.settings import Settings, load_settings

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"{topic}{number}" for topic in "abcdef" for number in range(12))]


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture
def settings(tmp_path: Path, base_model: Path) -> Settings:
    return load_settings(
        home=tmp_path, base_model=str(base_model), max_tokens=32, epochs=1, batch_size=8, replay_minimum=16,
        trigger_age_s=0.1, trigger_count=50, lease_ttl_s=2.0, train_threads=1, gate_latency_ratio=50.0,
        gate_margin=0.1,
    )  # fmt: skip
