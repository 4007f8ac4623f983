"""A ticket held by the trainers that people have: transformers', TRL's, sentence-transformers', and PEFT's models."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from trainer.tiny import Held, arguments, bert, sentences
from transformers import BertTokenizer, PreTrainedTokenizerFast, Trainer

import hf_tickets
from hf_tickets import Mask, PruningCallback, PruningConfig, Ticket, TicketTrainer
from hf_tickets.errors import TicketMismatchError
from hf_tickets.pruning.prune import prune
from hf_tickets.ticket.config import CONFIG_FILE
from hf_tickets.ticket.ladder import LADDER_FILE
from hub.server import Hub
from hub.tickets import BASE, NAME, local_base, masks, put_base, ticket_on, tiny_model

MASK_FILES = {CONFIG_FILE, LADDER_FILE}


def data(count: int = 12) -> list[dict[str, Any]]:
    return [{**row, "input_ids": row["input_ids"] % 50} for row in sentences(count)]


def classifier(source: Any, **options: Any) -> Any:
    return hf_tickets.AutoTicketModelForSequenceClassification.from_pretrained(source, **options)


def assert_held(model: Any, mask: Mask, start: dict[str, torch.Tensor]) -> None:
    """Pruned weights are +0, and of the others some have been trained."""
    parameters = dict(model.named_parameters())
    trained = 0
    for name, kept in mask.items():
        full = next((known for known in parameters if f".{known}".endswith(f".{name}")), None)
        if full is None and name.startswith("pooler."):
            continue
        assert full is not None, name
        weight = parameters[full].detach()
        assert not weight.view(torch.int32)[~kept].any(), name
        assert int((weight == 0).sum()) == int((~kept).sum()), name
        trained += full in start and not torch.equal(weight, start[full] * kept)
    assert trained


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("given", ["id", "ticket"])
def test_a_stock_trainer_holds_a_ticket_of_the_hub(hub: Hub, tmp_path: Path, given: str) -> None:
    ticket_on(hub, default_sparsity=0.7).push_to_hub(NAME)
    model = bert_of_the_hub()
    start, held = weights(model), Held(masks()[1])
    source = NAME if given == "id" else Ticket.from_pretrained(NAME)
    args = arguments(tmp_path / "run", max_steps=4, weight_decay=0.1)
    Trainer(model, args, train_dataset=data(), callbacks=[PruningCallback(source), held]).train()
    assert (held.steps, held.faults) == (4, [])
    assert_held(model, masks()[1], start)


def bert_of_the_hub() -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(BASE)


def test_a_stock_training_is_resumed_at_the_rung_it_held(hub: Hub, tmp_path: Path) -> None:
    """Its checkpoint tells which rung of the ladder the weights belong to."""
    ticket = ticket_on(hub).at(0.7)
    for steps, resume in ((2, None), (4, str(tmp_path / "checkpoint-2"))):
        args = arguments(tmp_path, max_steps=steps, save_strategy="steps", save_steps=2)
        model = bert_of_the_hub()
        Trainer(model, args, train_dataset=data(), callbacks=[PruningCallback(ticket)]).train(resume)
        saved = Ticket.from_pretrained(tmp_path / f"checkpoint-{steps}")
        assert saved.mask.digest == masks()[1].digest
    assert_held(model, masks()[1], {**weights(tiny_model())})


def test_a_ticket_trainer_takes_the_models_own_ticket(hub: Hub, tmp_path: Path) -> None:
    ticket_on(hub).push_to_hub(NAME)
    model = classifier(NAME, sparsity=0.7, num_labels=2)
    start, held = weights(model), Held(masks()[1])
    args = arguments(tmp_path / "run", max_steps=4, save_strategy="steps", save_steps=2)
    trainer = TicketTrainer(model=model, args=args, train_dataset=data(), callbacks=[held])
    assert trainer.ticket is not None
    trainer.train()
    assert (held.steps, held.faults) == (4, [])
    assert_held(model, masks()[1], start)
    trainer.save_model(str(tmp_path / "tuned"))
    assert Ticket.from_pretrained(tmp_path / "tuned").mask.digest == masks()[1].digest
    assert Ticket.from_pretrained(tmp_path / "run" / "checkpoint-2").mask.digest == masks()[1].digest
    # Reloaded, it is trained on with its mask held.
    again = type(model).from_pretrained(tmp_path / "tuned")
    start = weights(again)
    resumed = TicketTrainer(
        again, arguments(tmp_path / "more", max_steps=2), train_dataset=data(), ticket=Ticket.from_model(again)
    )
    resumed.train()
    assert_held(again, masks()[1], start)


def test_another_ticket_goes_before_the_models_own(hub: Hub, tmp_path: Path) -> None:
    ticket = ticket_on(hub)
    model = classifier(ticket, sparsity=0.5)
    args = arguments(tmp_path / "run", max_steps=2)
    TicketTrainer(model=model, args=args, train_dataset=data(), ticket=ticket.at(0.9)).train()
    assert_held(model, masks()[2], {**weights(tiny_model())})


def test_a_model_with_a_ticket_can_be_searched_further(hub: Hub, tmp_path: Path) -> None:
    model = classifier(ticket_on(hub), sparsity=0.5)
    pruning = PruningConfig(sparsities=[0.8])
    trainer = TicketTrainer(model=model, args=arguments(tmp_path, max_steps=2), train_dataset=data(), pruning=pruning)
    trainer.train()
    assert trainer.ticket is not None
    assert trainer.ticket.sparsities == (pytest.approx(0.8, abs=1e-4),)


def words_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of single letters, made on the spot."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"[PAD]": 0, "[UNK]": 1, "</s>": 2, **{letter: 3 + i for i, letter in enumerate("abcdefghij")}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **options)


def test_trls_trainer_holds_a_ticket(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=13, max_position_embeddings=32))
    ticket = Ticket(prune(model, PruningConfig(criterion="random"), sparsity=0.6))
    start, held = weights(model), Held(ticket.mask)
    config = trl.SFTConfig(
        str(tmp_path), max_steps=3, per_device_train_batch_size=2, learning_rate=1e-2, report_to="none", use_cpu=True,
        bf16=False, save_strategy="steps", save_steps=3, disable_tqdm=True, max_length=16,
    )  # fmt: skip
    texts = Dataset.from_dict({"text": ["a b c d", "b c d e", "c d e f", "d e f g", "e f g h", "f g h i"]})
    trl.SFTTrainer(
        model, args=config, train_dataset=texts, processing_class=words_tokenizer(),
        callbacks=[PruningCallback(ticket), held],
    ).train()  # fmt: skip
    assert (held.steps, held.faults) == (3, [])
    assert_held(model, ticket.mask, start)
    assert Ticket.from_pretrained(tmp_path / "checkpoint-3").mask.digest == ticket.mask.digest


def test_sentence_transformers_trainer_holds_a_ticket(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    from datasets import Dataset

    folder = local_base(tmp_path / "base")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
    BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(folder)
    model = library.SentenceTransformer(str(folder), device="cpu")
    ticket = Ticket(masks()[1])
    start, held = weights(model), Held(ticket.mask)
    args = library.SentenceTransformerTrainingArguments(
        str(tmp_path / "run"), max_steps=3, per_device_train_batch_size=2, learning_rate=1e-2, report_to="none",
        use_cpu=True, save_strategy="steps", save_steps=3, disable_tqdm=True,
    )  # fmt: skip
    first, second = ["a b", "c d", "e f", "g h"], ["b a", "d c", "f g", "h i"]
    pairs = Dataset.from_dict({"sentence1": first, "sentence2": second, "score": [1.0, 0.8, 0.2, 0.1]})
    trainer = library.SentenceTransformerTrainer(
        model=model, args=args, train_dataset=pairs, callbacks=[PruningCallback(ticket), held]
    )
    trainer.train()
    assert (held.steps, held.faults) == (3, [])
    assert_held(model, ticket.mask, start)
    assert Ticket.from_pretrained(tmp_path / "run" / "checkpoint-3").mask.digest == ticket.mask.digest
    model.save_pretrained(str(tmp_path / "saved"))
    again = library.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert_held(again, ticket.mask, start)


def lora(model: Any) -> Any:
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS"))


def test_adapters_on_a_ticket(hub: Hub, tmp_path: Path) -> None:
    """The zeros of the frozen base stay; merging fills them, and applying the ticket again empties them."""
    ticket = ticket_on(hub).at(0.7)
    model = bert_of_the_hub()
    ticket.apply(model)
    sparse = weights(model)
    adapted = lora(model)
    Trainer(adapted, arguments(tmp_path, max_steps=3, learning_rate=0.1), train_dataset=data()).train()
    for name, kept in ticket.mask.items():
        full = f"base_model.model.bert.{name}"
        full = full if full in dict(adapted.named_parameters()) else full.replace(".weight", ".base_layer.weight")
        weight = adapted.get_parameter(full)
        assert torch.equal(weight, sparse[f"bert.{name}"]), name
        assert not weight[~kept].any(), name
    merged = adapted.merge_and_unload()
    filled = {name: weight.clone() for name, weight in merged.named_parameters()}
    touched = [name for name, kept in ticket.mask.items() if filled[f"bert.{name}"][~kept].any()]
    assert touched
    assert all(".query." in name or ".value." in name for name in touched)
    ticket.apply(merged, verify="off")
    for name, kept in ticket.mask.items():
        assert torch.equal(merged.get_parameter(f"bert.{name}"), filled[f"bert.{name}"] * kept), name


@pytest.mark.parametrize("how", ["apply", "merge", "PruningCallback", "TicketTrainer", "TicketSwitch"])
def test_a_ticket_on_adapters_is_refused_in_one_line(hub: Hub, tmp_path: Path, how: str) -> None:
    ticket, model = ticket_on(hub), lora(bert_of_the_hub())
    before, args = weights(model), arguments(tmp_path, max_steps=1)
    attempts = {
        "apply": lambda: ticket.apply(model),
        "merge": lambda: ticket.merge(model),
        "PruningCallback": lambda: Trainer(
            model, args, train_dataset=data(), callbacks=[PruningCallback(ticket)]
        ).train(),
        "TicketTrainer": lambda: TicketTrainer(model, args, train_dataset=data(), ticket=ticket),
        "TicketSwitch": lambda: hf_tickets.TicketSwitch(model).add("ticket", ticket),
    }
    with pytest.raises(TicketMismatchError, match="carries PEFT adapters") as refused:
        attempts[how]()
    assert "\n" not in str(refused.value)
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def pushing(folder: Path, **changes: Any) -> Any:
    defaults = {"push_to_hub": True, "hub_model_id": "me/tuned", "hub_always_push": True}
    return arguments(folder, **{**defaults, "save_strategy": "steps", "save_steps": 2, "max_steps": 4, **changes})


def trained_commits(hub: Hub, name: str = "me/tuned") -> dict[str, dict[str, bytes]]:
    """The commits of a repository that hold weights, by title."""
    repository = hub.repository(name)
    found = {f"{commit.title} {commit.oid[:6]}": commit.contents() for commit in repository.history("main")}
    return {title: files for title, files in found.items() if "model.safetensors" in files}


def assert_sparse(files: dict[str, bytes], mask: Mask, folder: str = "") -> None:
    """Weights and mask of a commit belong together."""
    from safetensors.torch import load

    assert {f"{folder}{name}" for name in MASK_FILES} <= set(files)
    state = load(files[f"{folder}model.safetensors"])
    for name, kept in mask.items():
        assert not state[f"bert.{name}"][~kept].any(), name


def read(files: dict[str, bytes], folder: Path, prefix: str = "") -> Ticket:
    folder.mkdir(parents=True)
    for name in MASK_FILES:
        (folder / name).write_bytes(files[f"{prefix}{name}"])
    return Ticket.from_pretrained(folder)


class Waits:
    """Waits for each push, in place of one upload while the next checkpoint is written."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        super()._push_from_checkpoint(checkpoint_folder)
        self._finish_current_push()
        assert [job.exception() for job in self.push_in_progress.jobs if job.exception()] == []


@pytest.mark.parametrize("trainer_class", [Trainer, TicketTrainer])
def test_a_checkpoint_that_is_being_uploaded_is_not_touched(
    hub: Hub, tmp_path: Path, trainer_class: type[Trainer]
) -> None:
    """The upload runs beside the training: a file that comes or goes meanwhile, if only for a moment, ends it."""
    seen: list[tuple[Path, dict[str, tuple[int, int]]]] = []

    def files(folder: Path) -> dict[str, tuple[int, int]]:
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}

    class Watched(Waits, trainer_class):
        def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
            super()._push_from_checkpoint(checkpoint_folder)
            seen.append((Path(checkpoint_folder), files(Path(checkpoint_folder))))

    ticket = ticket_on(hub).at(0.7)
    options = {"ticket": ticket} if trainer_class is TicketTrainer else {"callbacks": [PruningCallback(ticket)]}
    args = pushing(tmp_path / "run", hub_strategy="all_checkpoints")
    Watched(bert_of_the_hub(), args, train_dataset=data(), **options).train()
    assert len(seen) == 2
    for folder, before in seen:
        after = files(folder)
        assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == set()


@pytest.mark.parametrize("trainer_class", [Trainer, TicketTrainer])
@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_each_push_of_a_training_carries_the_mask(
    hub: Hub, tmp_path: Path, trainer_class: type[Trainer], strategy: str
) -> None:
    ticket = ticket_on(hub).at(0.7)
    args = pushing(tmp_path / "run", hub_strategy=strategy)
    options = {"ticket": ticket} if trainer_class is TicketTrainer else {"callbacks": [PruningCallback(ticket)]}
    trainer = type("Waiting", (Waits, trainer_class), {})(bert_of_the_hub(), args, train_dataset=data(), **options)
    trainer.train()
    trainer.push_to_hub()
    commits = trained_commits(hub)
    assert len(commits) >= 3  # two saves and the end
    for number, files in enumerate(commits.values()):
        assert_sparse(files, masks()[1])
        assert read(files, tmp_path / f"commit-{number}").mask.digest == masks()[1].digest
    newest = next(iter(commits.values()))
    places = {
        "every_save": [],
        "checkpoint": ["last-checkpoint/"],
        "all_checkpoints": ["checkpoint-2/", "checkpoint-4/"],
    }
    for place in places[strategy]:
        assert_sparse(newest, masks()[1], place)
    assert Ticket.from_pretrained("me/tuned", cache_dir=tmp_path / "cache").mask.digest == masks()[1].digest
    assert_no_paths(newest, tmp_path)


def assert_no_paths(files: dict[str, bytes], folder: Path) -> None:
    for name in (CONFIG_FILE, "README.md"):
        assert str(folder).encode() not in files[name], name


@pytest.mark.parametrize("trainer_class", [Trainer, TicketTrainer])
def test_a_push_at_the_end_alone(hub: Hub, tmp_path: Path, trainer_class: type[Trainer]) -> None:
    ticket = ticket_on(hub).at(0.7)
    options = {"ticket": ticket} if trainer_class is TicketTrainer else {"callbacks": [PruningCallback(ticket)]}
    args = pushing(tmp_path / "run", hub_strategy="end")
    trainer = trainer_class(bert_of_the_hub(), args, train_dataset=data(), **options)
    trainer.train()
    assert trained_commits(hub) == {}
    trainer.push_to_hub()
    (files,) = trained_commits(hub).values()
    assert_sparse(files, masks()[1])


def test_the_card_of_a_tuned_ticket_has_its_tags(hub: Hub, tmp_path: Path) -> None:
    ticket, args = ticket_on(hub).at(0.7), pushing(tmp_path / "run", hub_strategy="end")
    trainer = TicketTrainer(bert_of_the_hub(), args, train_dataset=data(), ticket=ticket)
    trainer.train()
    trainer.push_to_hub(tags="mine")
    assert {"lottery-ticket", "pruning", "sparsity", "mine"} <= set(ModelCard.load("me/tuned").data.tags)


def search(folder: Path, **changes: Any) -> TicketTrainer:
    pruning = PruningConfig(amount=0.4, rounds=2)
    return TicketTrainer(
        bert_of_the_hub(), pushing(folder, max_steps=2, **changes), train_dataset=data(), pruning=pruning
    )


def test_a_search_pushes_its_ticket_after_each_round(hub: Hub, tmp_path: Path) -> None:
    put_base(hub)
    trainer = search(tmp_path / "run")
    trainer.train()
    titles = [commit.title for commit in hub.commits("me/tuned") if commit.title.startswith("Round")]
    assert titles == ["Round 2", "Round 1"]
    first = next(commit for commit in hub.commits("me/tuned") if commit.title == "Round 1")
    assert len(read(first.contents(), tmp_path / "first").sparsities) == 1
    files = hub.files("me/tuned")
    assert "model.safetensors" not in files
    pulled = Ticket.from_pretrained("me/tuned", cache_dir=tmp_path / "cache")
    assert pulled.sparsities == trainer.ticket.sparsities
    assert pulled.config.base_model == BASE
    assert pulled.config.base_model_revision == hub.commits(BASE)[0].oid
    tags = {name for name in hub.references("me/tuned") if name.startswith("refs/tags/")}
    assert tags == {"refs/tags/sparsity-0.40", "refs/tags/sparsity-0.64"}
    before = hub.references("me/tuned")
    trainer.push_to_hub(tags=["mine"])
    assert "mine" in ModelCard.load("me/tuned").data.tags
    assert hub.references("me/tuned")["refs/heads/main"] != before["refs/heads/main"]


def test_a_search_goes_on_without_the_hub(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put_base(hub)
    trainer = search(tmp_path / "run")
    fault = hub.fail("/commit/", method="POST", status=403, times=None)
    with caplog.at_level(logging.WARNING, "hf_tickets"):
        trainer.train()
    assert fault.hits >= 2
    told = [record.getMessage() for record in caplog.records if "was not pushed" in record.getMessage()]
    assert [message.split()[1] for message in told] == ["1", "2"]
    assert all("\n" not in message for message in told)
    assert len(trainer.history) == 3
    assert CONFIG_FILE not in hub.files("me/tuned")
    fault.times = 0
    trainer.push_to_hub()
    assert Ticket.from_pretrained("me/tuned", cache_dir=tmp_path / "cache").sparsities == trainer.ticket.sparsities


def test_a_search_with_the_strategy_end_pushes_when_it_is_told_to(hub: Hub, tmp_path: Path) -> None:
    put_base(hub)
    trainer = search(tmp_path / "run", hub_strategy="end")
    with pytest.raises(hf_tickets.TicketsError, match=r"call train\(\) first"):
        trainer.push_to_hub()
    trainer.train()
    assert CONFIG_FILE not in hub.files("me/tuned")
    trainer.push_to_hub("All of it")
    assert {commit.title for commit in hub.commits("me/tuned")} >= {"All of it"}
    assert Ticket.from_pretrained("me/tuned", cache_dir=tmp_path / "cache").sparsities == trainer.ticket.sparsities


def test_a_search_on_a_model_made_here_sends_its_weights_along(hub: Hub, tmp_path: Path) -> None:
    """No folder and no repository has them."""
    model = bert(seed=4)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    args = pushing(tmp_path / "run", max_steps=2, hub_strategy="checkpoint")
    pruning = PruningConfig(amount=0.4, rounds=1)
    trainer = TicketTrainer(model, args, train_dataset=sentences(), pruning=pruning)
    trainer.train()
    loaded = classifier("me/tuned", num_labels=2, cache_dir=tmp_path / "cache")
    for name, kept in trainer.ticket.mask.items():
        assert torch.equal(loaded.get_parameter(f"bert.{name}"), start[f"bert.{name}"] * kept), name
    config = json.loads(hub.files("me/tuned")[CONFIG_FILE])
    assert config["base_model"] is None
    assert str(tmp_path) not in json.dumps(config)
