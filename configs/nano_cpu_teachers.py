"""The third stage of `nano`: hundred trials, a quarter of every batch from known optimizers, and recall for the policy.

    optformer corpus generate --out teachers.jsonl.gz --studies 4000 --infeasible-rate 0.25 --noise-rate 0.5 \\
        --processes 2 \\
        --teachers grid_search,shuffled_grid_search,random_search,regularized_evolution,hill_climb,eagle_strategy
    optformer train nano_cpu_teachers --workdir DIR --set corpus=teachers.jsonl.gz

Goes on from the shipped weights (`init=nano`), which are given recall where they lack it.  The prior has histories that
look like tuning; the corpus (`docs/generated-corpora.md`) has the algorithms themselves, under their names, so that
the policy can follow the one that the metadata names.

End it whenever you like; the same command goes on from there.

Hardware: two CPU cores.
Time: about 85 minutes for 12,000 steps on two idle cores (0.43 s a step, measured over 900).
Score: what ships as `nano` was made by 12,600 steps of it in pieces, on a corpus with the paper's noise and without
failures.  On that run's validation: function density 2.75 on the prior and 2.10 on the corpus, policy loss 4.13 and
2.15.
"""

import dataclasses

from optformer.data.prior import PriorConfig
from optformer.model import ModelConfig
from optformer.serialization.batch import BatchShape
from optformer.train.config import OptimizerConfig, TrainConfig


def get_config() -> TrainConfig:
    """The `nano` model on studies of up to 100 trials and 16 parameters, of the prior and of a corpus."""
    return TrainConfig(
        model=dataclasses.replace(ModelConfig.nano(), policy_recall=True),
        init="nano",
        prior=PriorConfig(infeasible_rate=0.3),
        shape=BatchShape(trials=100, slots=16, text=64, policy_trials=8),
        corpus_fraction=0.25,
        prior_steps=2,
        batch_size=32,
        accumulate=4,
        steps=12_000,
        optimizer=OptimizerConfig(matrix_learning_rate=4e-3, learning_rate=4e-4, warmup_steps=200),
        ema_decay=0.999,
        checkpoint_every=1000,
        eval_every=500,
        eval_batches=8,
    )
