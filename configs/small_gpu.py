"""The `small` model on the synthetic prior: meant for 12 minutes of one H200.

    optformer train small_gpu --workdir DIR --max-minutes 12
    optformer train small_gpu --workdir DIR --export small-1

`python -m optformer.train` takes the same arguments on a machine without Vizier.  To test
the command on a CPU (the same rates, a tiny model, two steps):

    optformer train small_gpu --workdir DIR --set model=tiny --set batch_size=8 --set shape.trials=12 \\
        --set optimizer.warmup_steps=1 --set steps=2 --set prior.families=bowl:1 --set prior.behaviours=random_search:1

Hardware: one GPU with 80 GB or more; bfloat16.
Time: not measured.  `steps` is a guess: a step takes between 3.5 ms (all element-wise work fused) and 61 ms (none), by
`python benchmarks/roofline.py --config small_gpu --bandwidth 4.8e12`; at 25 ms with the prior, the run takes ten
minutes, and two are left for compilation.  Set `steps` by the speed in the first lines of the log.
Score: not yet run.
"""

from optformer.model import ModelConfig
from optformer.serialization.batch import BatchShape
from optformer.train.config import OptimizerConfig, TrainConfig


def get_config() -> TrainConfig:
    """The `small` model on studies of up to 96 trials and 16 parameters."""
    return TrainConfig(
        model=ModelConfig.small(),
        shape=BatchShape(trials=96, slots=16, text=96, policy_trials=8),
        prior_steps=4,
        batch_size=256,
        steps=24_000,
        # The rates of `nano` for runs of this length.  With higher ones, losses fall faster for some thousand steps and
        # then rise (docs/decisions/0025-muon-rate.md).
        optimizer=OptimizerConfig(
            matrix_learning_rate=0.008, learning_rate=1e-3, measured_on="nano", warmup_steps=500, weight_decay=0.05
        ),
        ema_decay=0.9995,
        checkpoint_every=5_000,
        checkpoint_minutes=4.0,
        log_every=100,
        eval_every=2_500,
        eval_batches=4,
    )
