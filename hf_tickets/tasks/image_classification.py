"""Image classification: any image dataset, any timm or transformers model."""

from torch.utils.data import Dataset
from transformers import default_data_collator

from hf_tickets.tasks.base import PreparedTask
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.image_data import read_images
from hf_tickets.tasks.image_models import image_format, load_image_model
from hf_tickets.tasks.images import ImageExamples, evaluation_transform, training_transform
from hf_tickets.tasks.metrics import ComputeMetrics
from hf_tickets.tasks.randomness import EpochCallback, SeededDataset


def prepare(config: TaskConfig) -> PreparedTask:
    """See `hf_tickets.tasks.registry.prepare`."""
    images = read_images(config)
    model = load_image_model(config, images.names)
    processor, size = image_format(config, model)
    evaluate = evaluation_transform(size)
    augment = training_transform(size, config.horizontal_flip) if config.augmentation else evaluate
    train_dataset = SeededDataset(images.training, augment, config.task_seed)

    def evaluated(examples: ImageExamples) -> SeededDataset:
        return SeededDataset(examples, evaluate, config.task_seed, fixed=True)

    evaluation_dataset: Dataset | dict[str, Dataset] = evaluated(images.evaluation)
    if images.validation is not None:
        evaluation_dataset = {"validation": evaluated(images.validation), "test": evaluated(images.evaluation)}
    return PreparedTask(
        model=model,
        train_dataset=train_dataset,
        evaluation_dataset=evaluation_dataset,
        data_collator=default_data_collator,
        compute_metrics=ComputeMetrics(["accuracy"]),
        metric="accuracy" if images.validation is None else "test_accuracy",
        processing_class=processor,
        callbacks=[EpochCallback(train_dataset)],
        provenance={
            **images.provenance,
            "image_size": list(size.size),
            "small_stem": config.small_stem,
            "augmentation": config.augmentation,
            "horizontal_flip": config.augmentation and config.horizontal_flip,
        },
    )
