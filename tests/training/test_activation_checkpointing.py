"""`--activation-checkpointing` of train and train_classifier: what is trained is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pyranet_fast.data.classification import LabeledImages, load_shapes
from pyranet_fast.models.zoo import load_checkpoint
from pyranet_fast.nn.checkpointing import Recomputing
from pyranet_fast.training import classification, trainer
from pyranet_fast.training.config import ClassifierConfig, PoseConfig
from pyranet_fast.training.pose import PoseTask


def test_pose_training_is_the_same_bits() -> None:
    ends = []
    for checkpointing in (False, True):
        config = PoseConfig(
            dataset="demo", cache=False, workers=0, stacks=1, features=24, depth=2, input_size=64, batch_size=3,
            precision="bf16", activation_checkpointing=checkpointing,
        )  # fmt: skip
        task = PoseTask(config, torch.device("cpu"))
        optimizer = task.optimizer()
        for batch in task.batches(0, 2):
            optimizer.zero_grad()
            task.loss(batch)[0].backward()
            optimizer.step()
        ends.append(task.model.state_dict())
        blocks = [m for m in task.model.modules() if isinstance(m, Recomputing)]
        assert blocks and all(block.recompute is checkpointing for block in blocks)
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_a_run_goes_on_with_it_and_gives_the_same_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def some(split: str) -> LabeledImages:
        d = load_shapes(split)
        return LabeledImages(d.name, d.images[:60], d.labels[:60], d.classes, d.mean, d.std)

    monkeypatch.setattr(classification, "load_shapes", some)
    checkpoints = []
    for output, parts in (("whole", [(4, False)]), ("parts", [(2, False), (4, True)])):
        for steps, checkpointing in parts:
            # An interruption stands in for --max-steps, which has to stay what it was.
            config = ClassifierConfig(
                output=str(tmp_path / output), model="wrn-10-1-pyramid", batch_size=20, epochs=4, max_steps=4,
                schedule="cosine", ema=0.9, save_every=1, validate_every=9, activation_checkpointing=checkpointing,
            )  # fmt: skip
            task = classification.ClassificationTask(config, torch.device("cpu"))
            saved = trainer.save_checkpoint

            def stop(path: Path, checkpoint, steps=steps, saved=saved) -> None:
                saved(path, checkpoint)
                if checkpoint.training["step"] == steps < 4:
                    raise InterruptedError

            with monkeypatch.context() as patch:
                patch.setattr(trainer, "save_checkpoint", stop)
                try:
                    trainer.Trainer(task, config).fit()
                except InterruptedError:
                    assert steps < 4
        checkpoints.append(load_checkpoint(tmp_path / output / "last.pt", None))
    one, other = checkpoints
    assert one.training["step"] == other.training["step"] == 4
    for name, tensor in one.weights.items():
        assert torch.equal(tensor, other.weights[name]), name
