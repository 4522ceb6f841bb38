"""The key that somebody meant who knows another tool, or mistyped it."""

from collections.abc import Sequence

from recipes.core.spelling import nearest

# Key -> the last segments by which other tools call it. Where several keys have a name, the first that a recipe has.
NAMES = {
    "trainer.learning_rate": "lr learning_rate peak_lr max_lr base_lr eta step_size",
    "trainer.max_steps": "steps max_step num_steps iterations iters max_iters total_steps max_duration "
    "epochs epoch num_epochs max_epochs num_train_epochs n_epochs",
    "trainer.batch_size": "batch bs batch_size batchsize global_batch_size train_batch_size",
    "trainer.micro_batch_size": "per_device_train_batch_size per_device_batch_size device_batch_size micro_batch mbs "
    "gradient_accumulation_steps grad_accum accumulate_grad_batches accumulation",
    "trainer.precision": "fp16 bf16 amp mixed_precision half precision",
    "trainer.dtype": "torch_dtype weight_dtype model_dtype param_dtype",
    "trainer.attention": "attn_implementation attn attention_implementation use_flash_attention flash_attention",
    "trainer.compile": "torch_compile",
    "trainer.workers": "num_workers dataloader_num_workers n_workers",
    "trainer.early_stopping.metric": "early_stopping monitor metric_for_best_model",
    "trainer.early_stopping.patience": "early_stopping_patience patience",
    "trainer.adam_epsilon": "eps epsilon adam_eps",
    "trainer.nproc": "gpus num_gpus devices n_gpu nproc_per_node num_processes world_size",
    "trainer.nodes": "nnodes num_nodes num_machines machines hosts",
    "trainer.device": "accelerator cuda gpu cpu use_cpu no_cuda",
    "trainer.threads": "num_threads n_threads omp_num_threads",
    "trainer.weight_decay": "wd decay l2",
    "trainer.warmup_ratio": "warmup warmup_steps num_warmup_steps",
    "trainer.max_grad_norm": "clip grad_clip gradient_clip_val clip_grad_norm",
    "trainer.schedule": "scheduler lr_scheduler lr_scheduler_type",
    "trainer.optimizer": "optim opt",
    "trainer.save_steps": "save_every checkpoint_every ckpt_interval",
    "trainer.log_steps": "logging_steps log_every log_every_n_steps log_interval",
    "trainer.gradient_checkpointing": "activation_checkpointing checkpointing recompute",
    "outputs": "output_dir out_dir save_dir log_dir output run_dir dir",
    "seed": "random_seed manual_seed rng",
    "arm": "experiment method variant algo algorithm",
    "tracker": "wandb logger report_to logging",
    "tracker.project": "wandb_project project_name experiment_name",
    "tracker.name": "run_name wandb_run_name exp_name",
    "tracker.tags": "wandb_tags",
    "data": "dataset datasets datamodule corpus",
    "data.path": "dataset_path data_path data_dir data_files train_file file dataset_name",
    "model.path": "model_name_or_path model_path model_name checkpoint pretrained pretrained_model_name_or_path "
    "revision model_revision",
    "model": "model_name_or_path model_path model_name checkpoint pretrained pretrained_model_name_or_path",
    "data.max_tokens": "max_length max_len seq_len seq_length block_size max_seq_len max_seq_length context",
    "data.length": "max_length max_len seq_len seq_length block_size max_seq_len max_seq_length context",
    "preference.beta": "beta dpo_beta",
    "lora.rank": "r lora_r rank lora_rank",
}
REMARKS = {
    "epoch": "steps = epochs x examples / trainer.batch_size",
    "warmup_steps": "a share of the steps",
    "num_warmup_steps": "a share of the steps",
    "accum": "a batch of trainer.batch_size is accumulated from forwards of this size",
    "fp16": "auto, fp32 or bf16",
    "wandb": "wandb or none",
    "revision": "owner/name@REVISION",
}


def nearest_key(key: str, known: Sequence[str], groups: Sequence[str] = ()) -> str:
    """What to type for a key that a recipe lacks: "did you mean X?", or where all keys are shown.

    Arguments as in `likely_keys`.
    """
    meant = likely_keys(key, known, groups)
    if not meant:
        return "steelyard list RECIPE shows all keys"
    remark = next((f" ({text})" for word, text in REMARKS.items() if word in key.lower()), "")
    return f"did you mean {' or '.join(meant[:4])}?{remark}"


def likely_keys(key: str, known: Sequence[str], groups: Sequence[str] = ()) -> list[str]:
    """Keys that one which a recipe lacks may stand for, by what other tools call them, then by spelling.

    Args:
        key: What was typed.
        known: Keys of the recipe.
        groups: Its config groups, which may be typed as keys.
    """
    head, _, last = key.lower().rpartition(".")
    available = {*known, *groups}
    if meant := [name for name, words in NAMES.items() if last in words.split() and name in available]:
        return meant[:1]
    if same := [name for name in known if name.rpartition(".")[2] == last]:
        return [name for name in same if name.partition(".")[0] == head.partition(".")[0]] or same
    close = nearest(key, [*known, *groups])
    return [close] if close else []
