"""Fine-tunes a shipped model on your own logs, without forgetting what it already knows.

    optformer corpus import study.db --out corpus.jsonl
    optformer train finetune --workdir DIR --set corpus=corpus.jsonl

Starts from `nano-3`; `--set init=NAME|DIR` names another checkpoint.
A quarter of every batch comes from the corpus and the rest from the synthetic prior.  As in the training of `nano-3`,
some studies have trials of earlier studies or learning curves, so that the model does not forget how to read them.  A
tenth of the corpus, in whole groups of related studies, is held out; the run prints the losses on it, and on the prior,
before and after.

Hardware: two CPU cores.
Time: three minutes.
Score: in `docs/training.md`.
"""

import dataclasses

from optformer.data.corpus import Augmentation
from optformer.data.prior import PriorConfig
from optformer.model import ModelConfig
from optformer.serialization.batch import BatchShape
from optformer.train.config import OptimizerConfig, TrainConfig


def get_config() -> TrainConfig:
    """The model that `init` names, on studies of up to 48 trials and 16 parameters with their names and ranges."""
    return TrainConfig(
        model=ModelConfig.nano(),
        init="nano-3",
        prior=dataclasses.replace(
            PriorConfig.measured(), blind_rate=0.03, partial_rate=0.2, earlier_rate=0.4, flipped_rate=0.2
        ),
        shape=BatchShape(trials=48, slots=16, text=128, policy_trials=8),
        corpus_fraction=0.25,
        # Some studies without a known trial, so that the model can still suggest the first trial.
        augmentation=Augmentation(blind_rate=0.05, earlier_rate=0.4, flip_earlier=0.2, partial_rate=0.4),
        batch_size=32,
        products="auto",
        accumulate=4,  # parts that stay in a core's cache
        steps=600,
        # A tenth of the rates that trained it: enough to adapt, too little to forget.
        optimizer=OptimizerConfig(matrix_learning_rate=2e-3, learning_rate=2e-4, warmup_steps=50),
        ema_decay=0.99,
        checkpoint_every=200,
        eval_every=150,
        eval_batches=8,
    )
