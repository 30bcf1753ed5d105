"""The main job end to end, on real data, in under ten minutes on two CPU cores: `make demo`.

1. Log: Optuna tunes scikit-learn models on real data sets, into an Optuna database as any user would have.
2. Import: the database becomes a corpus.
3. Fine-tune: the shipped `nano` model is trained on the corpus, and on synthetic studies to prevent forgetting.
4. Tune: the fine-tuned model tunes three model/data pairs that are not in the log, compared with random search and
   Optuna's TPE, all with the same first trials.
5. Predict: log density of unseen trials on these pairs, compared with a uniform density and a fitted Gaussian process.
6. Look: predictions of the model in one of those studies, along each parameter, and the importance of parameters.
7. Compare: the shipped model as an Optuna sampler with TPE: with a pruner, with branches, with earlier studies.
8. Report: the page of one of these studies, as `optformer report --html` makes it.

The held-out pairs, and the studies of step 7, were chosen before the first run of this kind; pairs that were used for
development before are part of the log (`docs/laboratory.md`).
"""
