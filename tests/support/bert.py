"""A tiny BERT from its configuration, so that no test needs a network, and examples for it."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import BertConfig, BertForSequenceClassification

from support.clients import STEPS

BATCH = 4


def bert():
    """Return the model, without dropout and the same at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return BertForSequenceClassification(
            BertConfig(
                vocab_size=32,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=8,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )


def examples():
    generator = torch.Generator().manual_seed(0)
    return [
        {"input_ids": torch.randint(32, (6,), generator=generator), "labels": torch.randint(2, (), generator=generator)}
        for _ in range(STEPS * BATCH)
    ]


def stacked(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def bert_batches():
    rows = examples()
    return [stacked(rows[k * BATCH : (k + 1) * BATCH]) for k in range(STEPS)]


def bert_loss(model, batch):
    return model(**batch).loss
