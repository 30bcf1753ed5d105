"""The main job end to end, on real data, in under ten minutes on two CPU cores: `make demo`.

1. Log: Optuna tunes scikit-learn models on real data sets, into an Optuna database as any user would have.
2. Import: the database becomes a corpus.
3. Fine-tune: the shipped `nano` model reads the corpus, and synthetic studies so as not to forget.
4. Tune: the fine-tuned model tunes three model/data pairs that were kept out of the log, beside random search and
   Optuna's TPE, all with the same first trials.
5. Predict: log density of unseen trials on the kept-out pairs, beside a uniform density and a fitted Gaussian process.
6. Look: what the model has made of one of those studies, along each parameter and by its importance.
7. Compare: the shipped model as an Optuna sampler, beside TPE: with a pruner, with branches, with earlier studies.
8. Report: the page of one of these studies, as `optformer report --html` makes it.

The kept-out pairs were named before the first run of this kind; those that served for development before are part of
the log (`docs/laboratory.md`).  So were the studies of step 7.
"""
