"""The imitating stage of `nano`: its policy alone, on the trials of the known optimizers.

    optformer corpus generate --out teachers.jsonl.gz --studies 2700 --infeasible-rate 0.2 --noise-rate 0.3 --seed 9 \\
        --teachers grid_search,shuffled_grid_search,random_search,regularized_evolution,hill_climb,eagle_strategy
    optformer corpus generate --out gp_ucb.jsonl.gz --studies 12 --trials 20-40 --largest-dimension 12 \\
        --infeasible-rate 0.2 --noise-rate 0.3 --seed 9 --teachers gp_ucb
    cat teachers.jsonl.gz $(yes gp_ucb.jsonl.gz | head -8) > logs.jsonl.gz
    optformer train nano_cpu_imitation --workdir DIR --set corpus=logs.jsonl.gz

Goes on from the shipped weights (`init=nano`) and gives their slot decoder what it lacked to copy these optimizers:
what each trial came after, and how trials differ from what has been chosen so far (`policy_succession`).  All else
keeps its weights to the last bit, and with them every prediction of an objective: only that part is differentiated,
which leaves time for 32 trials of each study in place of 8.

Hardware: two CPU cores.
Time: about an hour for 4,000 steps.
Score (2,674 studies of six teachers, made by three such commands, and 12 of GP-UCB): policy loss of a parameter on
held-out studies of the corpus 1.519 before, 1.449 after; on the prior 3.933 and 3.899; density of objectives 2.626 and
3.182, before and after.
"""

import dataclasses

from optformer.data.corpus import Augmentation
from optformer.data.prior import PriorConfig
from optformer.data.shapes import BatchShape
from optformer.model import ModelConfig
from optformer.train.config import OptimizerConfig, TrainConfig


def get_config() -> TrainConfig:
    """The `nano` model on studies of up to 100 trials and 16 parameters, three quarters of them of a corpus."""
    return TrainConfig(
        model=dataclasses.replace(ModelConfig.nano(), policy_recall=True, policy_succession=True),
        init="nano",
        train_only="policy",
        prior=PriorConfig(infeasible_rate=0.2, order_free_rate=0.0, prefix_power=4.0),
        shape=BatchShape(trials=100, slots=16, text=64, policy_trials=32),
        corpus_fraction=0.75,
        augmentation=Augmentation(drop_algorithm=0.3, drop_names=0.5, order_free_rate=0.0, prefix_power=4.0),
        prior_steps=4,
        batch_size=32,
        accumulate=4,
        steps=4_000,
        optimizer=OptimizerConfig(matrix_learning_rate=1e-2, learning_rate=1e-3, warmup_steps=200, weight_decay=0.02),
        ema_decay=0.998,
        checkpoint_every=1000,
        eval_every=500,
        eval_batches=8,
    )
