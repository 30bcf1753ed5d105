"""Third stage of `nano-1`: a hundred trials, known optimizers in every batch, and recall for the policy.

    optformer corpus generate --out six.jsonl.gz --studies 3000 \\
        --teachers grid_search,shuffled_grid_search,random_search,regularized_evolution,hill_climb,eagle_strategy
    optformer corpus generate --out two.jsonl.gz --studies 1000 --seed 1 --teachers tpe,cma_es
    cat six.jsonl.gz two.jsonl.gz > teachers.jsonl.gz
    optformer train nano_1_teachers --workdir DIR --set init=NANO_1_LONG --set corpus=teachers.jsonl.gz

NANO_1_LONG is the working directory of `nano_1_long`, where this stage starts; recall is added to its model.
`optformer.train.replay` runs all stages.

Data: the synthetic prior, and a corpus of optimizers under their names (30 %), so that the policy can follow the one
that the metadata names (`docs/generated-corpora.md`).
Hardware: two CPU cores.
Time: about 90 minutes for 12,600 steps on two idle cores (0.43 s a step, measured over 900).
Score: function density 2.75 on the prior and 2.10 on the corpus, policy loss 4.13 and 2.15, on its validation studies.
"""

import dataclasses

from optformer.model import ModelConfig
from optformer.serialization.batch import BatchShape
from optformer.train.config import OptimizerConfig, TrainConfig


def get_config() -> TrainConfig:
    """The `nano` model on studies of up to 100 trials and 16 parameters, from the prior and a corpus."""
    return TrainConfig(
        model=dataclasses.replace(ModelConfig.nano(), policy_recall=True),
        init="nano_1_long",
        shape=BatchShape(trials=100, slots=16, text=64, policy_trials=8),
        corpus_fraction=0.3,
        prior_steps=2,
        batch_size=32,
        accumulate=4,
        steps=12_600,
        optimizer=OptimizerConfig(matrix_learning_rate=4e-3, learning_rate=4e-4, warmup_steps=200),
        ema_decay=0.999,
        checkpoint_every=1000,
        eval_every=500,
        eval_batches=8,
    )
