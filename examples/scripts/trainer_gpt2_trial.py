"""Train a small GPT-2 from a config with transformers' Trainer.  python trainer_gpt2.py --output_dir out."""

from pydoc_data.topics import topics

import torch
from transformers import GPT2Config, GPT2LMHeadModel, HfArgumentParser, Trainer, TrainingArguments, set_seed

import fallline as fl

(args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
trial = fl.trial()
args.seed = trial.seed
set_seed(args.seed)

text = "".join(topics[name] for name in sorted(topics))[:20_000]
letters = sorted(set(text))
windows = torch.tensor([letters.index(letter) for letter in text]).view(-1, 40)
rows = [{"input_ids": window, "labels": window} for window in windows]
train_dataset, eval_dataset = rows[:400], rows[400:]

sizes = {"n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 2}
config = GPT2Config(vocab_size=len(letters), bos_token_id=0, eos_token_id=0, **sizes)
model = GPT2LMHeadModel(config)
trainer = Trainer(
    model=model,
    args=args,
    train_dataset=train_dataset,
    eval_dataset=eval_dataset,
    optimizers=fl.integrations.huggingface.build_optimizers(trial, model, args, train_dataset),
    callbacks=[fl.integrations.huggingface.TrialCallback(trial)],
)
trainer.train()
trainer.save_metrics("eval", trainer.evaluate())
