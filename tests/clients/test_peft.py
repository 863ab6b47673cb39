"""LoRA adapters of peft are trained alone, as by PyTorch's AdamW, and resume from what peft saves."""

import copy

import pytest
import torch

import fallline as fl
from support.clients import STEPS, equal, weights

reason = 'peft or transformers is not installed: pip install "fallline[clients]"'
peft = pytest.importorskip("peft", reason=reason)
pytest.importorskip("transformers", reason=reason)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of modules that are imported with it

from support.bert import bert, bert_batches, bert_loss  # noqa: E402


def adapted():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["query", "value"], task_type="SEQ_CLS")
        return peft.get_peft_model(bert(), config)


def optimizer_of(model, cls=fl.AdamW):
    return cls([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)


def train(model, optimizer, batches):
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        bert_loss(model, batch).backward()
        optimizer.step()


def test_only_the_adapters_change_and_they_equal_torchs():
    runs = []
    for cls in (fl.AdamW, torch.optim.AdamW):
        model = adapted()
        before = weights(model)
        train(model, optimizer_of(model, cls), bert_batches())
        runs.append((before, weights(model), {name for name, p in model.named_parameters() if p.requires_grad}))
    (before, ours, trained), (_, theirs, _) = runs
    assert trained and {name for name in ours if not torch.equal(ours[name], before[name])} == trained
    for name in trained:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-5)  # float32


def test_a_saved_adapter_and_the_state_resume(tmp_path):
    whole = adapted()
    train(whole, optimizer_of(whole), bert_batches())
    first = adapted()
    optimizer = optimizer_of(first)
    train(first, optimizer, bert_batches()[:3])
    first.save_pretrained(tmp_path)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    second = peft.PeftModel.from_pretrained(bert(), tmp_path, is_trainable=True)
    resumed = optimizer_of(second)
    resumed.load_state_dict(copy.deepcopy(torch.load(tmp_path / "optimizer.pt", weights_only=True)))
    train(second, resumed, bert_batches()[3:])
    assert equal(weights(second), weights(whole))


def test_the_adapted_model_is_linted_and_watched():
    model = adapted()
    optimizer = optimizer_of(model)
    ids = [finding.id for finding in fl.lint(model, optimizer, total_steps=STEPS, from_scratch=False)]
    assert not {"missing-parameters", "not-inspected"} & set(ids), ids
    with fl.watch(optimizer) as watch:
        train(model, optimizer, bert_batches())
    assert (watch.record.steps, watch.record.not_zeroed) == (STEPS, 0)
