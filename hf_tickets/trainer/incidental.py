"""Which training arguments bear on the result, known without importing transformers."""

_INCIDENTAL_PREFIXES = (
    "logging_", "log_", "save_", "hub_", "push_to_hub", "report_to", "run_name", "disable_tqdm", "do_",
    "dataloader_num_workers", "dataloader_pin", "dataloader_prefetch", "dataloader_persistent", "output_dir",
    "resume_from", "local_rank", "ddp_", "_n_gpu", "n_gpu", "project", "trackio", "eval_accumulation",
    "per_device_eval", "debug", "skip_memory", "include_num", "deepspeed_plugin", "distributed_state",
    "restore_callback", "enable_jit", "use_cpu",
)  # fmt: skip


def is_incidental(name: str) -> bool:
    """Whether a training argument says where and how to report, save and load, not what is computed."""
    return name.startswith(_INCIDENTAL_PREFIXES)
