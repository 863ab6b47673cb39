"""transformers' Trainer trains as the plain loop does, resumes from its checkpoints, and can be linted and watched."""

import pytest
import torch

import fallline as fl
from support.clients import STEPS, equal, loop, optimizer_of, scheduler_of, weights

reason = 'transformers or accelerate is not installed: pip install "fallline[clients]"'
transformers = pytest.importorskip("transformers", reason=reason)
pytest.importorskip("accelerate", reason=reason)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # advice on loaders and pinned memory

from support.bert import BATCH, bert, bert_batches, bert_loss, examples, stacked  # noqa: E402


class InOrder(transformers.Trainer):
    """A Trainer that does not shuffle; its other methods are those of the library."""

    def _get_train_sampler(self, *_):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trainer_of(folder, **options):
    model = bert()
    optimizer = optimizer_of(model.parameters())
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        max_grad_norm=0.0,  # the optimizer clips
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="steps",
        save_steps=3,
        **options,
    )
    return InOrder(
        model=model,
        args=arguments,
        train_dataset=examples(),
        data_collator=stacked,
        optimizers=(optimizer, scheduler_of(optimizer)),
    )


@pytest.fixture(scope="module")
def expected():
    model = bert()
    loop(model, bert_batches(), bert_loss)
    return weights(model)


def test_the_trainer_equals_the_plain_loop_and_resumes(tmp_path, expected):
    trainer = trainer_of(tmp_path)
    trainer.train()
    assert equal(weights(trainer.model), expected)
    resumed = trainer_of(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.state.global_step == STEPS
    assert equal(weights(resumed.model), expected)


def test_its_prepared_objects_are_linted_and_watched(tmp_path):
    found = []

    class Inspect(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, model, optimizer, lr_scheduler, **_):
            ids = [finding.id for finding in fl.lint(model, optimizer, lr_scheduler, total_steps=STEPS)]
            found.extend([ids, fl.watch(optimizer)])

    trainer = trainer_of(tmp_path)
    trainer.add_callback(Inspect())
    trainer.train()
    ids, watch = found
    assert "not-inspected" not in ids
    assert (watch.record.steps, watch.record.with_clipping, watch.record.not_zeroed) == (STEPS, STEPS, 0)
