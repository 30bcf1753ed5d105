"""The fourth stage of `nano`: half of every batch from logs, of known optimizers on known functions and of real tuning.

    optformer corpus generate --out bbob.jsonl.gz --studies 1500 --infeasible-rate 0.2 --noise-rate 0.3 --seed 29 \\
        --teachers grid_search,shuffled_grid_search,random_search,regularized_evolution,hill_climb,eagle_strategy
    optformer corpus generate --out yahpo.jsonl.gz --problems yahpo --yahpo-dir YAHPO --studies 1200 --trials 40-100 \\
        --teachers random_search,regularized_evolution,hill_climb,tpe,cma_es --seed 29
    cat bbob.jsonl.gz yahpo.jsonl.gz OTHERS.jsonl.gz > logs.jsonl.gz
    optformer train nano_cpu_logs --workdir DIR --set corpus=logs.jsonl.gz

Goes on from the shipped weights (`init=nano`).  What the prior cannot have: how the parameters of real learning
algorithms act, by their names, and the optimizers' own trials.

Hardware: two CPU cores.
Time: about 85 minutes for 6,000 steps on two idle cores.
Score: not what ships.  After 2,800 steps the validation studies of the corpus were predicted better (2.85 -> 2.88 nats
above uniform) and those of the prior too (2.76 -> 2.77), and on BBOB's training functions its suggestions were worse
(regret after 10, 25, 50 trials .189, .114, .076 -> .219, .130, .093, 48 problems).
"""

import dataclasses

from optformer.data.prior import PriorConfig
from optformer.model import ModelConfig
from optformer.serialization.batch import BatchShape
from optformer.train.config import OptimizerConfig, TrainConfig


def get_config() -> TrainConfig:
    """The `nano` model on studies of up to 100 trials and 16 parameters, half of them of a corpus."""
    return TrainConfig(
        model=dataclasses.replace(ModelConfig.nano(), policy_recall=True),
        init="nano",
        prior=PriorConfig(infeasible_rate=0.3),
        shape=BatchShape(trials=100, slots=16, text=64, policy_trials=8),
        corpus_fraction=0.5,
        prior_steps=2,
        batch_size=32,
        accumulate=4,
        steps=6_000,
        optimizer=OptimizerConfig(matrix_learning_rate=4e-3, learning_rate=4e-4, warmup_steps=200),
        ema_decay=0.999,
        checkpoint_every=1000,
        eval_every=500,
        eval_batches=8,
    )
