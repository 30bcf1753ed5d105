"""Words used in hyperparameter tuning, from public documentation of the tools named, for training the vocabulary.

Each table is whitespace-separated; `vocabulary_training.py` composes studies from them.
"""

from typing import Final

PARAMETER_NAMES: Final[dict[str, str]] = {
    "sklearn": """
        alpha alpha_1 alpha_2 algorithm average base_score batch_size beta beta_1 beta_2 binarize bootstrap break_ties C
        cache_size ccp_alpha class_weight coef0 copy_X covariance_type criterion cv decision_function_shape degree
        dual early_stopping eigen_solver epsilon eps eta0 estimator fit_intercept fit_prior gamma hidden_layer_sizes
        init init_params initialization intercept_scaling iterated_power kernel l1_ratio l2_regularization lambda_1
        lambda_2 leaf_size learning_rate learning_rate_init loss max_bins max_depth max_features max_iter
        max_leaf_nodes max_samples max_subpopulation metric min_impurity_decrease min_samples min_samples_leaf
        min_samples_split min_weight_fraction_leaf momentum multi_class n_clusters n_components n_estimators n_init
        n_iter_no_change n_jobs n_neighbors n_nonzero_coefs n_quantiles n_restarts_optimizer nesterovs_momentum
        noise_level normalize normalize_y nu oob_score outlier_fraction p penalty positive power power_t
        preprocessor quantile reg_covar reg_param resampling_strategy scaler score_func selection selector shrinkage
        shrinking shuffle sigma smoothing solver splitter store_covariance strategy subsample svd_solver tol
        validation_fraction var_smoothing warm_start weights whiten max_no_improvement reassignment_ratio
        affinity linkage damping preference bandwidth n_bins encode tfidf__max_df tfidf__min_df tfidf__ngram_range
        clf__C clf__alpha clf__penalty svc__C svc__gamma pca__n_components vect__max_features feature_selection
        imputation imputer_strategy k_best percentile n_features_to_select polynomial_degree interaction_only
        include_bias knn_n_neighbors rf_n_estimators rf_max_depth rf_max_features rf_min_samples_leaf svm_c svm_gamma
        svm_kernel mlp_hidden mlp_alpha ridge_alpha lasso_alpha elastic_net_alpha elastic_net_l1_ratio
        gp_length_scale gp_alpha length_scale extra_trees_n_estimators hist_gbr_learning_rate hist_gbr_max_iter
        num_trees sample_fraction mtry replace respect_unordered_factors sample.fraction min.node.size cp minsplit
        minbucket maxdepth num.trees num.random.splits splitrule lambda s cost shrink k distance M ef ef_construction
    """,
    "boosting": """
        alpha bagging_fraction bagging_freq bagging_temperature boost_from_average booster boosting boosting_type
        border_count cat_l2 cat_smooth colsample_bylevel colsample_bynode colsample_bytree depth drop_rate
        early_stopping_rounds eta extra_trees feature_fraction feature_fraction_bynode gamma grow_policy iterations
        l2_leaf_reg lambda lambda_l1 lambda_l2 leaf_estimation_iterations leaf_estimation_method learning_rate
        linear_lambda max_bin max_cat_threshold max_cat_to_onehot max_ctr_complexity max_delta_step max_depth max_drop
        max_leaves min_child_samples min_child_weight min_data_in_bin min_data_in_leaf min_gain_to_split
        min_split_gain min_split_loss min_sum_hessian_in_leaf model_size_reg n_estimators normalize_type nrounds
        num_boost_round num_iterations num_leaves num_parallel_tree objective one_drop one_hot_max_size
        other_rate path_smooth random_strength rate_drop refresh_leaf reg_alpha reg_lambda rsm sample_type
        sampling_method scale_pos_weight score_function sketch_eps skip_drop subsample subsample_for_bin
        subsample_freq top_rate tree_method tweedie_variance_power uniform_drop xgboost_dart_mode is_unbalance
        xgb_learning_rate xgb_max_depth xgb_n_estimators xgb_subsample xgb_colsample_bytree xgb_reg_alpha
        xgb_reg_lambda lgbm_learning_rate lgbm_num_leaves lgbm_max_depth lgbm_min_data_in_leaf lgbm_feature_fraction
        lgbm_bagging_fraction lgbm_lambda_l1 lgbm_lambda_l2 lgbm_n_estimators cat_learning_rate cat_depth
        cat_iterations cat_l2_leaf_reg min_data_per_group monotone_penalty
    """,
    "deep_learning": """
        accumulate_grad_batches activation activation_fn adam_beta1 adam_beta2 adam_epsilon amsgrad attention_dropout
        attention_heads augment augmentation_magnitude auto_augment base_lr batch batch_norm batch_size beta1 beta2
        bidirectional block_size bottleneck_dim channel_mult channels clip_grad_norm clip_value cnn_channels
        compression_ratio conv_channels conv_layers cooldown cosine_decay cutmix_alpha cutout_length d_ff d_model
        decay_factor decay_rate decay_steps decoder_layers depth depth_multiplier dilation dim_feedforward drop_path
        drop_path_rate dropout dropout_layer1 dropout_layer2 dropout_prob dropout_rate ema_decay embed_dim
        embedding_dim embedding_size encoder_layers end_learning_rate epochs epsilon expansion_factor fc_dim
        feature_dim ffn_dim filters final_div_factor flip_prob focal_gamma freeze_layers gradient_accumulation_steps
        gradient_clip gradient_clip_val grad_clip group_norm_groups growth_rate head_dim hidden hidden_channels
        hidden_dim hidden_dims hidden_layers hidden_size hidden_units image_size init_scale initializer
        initial_learning_rate input_dropout kernel_initializer kernel_regularizer kernel_size kl_weight l1 l1_lambda l2
        l2_lambda l2_reg label_smoothing latent_dim layer_norm layer_norm_eps layers learning_rate learning_rate_decay
        log_lr loss_fn loss_type loss_weight lookback lr lr0 lr_backbone lr_decay lr_end lr_gamma lr_head lr_max
        lr_min lr_patience lr_schedule lr_scheduler lr_step_size lr_warmup_steps lrf lstm_hidden lstm_layers
        lstm_units margin max_epochs max_grad_norm max_lr max_norm memory_size milestones min_lr mixup mixup_alpha
        mlp_dim mlp_ratio model_name momentum n_blocks n_epochs n_filters n_heads n_hidden n_layers n_units
        n_units_l0 n_units_l1 n_units_l2 neg_per_pos negative_slope nesterov net_arch nhead noise_std norm_layer
        normalization num_blocks num_channels num_conv_layers num_decoder_layers num_encoder_layers num_epochs
        num_filters num_fc_layers num_groups num_heads num_hidden num_hidden_layers num_layers num_neighbors
        num_steps num_units num_warmup_steps num_workers opt opt_kw.lr opt_kw.weight_decay optimizer optimizer_kw
        optimizer_type out_channels output_dim padding patch_size patience peak_lr pct_start pool_size pooling
        pooling_type positional_encoding pos_weight pretrained prefetch proj_dim random_erasing recurrent_dropout
        reduction reduction_ratio regularization residual resolution rho rmsprop_alpha rnn_type rotation_degrees
        scale scheduler scheduler_gamma se_ratio seq_len sequence_length share_weights skip_connections smoothing
        spatial_dropout spectral_norm stem_width step_size steps_per_epoch stochastic_depth stride swa_lr
        teacher_forcing_ratio temperature test_batch_size train_batch_size triplet_margin units use_batch_norm
        use_bias use_layer_norm use_skip vocab_size warmup warmup_epochs warmup_fraction warmup_momentum
        warmup_proportion warmup_ratio warmup_steps wd weight_decay weight_decay_rate weight_init weight_norm
        width width_layer1 width_layer2 width_mult window_size zoneout box cls dfl hsv_h hsv_s hsv_v translate shear
        perspective flipud fliplr mosaic copy_paste close_mosaic unfreeze_epoch gnn_layers edge_dim heads readout
        num_gnn_layers message_dim aggregation beta_schedule num_timesteps diffusion_steps guidance_scale
        pred_len label_len e_layers d_layers moving_avg top_k num_kernels expand d_conv d_state horizon
    """,
    "language": """
        adapter_dim attention_probs_dropout_prob beam_size bias chunk_overlap chunk_size classifier_dropout
        context_length doc_stride dpo_beta early_exit embedding_dropout few_shot_k gradient_checkpointing
        hidden_dropout_prob kl_coef layerwise_lr_decay length_penalty lora_alpha lora_dropout lora_r lora_rank
        lora_target_modules max_length max_new_tokens max_seq_length max_source_length max_target_length
        mask_prob min_count min_p n_gram_range negative ngram_max no_repeat_ngram_size num_beams num_train_epochs
        per_device_train_batch_size prefix_length prompt_template quantization repetition_penalty rerank_k
        retrieval_k rope_theta score_threshold similarity_threshold soft_prompt_length span_length
        special_tokens speculative_tokens stopwords sublayer_dropout temperature tie_embeddings tokenizer top_k top_p
        typical_p use_idf vector_size window word_dropout word_ngrams
    """,
    "reinforcement": """
        actor_lr actor_hidden action_noise alpha_lr bc_weight buffer_size clip_coef clip_range clip_range_vf
        collect_steps conservative_weight critic_lr critic_hidden discount discount_factor entropy_coef ent_coef
        env_steps eps_decay eps_end eps_start epsilon_decay epsilon_end epsilon_start exploration_final_eps
        exploration_fraction exploration_initial_eps exploration_noise final_epsilon frame_skip frame_stack gae_lambda
        gradient_steps initial_temperature lambda_gae learning_starts log_std_init max_episode_steps mini_batch_size
        n_critics n_envs n_episodes n_minibatches n_quantiles n_sampled_goal n_step n_steps noise_clip noise_type
        normalize_advantage num_agents num_minibatches num_sgd_iter ortho_init per_alpha per_beta policy_delay
        policy_freq policy_lr policy_noise polyak ppo_epochs prioritized_replay_alpha q_lr reward_scale
        reward_shaping rollout_length rollout_steps sde_sample_freq sgd_minibatch_size start_steps
        target_entropy target_kl target_network_frequency target_policy_noise target_update_interval tau
        train_freq update_epochs update_every use_rms_prop use_sde value_coef value_loss_coef vf_coef v_max v_min
    """,
    "databases": """
        autovacuum_naptime autovacuum_vacuum_cost_limit autovacuum_vacuum_scale_factor bgwriter_delay
        bgwriter_lru_maxpages block_cache_size block_size bloom_bits checkpoint_completion_target checkpoint_timeout
        commit_delay commit_siblings compaction_style compression deadlock_timeout default_statistics_target
        driver_cores driver_memory effective_cache_size effective_io_concurrency executor_cores executor_memory
        from_collapse_limit geqo_threshold innodb_adaptive_hash_index innodb_buffer_pool_instances
        innodb_buffer_pool_size innodb_flush_log_at_trx_commit innodb_io_capacity innodb_log_buffer_size
        innodb_log_file_size innodb_read_io_threads innodb_thread_concurrency innodb_write_io_threads join_buffer_size
        join_collapse_limit key_buffer_size level0_file_num_compaction_trigger maintenance_work_mem max_background_jobs
        max_bytes_for_level_base max_connections max_parallel_workers max_parallel_workers_per_gather max_wal_size
        max_write_buffer_number memory_fraction min_wal_size num_executors parallelism partitions query_cache_size
        random_page_cost read_buffer_size replication_factor seq_page_cost shared_buffers shuffle_partitions
        sort_buffer_size spark.executor.memory spark.memory.fraction spark.sql.shuffle.partitions
        table_open_cache temp_buffers thread_cache_size tmp_table_size wal_buffers wal_writer_delay work_mem
        write_buffer_size broadcast_threshold
    """,
    "systems": """
        align arena_size batch_timeout_ms block_x block_y buffer_count cache_line cache_size chunk clock
        collapse compiler_flags concurrency congestion_window cpu_freq delay_ms fast_math fetch_size flag_O
        fuse_level gc_threads grid_x heap_size inline_limit inline_threshold interval ipc jvm_heap_mb
        keepalive_timeout l1_tile l2_tile latency_budget_ms loop_order loop_unroll machine_type max_clients
        max_inflight max_queue max_threads memory_limit_mb mtu n_replicas num_cpus num_gpus num_partitions
        num_reducers num_shards num_threads num_workers opt_level page_size pipeline_depth polling_interval
        prefetch_distance queue_depth queue_size rate_limit region replicas retry_limit schedule scheduling
        simd_width sndbuf split_k storage_class swappiness target_utilization tcp_rmem tensor_parallel threads
        tile_k tile_m tile_n tile_size tile_x tile_y timeout_s tp_size unroll unroll_factor use_huge_pages
        vector_width vectorize wave_size workers workgroup_size worker_threads zone_size
        -funroll-loops -finline-functions -ftree-vectorize -fomit-frame-pointer param.max-inline-insns-auto
        dequantize kv_cache_dtype max_batch_tokens max_num_seqs
    """,
    "science": """
        amplitude angle anneal_rate asset_weight band boost cell_size cfl charge coating_thickness
        concentration contact_time coupling current cutoff cutoff_radius cycles damping_ratio density depth_of_cut
        diameter displacement distance drag duration dwell_time energy entry_threshold exit_threshold feed_rate
        field_strength flow_rate flux force frequency friction gain gain_d gain_i gain_p gap gas_flow gate_voltage
        grid_spacing growth_time height humidity inner_radius integral_time Kd Ki Kp kd ki kp lag_window laser_power
        layer_height length ligand load lookback_period ma_fast ma_slow mass material max_position mesh_size
        mixing_ratio moisture nozzle_temperature outer_radius ph phase phi pitch position_size power_limit precursor
        pressure print_speed process_noise_cov pulse_width radius ratio reaction_time reagent residence_time
        rpm rsi_period sampling_rate scan_speed setpoint solvent spacing spin_speed spring_constant steps
        stoichiometry stop_loss strain stress substrate take_profit temperature tension theta thickness thrust
        time_constant tolerance torque trailing_stop turbulence velocity viscosity voltage volume water_content
        wavelength width_mm x x0 x1 x2 x3 x4 x5 x_0 x_1 x_2 x_3 x_4 y y0 y1 z zeta
        measurement_noise_cov population_size mutation_rate crossover_rate crossover_prob tournament_size elite_size
        n_generations inertia_weight cognitive_weight social_weight cooling_rate initial_temp evaporation_rate
        n_ants pheromone time_limit presolve cuts heuristics restart_base restarts branching node_selection
        rho_admm sigma_admm adaptive_rho scaling check_termination polish n_qubits n_shots ansatz_depth entanglement
    """,
    "pipeline": """
        balance_strategy binning categorical_encoding cutoff_frequency data_fraction encoder fold_count frame_length
        fmax fmin hop_length impute lag_1 lag_7 log_transform mel_bins n_fft n_folds n_lags n_mels n_mfcc noise_factor
        outlier_threshold oversample_ratio preprocessing resample resize_method rolling_window sample_rate
        sampling_strategy scaling_method seasonality_mode seasonality_prior_scale changepoint_prior_scale
        holidays_prior_scale changepoint_range smote_k_neighbors smote stemming train_fraction trim
        undersample_factor use_pca val_split window window_length wavelet yearly_seasonality p_order d_order q_order
        seasonal_order dataset dataset_len dataset_id dataset_fraction fidelity budget epoch repl trainsize
        threshold decision_threshold confidence_threshold iou_threshold nms_threshold cutoff_prob seed random_state
        model model_type classifier regressor architecture backbone encoder_name variant kind mode method use_feature
    """,
}

CATEGORIES: Final[tuple[str, ...]] = (
    "SGD Adam AdamW RMSprop Adagrad Adadelta Adamax NAdam RAdam Lion LAMB Adafactor LBFGS Rprop ASGD",
    "sgd adam adamw rmsprop adagrad lion adafactor nadam",
    "relu tanh gelu silu elu selu leaky_relu sigmoid swish softplus mish prelu identity hardswish glu",
    "ReLU Tanh GELU SiLU ELU LeakyReLU Sigmoid",
    "nn.ReLU nn.Tanh nn.GELU nn.SiLU nn.ELU nn.LeakyReLU",
    "linear poly rbf sigmoid precomputed cosine laplacian matern",
    "l1 l2 elasticnet none",
    "gini entropy log_loss",
    "squared_error absolute_error friedman_mse poisson huber epsilon_insensitive quantile",
    "sqrt log2 auto None",
    "True False",
    "true false",
    "yes no",
    "on off",
    "uniform distance",
    "auto ball_tree kd_tree brute",
    "lbfgs liblinear newton-cg newton-cholesky sag saga",
    "gbtree gblinear dart",
    "gbdt dart goss rf",
    "depthwise lossguide SymmetricTree Depthwise Lossguide",
    "exact approx hist gpu_hist",
    "Bayesian Bernoulli MVS No",
    "cosine linear constant polynomial exponential step onecycle plateau constant_with_warmup cosine_with_restarts",
    "StepLR CosineAnnealingLR ReduceLROnPlateau OneCycleLR ExponentialLR MultiStepLR None",
    "standard minmax robust maxabs quantile power none",
    "StandardScaler MinMaxScaler RobustScaler MaxAbsScaler QuantileTransformer PowerTransformer None",
    "mean median most_frequent constant knn",
    "balanced balanced_subsample None",
    "onehot ordinal target catboost frequency hashing binary",
    "mse mae rmse huber smooth_l1 cross_entropy bce focal dice hinge kl_div triplet contrastive",
    "resnet18 resnet34 resnet50 efficientnet_b0 vit_b_16 mobilenet_v3 densenet121 convnext_tiny vgg16 unet yolov8n",
    "bert-base-uncased roberta-base distilbert-base-uncased t5-small gpt2 deberta-v3-base llama-7b",
    "lstm gru rnn transformer cnn mlp tcn mamba",
    "random_forest gradient_boosting xgboost lightgbm catboost svm logistic_regression knn naive_bayes mlp ridge lasso",
    "RandomForest ExtraTrees XGBoost LightGBM CatBoost SVC LogisticRegression KNN",
    "glorot_uniform he_normal he_uniform lecun_normal xavier_uniform kaiming_normal orthogonal zeros truncated_normal",
    "batch layer instance group none rms_norm batch_norm layer_norm",
    "mean sum max attention cls last min concat",
    "reflect replicate zeros circular same valid",
    "euclidean manhattan minkowski chebyshev cosine hamming jaccard",
    "ward complete average single",
    "full tied diag spherical",
    "invscaling adaptive constant optimal",
    "small medium large xlarge tiny base huge",
    "low mid high none",
    "zlib lz4 snappy zstd gzip none",
    "lru lfu fifo arc",
    "static dynamic guided auto",
    "-O0 -O1 -O2 -O3 -Os -Ofast",
    "float32 float16 bfloat16 int8 int4 fp8 fp16 fp32 bf16",
    "n1-standard-4 n2-highmem-8 c5.xlarge m5.large p3.2xlarge",
    "us-east1 us-west1 europe-west4 asia-east1",
    "row column block cyclic",
    "water ethanol methanol acetone toluene DMF DMSO THF",
    "copper steel aluminum titanium glass quartz",
    "buy sell hold close open high low",
    "[64] [64,64] [128,64] [256,128] [256,256] [512,256,128]",
    "(50,) (100,) (100,50) (128,64,32)",
    "A B C D E",
    "a b c d e",
    "v1 v2 v3",
    "0 1 2 3 4",
    "10 20 50 100",
    "16 32 64 128 256 512 1024",
    "0.1 0.2 0.5 1.0",
)
"""Sets of categories that occur together."""

METRICS: Final[str] = """
    accuracy acc val_accuracy val_acc test_accuracy train_loss val_loss validation_loss loss test_loss objective
    objective_value value score cv_score mean_cv_score f1 f1_score f1_macro f1_weighted val_f1 precision recall auc
    roc_auc auroc pr_auc average_precision logloss log_loss cross_entropy nll brier_score mcc kappa error
    error_rate val_error misclassification rmse mse mae mape smape r2 neg_mean_squared_error
    neg_root_mean_squared_error neg_mean_absolute_error neg_log_loss explained_variance perplexity bleu rouge_l wer
    cer map map50 map50_95 iou mean_iou dice dice_score psnr ssim fid inception_score reward mean_reward
    episode_reward return episode_return success_rate ndcg ndcg_at_10 hit_rate mrr recall_at_10 latency
    latency_ms p99_latency throughput runtime wall_time training_time memory_mb cost energy power flops qps tps
    sharpe sharpe_ratio profit pnl max_drawdown total_return yield efficiency purity distance regret silhouette
    balanced_accuracy val_balanced_accuracy bits_per_byte elbo pinball_loss spearman pearson concordance_index y
"""

ALGORITHMS: Final[str] = """
    random_search grid_search shuffled_grid_search sobol quasi_random halton regularized_evolution hill_climb
    eagle_strategy firefly cma_es cmaes nsga2 nsga3 tpe multivariate_tpe gp gp_bandit gp_ucb gp_ucb_pe gp_ei
    bayesian_optimization smac hyperband bohb asha successive_halving differential_evolution particle_swarm
    simulated_annealing genetic_algorithm nelder_mead bocs heteroscedastic_gp turbo hebo optuna_tpe optuna_gp
    optuna_cmaes optuna_random vizier_gp_bandit vizier_random RandomSampler TPESampler GPSampler CmaEsSampler
    NSGAIISampler QMCSampler GridSampler coordinate_search trust_region local_search manual unknown population_based
"""

TITLE_WORDS: Final[str] = """
    convnet on cifar10 cifar100 mnist fashion imagenet svhn resnet tuning study optimization hyperparameter search
    hyperparameters experiment baseline final test run v1 v2 v3 model training transformer bert gpt finetuning
    fine-tuning classification regression segmentation detection forecasting ranking clustering translation language
    time series image text tabular audio speech graph recommendation anomaly fraud credit risk churn house prices
    digits iris wine breast cancer diabetes adult covertype higgs titanic california housing bike sharing sales
    xgboost lightgbm catboost random forest extra trees gradient boosting svm logistic ridge lasso knn mlp lstm
    gru cnn unet yolo gan vae diffusion autoencoder reinforcement learning ppo sac td3 dqn a2c cartpole
    lunar lander atari mujoco half cheetah hopper walker policy agent robot controller pid drone vehicle battery solar
    wind energy load demand price stock trading strategy portfolio crypto weather climate rainfall satellite
    medical patient ehr ecg eeg mri xray protein molecule drug material chemistry reaction yield process reactor
    database postgres mysql rocksdb spark query latency throughput compiler kernel matmul cache server cluster job
    scheduling simulation bbob sphere rastrigin rosenbrock ackley branin hartmann levy schwefel griewank
    weierstrass benchmark function problem surrogate dataset data small large full quick demo local prod nightly with
    for the of and using to in at by from best default new old no-name study_1 multi-objective single objective
    optimize optimise maximize minimize accuracy loss validation holdout fold cross prior seed trial trials openml task
    dataset_id flow nasbench hpobench lcbench yahpo pd1 hpo-b search_space instance scenario rbv2 iaml nb301
"""

DESCRIPTION_WORDS: Final[str] = """
    we tune the hyperparameters of a model on this dataset to find the best validation score with early stopping after
    epochs using data augmentation each trial trains for minutes on one gpu and reports final metric lower is better
    higher cross-validated folds baseline from last week including learning rate schedule regularization architecture
    choose settings that reduce cost while keeping quality please do not change batch size number of layers measured
    production traffic offline replay results are noisy repeated runs average over seeds
"""

COMMON_WORDS: Final[str] = """
    absolute acceptance action active adaptive add additional age air all angle area array axis background balance band
    base basic bias binary block body bottom bound branch bridge budget buffer build camera capacity category cell
    center central change channel check circle class client clip code coefficient color column component condition
    config constant contrast control copy core correction count cover cross current curve custom cut cycle day deep
    delay delta depth detail device difference digital dim direct direction discount display double down dynamic edge
    effect element end engine entropy entry environment error estimate event exponent external extra fast feature field
    file filter fine first flag flat flow fold force format forward frame free front function gap gate general global
    goal group hard head heat height high history hold hot hour hybrid id image importance index inner input
    instance integer intensity internal item key kind known label last late layer left length level life light limit
    line list load local lock log long loop low lower main major map mark mask match matrix mean medium member memory
    merge message method middle mini minimum minor minute mode modular month motion move multi multiplier name near
    negative network next node noise normal number offset one open operation option order origin other outer output
    over pair parallel parameter part path pattern peak per period phase pixel plan plane point pole pool position
    positive post power pre predict primary print private process product profile proportion public pull push quality
    quantity query queue random range rank rate raw read real record reduce reference region relative remove report
    request reset response result right ring root round row rule sample save second section selection self
    sensor sequence series server session set setup shape shared shift short side sign signal simple single size skip
    slope slot slow smooth soft sort source space span special speed split square stage standard start state static
    station step stop storage store stream strength string strong structure sub sum super supply surface switch symbol
    sync system table target task team temp term text third time top total track transfer transform transition tree
    trend type unit update upper use user value variable variance vector version vertical view virtual wait wall wave
    way week weight wide wind word work world write year zero zone
"""
