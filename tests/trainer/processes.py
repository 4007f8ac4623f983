"""A search in several processes, of which each calls `main`: `FOLDER [DIE_AT [ROUNDS [BACKEND]]]`.

DIE_AT is the number of optimizer steps, counted over rounds, after which the last process kills itself; 0 for never,
and below 0 it raises an error instead.
BACKEND is ddp, zero1, zero2, zero3, fsdp2, or one of them with what is switched on: fsdp2-checkpointing, zero3-bf16,
zero2-batchnorm, ddp-dropout, ddp-slow.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate.state import DistributedType, PartialState
from tiny import PruningConfig, TicketTrainer, arguments, bert, images, resnet, sentences
from torch.distributed.fsdp import CPUOffloadPolicy
from transformers import TrainerCallback, TrainingArguments, training_args

with suppress(ImportError):
    from deepspeed.utils import safe_get_full_fp32_param

from hf_tickets.pruning.scope import backbone
from hf_tickets.pruning.shards import cut, local
from hf_tickets.ticket.matching import canonical_parameters


class Die(TrainerCallback):
    """Ends its process after so many steps, without a word, or with an error."""

    def __init__(self, steps: int) -> None:
        self.left, self.speaks = abs(steps), steps < 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0 and self.speaks:
            raise OSError("the scratch disk is gone")
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Zeros(TrainerCallback):
    """Says in the first process how many pruned weights were not zero after a step."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.revived = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        ticket = self.trainer._rounds.holder.ticket
        if ticket is not None:
            weights = canonical_parameters(backbone(kwargs["model"]))
            pruned = [local(weights[name]).detach()[~cut(kept, weights[name])] for name, kept in ticket.mask.items()]
            if args.deepspeed is not None:  # the copies that its optimizer works on
                pruned += [safe_get_full_fp32_param(weights[name])[~kept] for name, kept in ticket.mask.items()]
            self.revived += sum(int(values.count_nonzero()) for values in pruned)


def arguments_for(backend: str, folder: Path, **changes: Any) -> TrainingArguments:
    """Training arguments for a backend."""
    if backend == "ddp-slow":
        changes["ddp_timeout"] = 10
    if backend.startswith("ddp"):
        return arguments(folder, **changes)
    if backend.startswith("zero"):
        os.environ |= {"DS_ACCELERATOR": "cpu", "ACCELERATE_USE_DEEPSPEED": "true"}
        PartialState(backend="gloo")
        # transformers takes bf16 outside use_cpu, which DeepSpeed does not bear, for what GPUs do.
        training_args.is_torch_bf16_gpu_available = lambda: True
        deepspeed = {
            "zero_optimization": {"stage": int(backend[4]), "stage3_gather_16bit_weights_on_model_save": True},
            "zero_force_ds_cpu_optimizer": False,
            "zero_allow_untested_optimizer": True,
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
            "gradient_clipping": "auto",
            "bf16": {"enabled": "auto"},
        }
        return arguments(
            folder,
            deepspeed=deepspeed,
            accelerator_config={"use_configured_state": True},
            bf16=backend.endswith("bf16"),
            **{**changes, "use_cpu": False},
        )
    config = {
        "version": 2,
        "transformer_layer_cls_to_wrap": ["BertLayer"],
        "activation_checkpointing": backend == "fsdp2-checkpointing",
    }
    args = arguments(folder, fsdp=True, fsdp_config=config, bf16=backend == "fsdp2-bf16", **changes)
    # Accelerate takes FSDP for what GPUs do; nothing else keeps it from the CPU.
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    if backend == "fsdp2-offload":  # without page-locked memory, which only GPUs have
        args.fsdp_plugin_args["cpu_offload"] = CPUOffloadPolicy(pin_memory=False)
    return args


def main() -> None:
    folder = Path(sys.argv[1])
    die_at = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    backend = sys.argv[4] if len(sys.argv) > 4 else "ddp"
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    zeros = Zeros()
    callbacks = [zeros, *([Die(die_at)] if die_at and rank == processes - 1 else [])]
    args = arguments_for(
        backend,
        folder,
        per_device_train_batch_size=8 // processes,
        gradient_accumulation_steps=2,
        max_grad_norm=0.05,
        num_train_epochs=2,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=1,
        eval_strategy="epoch",
        weight_decay=0.1,
    )
    with_images = backend.endswith("batchnorm")
    examples = images if with_images else sentences
    trainer = TicketTrainer(
        resnet() if with_images else bert(dropout=0.1 if backend.endswith("dropout") else 0.0),
        args,
        train_dataset=examples(48),
        eval_dataset=examples(12, 60),
        pruning=PruningConfig(amount=0.4, rounds=rounds),
        callbacks=callbacks,
    )
    zeros.trainer = trainer
    if backend == "ddp-slow" and rank == 0:  # as where the ticket is written to, or pushed over, a slow line
        finish = trainer._rounds.folder.finish
        trainer._rounds.folder.finish = lambda result: (time.sleep(15), finish(result))
    trainer.train()
    assert trainer.ticket is not None
    digests = " ".join(rung.digest for rung in trainer.ticket.ladder.rungs)
    sys.stderr.write(f"rank {rank} of {trainer.args.world_size} revived {zeros.revived} digests {digests}\n")


if __name__ == "__main__":
    main()
