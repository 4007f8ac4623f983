"""SimCLR and MoCo in several processes: `torchrun contrastive_program.py FOLDER`.

Each process takes its share of one batch; the first writes what all of them found into FOLDER/METHOD.pt.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as distributed
from torch.nn.parallel import DistributedDataParallel
from transformers import TimmWrapperConfig

from hf_tickets.tasks.contrastive_model import ContrastiveModel
from hf_tickets.tasks.moco_model import MocoConfig, MocoModel
from hf_tickets.tasks.simclr_model import SimclrConfig, SimclrModel

IMAGES = 8


def make(method: str, groups: int = 1) -> ContrastiveModel:
    """A small model whose encoder has BatchNorm only where the method is MoCo."""
    torch.manual_seed(0)
    if method == "simclr":
        encoder = TimmWrapperConfig(architecture="test_vit", model_args={"img_size": 32})
        return SimclrModel(SimclrConfig(encoder_config=encoder, projection=[16, 8], projection_norm=False))
    encoder = TimmWrapperConfig(architecture="test_resnet")
    return MocoModel(
        MocoConfig(encoder_config=encoder, projection=[16, 8], queue_size=24, momentum=0.9, batch_norm_groups=groups)
    )


def batch(step: int) -> torch.Tensor:
    """Two views of the same images for any number of processes."""
    return torch.randn(IMAGES, 2, 3, 32, 32, generator=torch.Generator().manual_seed(step))


def train(model: torch.nn.Module, part: slice, steps: int = 3) -> list[torch.Tensor]:
    """The loss of each of a few steps of SGD."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = model(pixel_values=batch(step)[part]).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def without_statistics(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All that several processes agree on: of BatchNorm's statistics each has its own."""
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }


def main() -> None:
    distributed.init_process_group("gloo")
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    share = IMAGES // processes
    for method in ("simclr", "moco"):
        model = make(method)
        wrapped = DistributedDataParallel(model.train())
        losses = torch.stack(train(wrapped, slice(rank * share, (rank + 1) * share)))
        distributed.all_reduce(losses)
        states = [None] * processes
        distributed.all_gather_object(states, without_statistics(model))
        if rank == 0:
            torch.save({"losses": losses / processes, "states": states}, Path(sys.argv[1], f"{method}.pt"))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
