"""The card of a ticket: metadata that the Hub takes, text that does nothing but be read."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, get_token
from markdown_it import MarkdownIt
from markdown_it.token import Token

import hf_tickets
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.ticket.card import make_card, plain, save_card
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.tags import rung_tags
from hf_tickets.ticket.ticket import Ticket
from hub import cards
from hub.server import Hub
from hub.tickets import BASE, NAME, SPARSITIES, TAGS, draw_quickly, masks, provenance, ticket_on

FIGURES = [{"file": "layers.png", "caption": "remaining weights by layer"}]


def ticket(**fields: Any) -> Ticket:
    return Ticket(masks(), provenance(masks(), **fields))


def tokens(card: ModelCard) -> list[Token]:
    """What Markdown makes of a card's text, with the insides of paragraphs in line."""
    blocks = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(card.text)
    return [inner for token in blocks for inner in (token, *(token.children or []))]


def shape(card: ModelCard) -> list[str]:
    """The kinds of tokens; texts and entities that follow each other count as one."""
    kinds = [token.type for token in tokens(card)]
    kinds = ["text" if kind in ("text_special", "softbreak") else kind for kind in kinds]
    return [kind for number, kind in enumerate(kinds) if kind != "text" or kinds[number - 1] != "text"]


def shown(card: ModelCard) -> str:
    """The text that a reader sees."""
    return "".join(token.content for token in tokens(card) if token.type in ("text", "text_special", "code_inline"))


@pytest.fixture
def pushed(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    """The card of a ticket on the Hub, as its users load it."""
    draw_quickly(monkeypatch)
    ticket_on(hub).push_to_hub(NAME)
    return ModelCard.load(NAME)


def test_the_metadata_says_what_the_hub_and_its_users_look_for(pushed: ModelCard) -> None:
    data = pushed.data.to_dict()
    expected = {
        "library_name": "hf_tickets",
        "base_model": BASE,
        "base_model_relation": "adapter",
        "pipeline_tag": "text-classification",
        "datasets": ["nyu-mll/glue"],
        "metrics": ["accuracy"],
        "license": "mit",
    }
    assert {key: data.get(key) for key in expected} == expected
    assert {"lottery-ticket", "pruning", "sparsity", "magnitude-pruning"} <= set(data["tags"])


def test_the_ticket_block_says_what_the_ticket_is(hub: Hub, pushed: ModelCard) -> None:
    block = pushed.data.to_dict()["ticket"]
    mask, config = masks()[-1], ticket().config
    expected = {
        "sparsity": pytest.approx(0.9, abs=1e-4),
        "remaining": pytest.approx(0.1, abs=1e-4),
        "prunable": mask.numel,
        "kept": mask.kept,
        "rungs": [pytest.approx(value, abs=1e-4) for value in SPARSITIES],
        "amount": 0.2,
        "rounds": 3,
        "scope": "backbone",
        "distribution": "global",
        "rewind": config.rewind,
        "seeds": config.seeds,
        "mask_digest": mask.digest,
        "theta0_digest": config.theta0_digest,
        "base_model_revision": hub.commits(BASE)[0].oid,
        "versions": config.versions,
    }
    assert {key: block.get(key) for key in expected} == expected
    assert "magnitude" in block["method"]


def test_the_model_index_has_every_rungs_results(pushed: ModelCard) -> None:
    results = pushed.data.eval_results
    assert results is not None
    found = {(result.metric_type, result.metric_name, result.metric_value) for result in results}
    values = (0.91, 0.885, 0.7)
    assert found == {
        ("accuracy", f"accuracy at sparsity {mask.sparsity:.4f}", value)
        for mask, value in zip(masks(), values, strict=True)
    }
    assert {(result.task_type, result.dataset_type, result.dataset_name) for result in results} == {
        ("text-classification", "nyu-mll/glue", "cola")
    }
    assert pushed.data.model_name == "ticket"


def test_the_card_of_a_tag_is_about_its_rung(hub: Hub, pushed: ModelCard) -> None:
    for tag, mask in zip(TAGS, masks(), strict=True):
        block = yaml.safe_load(hub.files(NAME, tag)["README.md"].decode().split("---\n")[1])
        assert block["ticket"]["mask_digest"] == mask.digest
        assert len(block["model-index"][0]["results"]) == 1


def table(card: ModelCard) -> list[list[str]]:
    """The cells of the card's table."""
    cells: list[list[str]] = []
    inside = False
    for token in tokens(card):
        if token.type == "tr_open":
            cells.append([])
        inside = {"td_open": True, "th_open": True, "td_close": False, "th_close": False}.get(token.type, inside)
        if inside and token.type == "inline":
            cells[-1].append(token.content)
    return cells


def test_the_table_has_a_row_a_rung() -> None:
    head, dense, *rungs = table(make_card(ticket(), NAME))
    assert head[:3] == ["sparsity", "weights kept", "accuracy"]
    assert dense[:3] == ["dense", f"{masks()[0].numel:,}", "0.9000 ± 0.0200"]
    for row, mask, result, matches, tag in zip(
        rungs, masks(), ("0.9100", "0.8850", "0.7000"), ("yes", "yes", "no"), TAGS, strict=True
    ):
        sparsity = f"{100 * mask.sparsity:.2f} %"
        assert row == [sparsity, f"{mask.kept:,}", f"{result} ± 0.0200", matches, tag]
    assert rung_tags(ticket().sparsities) == list(TAGS)


def test_the_default_named_is_the_one_taken() -> None:
    recorded = ticket(default_sparsity=masks()[1].sparsity)
    for made, expected in ((recorded, "0.7000"), (ticket(), "0.9000")):
        assert f"sparsity={expected}" in make_card(made, NAME).text
        assert f"{made.default_sparsity:.4f}" == expected


def test_a_card_speaks_of_the_default_whichever_rung_is_selected(tmp_path: Path) -> None:
    default = masks()[1]
    recorded = ticket(default_sparsity=default.sparsity)
    contents = set()
    for sparsity in (0.5, 0.7, 0.9):
        save_card(recorded.at(sparsity), tmp_path, NAME)
        contents.add(tuple((tmp_path / name).read_bytes() for name in ("README.md", "layers.png")))
    assert len(contents) == 1
    card = ModelCard.load(tmp_path / "README.md")
    block = card.data.to_dict()["ticket"]
    assert (block["kept"], block["mask_digest"]) == (default.kept, default.digest)
    assert block["sparsity"] == block["default_sparsity"] == pytest.approx(default.sparsity, abs=1e-6)
    share = f"{100 * (1 - default.sparsity):.2f} %"
    kept = f"{default.kept:,} of {default.numel:,} weights ({share})"
    assert f"3 nested masks, of which the default keeps {kept}" in shown(card)
    assert f"by layer at {100 * default.sparsity:.2f} %" in card.text


VARIANTS = {
    "all there is": ticket(),
    "nothing but masks": Ticket(masks(), TicketConfig()),
    "one rung": ticket().at(0.7).rung(),
    "no dense model": ticket(dense={}),
    "no results": ticket(rungs=[]),
    "results without a task": ticket(task={}),
    "a recipe": ticket(recipe={"task": {"dataset": "nyu-mll/glue"}, "pruning": {"amount": 0.2}}),
    "a base model of no licence": ticket(license=None),
    "a licence": ticket(license="apache-2.0"),
    "null results": ticket(rungs=[{"sparsity": 0.5, "metrics": {"accuracy": None}}] * 3),
    "rungs of another count": ticket(rungs=[{"sparsity": 0.5, "metrics": {"accuracy": 0.5}}]),
    "whole numbers": ticket(
        dense={"metrics": {"accuracy": 1}}, rungs=[{"sparsity": 0.5, "metrics": {"accuracy": 1}}] * 3
    ),
    "random pruning": ticket(pruning=PruningConfig(criterion="random").to_dict(), rewind={"rewind": "none"}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_card_is_valid_and_says_nothing_empty(hub: Hub, variant: str) -> None:
    card = make_card(VARIANTS[variant], NAME, ["mine"], FIGURES)
    card.validate()  # asks the Hub
    assert [request.status for request in hub.asked("POST", "/api/validate-yaml")] == [200]
    assert cards.check(card.content) == ([], [])
    for word in ("None", "nan", "{{", "{%", "Undefined"):
        assert word not in card.content.replace("sparsity=None", ""), word
    assert not [key for key, value in card.data.to_dict().items() if value in (None, "", [], {})]
    kinds = tokens(card)
    for number, token in enumerate(kinds):
        if token.type == "heading_close":
            rest = [following.type for following in kinds[number + 1 :]]
            assert rest, "a heading without text at the end"
            assert rest[0] != "heading_open" or kinds[number - 1].content == "", "a heading without text"
    assert "\n\n\n\n" not in card.text
    headings = re.findall(r"^##? (.+)$", card.text, re.M)
    assert headings[0] == "ticket"
    assert {"Use it", "Sparsities", "Limits", "Citation"} <= set(headings)


def test_how_it_was_found_is_the_whole_recipe() -> None:
    recipe = {"task": {"dataset": "nyu-mll/glue", "columns": ["a", "b"]}, "pruning": {"amount": 0.2}, "note": "ä\nb"}
    fences = [token.content for token in tokens(make_card(ticket(recipe=recipe), NAME)) if token.type == "fence"]
    assert recipe in [yaml.safe_load(content) for content in fences if content.startswith("task:")]
    without = [token for token in tokens(make_card(ticket(), NAME)) if token.type == "fence" and token.info == "yaml"]
    found = yaml.safe_load(without[0].content)
    assert found["pruning"] == ticket().config.pruning
    assert found["seeds"] == ticket().config.seeds
    bare = make_card(Ticket(masks(), TicketConfig()), NAME)
    assert "How it was found" not in bare.text


@pytest.mark.parametrize("family", ["text-classification", "image-classification", "masked-language-modeling", None])
def test_the_lines_of_code_are_python_of_names_that_exist(family: str | None) -> None:
    card = make_card(ticket(task={"family": family}), NAME)
    code = next(token.content for token in tokens(card) if token.type == "fence" and token.info == "python")
    compile(code, "card", "exec")
    assert len([line for line in code.splitlines() if line.strip()]) == 3
    names = re.findall(r"from hf_tickets import (.+)", code)[0].split(", ")
    assert all(getattr(hf_tickets, name) for name in names)
    assert f'"{NAME}"' in code


def test_the_pictures_are_there_and_shown(tmp_path: Path) -> None:
    save_card(ticket(), tmp_path, NAME)
    card = ModelCard.load(tmp_path / "README.md")
    images = [token.attrs["src"] for token in tokens(card) if token.type == "image"]
    assert sorted(images) == ["accuracy.png", "layers.png"]
    for image in images:
        assert (tmp_path / str(image)).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    rung = tmp_path / "rung"
    rung.mkdir()
    save_card(ticket().at(0.7).rung(), rung, NAME)
    assert {path.name for path in rung.iterdir()} == {"README.md", "layers.png"}


# Names that come from strangers.

HOSTILE = {
    "html": "<script>alert(1)</script>",
    "an attribute": '"><img src=x onerror=alert(1)>',
    "a comment": "<!-- hidden",
    "a link": "[click](javascript:alert(1))",
    "a reference": "[click][x]\n\n[x]: https://evil.example",
    "an autolink": "<https://evil.example>",
    "an image": "![x](https://evil.example/pixel.png)",
    "a table cell": "accuracy | 100 % | yes |\n| --- | --- |",
    "a code fence": "x\n```\n# Owned\n```\n",
    "tildes": "x\n~~~\n# Owned\n~~~",
    "a code span": "`` ` `",
    "a heading": "x\n# Owned\n\n## Owned",
    "an underlined heading": "x\n===\ny\n---\n",
    "a list": "- a\n- b\n1. c",
    "a quotation": "> quoted",
    "emphasis": "**bold** _it_ ~~gone~~ __all__ *x*",
    "an entity": "&lt;b&gt; &amp; &#60;",
    "a backslash": "a\\|b \\<i> \\",
    "a document": "mit\n---\n\n# Owned\n---\nlicense: other\n",
    "a yaml tag": "!!python/object/apply:os.system ['true']",
    "a yaml alias": "&a *a {x: [y]} # z",
    "yaml keys": "x: y\ntags: [owned]",
    "a template": "{{ 7 * 7 }}{% for x in y %}",
    "line separators": "a\u2028---\u2029b\x85c\x0b---\x0cd\r---\re",
    "terminal codes": "\x1b[31mred\x07\x00",
    "direction": "\u202eevil\u200b",
    "spaces": "   \t\n  ",
    "a long one": "long " * 500,
    "latex": "$$\\href{https://evil.example}{x}$$ \\(x\\)",
}


def readable(text: str) -> str:
    """What a reader sees of a text: one line, control codes replaced."""
    return re.sub("[\x00-\x1f\x7f]", "\ufffd", " ".join(text.split()))


def named(text: str) -> Ticket:
    """A ticket whose every name is the text."""
    rungs = [
        {
            "sparsity": mask.sparsity,
            "digest": mask.digest,
            "metrics": {text: 0.5, f"{text} too": 0.4},
            "std": {text: 0.1},
        }
        for mask in masks()
    ]
    return ticket(
        base_model=None,
        model_type=text,
        pruning=PruningConfig().to_dict() | {"criterion": text, "scope": text, "distribution": text},
        rewind={"rewind": text, text: text},
        task={"family": text, "dataset": text, "task": text, "metric": text},
        recipe={text: text, "nested": {"list": [text, {text: text}]}},
        seeds={text: 1},
        versions={text: text},
        dense={"metrics": {text: 0.6}, "std": {text: 0.1}},
        rungs=rungs,
    )


@pytest.mark.parametrize("case", HOSTILE)
def test_a_strangers_names_are_shown_and_do_nothing_else(case: str) -> None:
    text = HOSTILE[case]
    card = make_card(named(text), NAME, figures=FIGURES)
    assert cards.check(card.content) == ([], [])
    # The very structure of a card with harmless names.
    if text.strip():
        assert shape(card) == shape(make_card(named("harmless"), NAME, figures=FIGURES))
    types = {token.type for token in tokens(card)}
    assert not types & {"html_inline", "html_block", "link_open"}
    assert [token.attrs["src"] for token in tokens(card) if token.type == "image"] == ["layers.png"]
    assert readable(text) in " ".join(shown(card).split())
    # The metadata holds it as it is, and nothing else by it.
    data = yaml.safe_load(card.content.split("\n---\n")[0].removeprefix("---\n"))
    assert set(data) == {"library_name", "metrics", "tags", "model-index", "ticket"}
    assert data["ticket"]["versions"] == {text: text}
    assert {result["dataset"]["name"] for result in data["model-index"][0]["results"]} == {text}
    recipe = [token.content for token in tokens(card) if token.type == "fence" and token.info == "yaml"]
    assert [yaml.safe_load(content) for content in recipe] == [named(text).config.recipe]


@pytest.mark.parametrize("case", HOSTILE)
def test_a_base_models_name_and_licence_do_nothing_else_either(case: str) -> None:
    text = HOSTILE[case]
    card = make_card(ticket(base_model=text, license=text), NAME)
    assert shape(card) == shape(make_card(ticket(base_model="harmless", license="mit"), NAME)) or not text.strip()
    data = yaml.safe_load(card.content.split("\n---\n")[0].removeprefix("---\n"))
    assert (data["license"], data["base_model"]) == (text, text)
    assert "tags" in data
    assert data["tags"] == make_card(ticket(), NAME).data.tags


def test_a_link_leads_to_the_base_model_and_nowhere_else() -> None:
    card = make_card(ticket(), NAME)
    links = [str(token.attrs["href"]) for token in tokens(card) if token.type == "link_open"]
    assert len(links) == 1
    assert links[0].endswith(f"/{BASE}")


@pytest.mark.parametrize("run", ["```", "`" * 4, "`" * 9, "~~~~"])
def test_the_fence_is_longer_than_any_within(run: str) -> None:
    card = make_card(ticket(recipe={"note": f"{run}\n# Owned", f"{run}python": [run]}), NAME)
    yaml_fences = [token for token in tokens(card) if token.type == "fence" and token.info == "yaml"]
    assert len(yaml_fences) == 1
    assert len(yaml_fences[0].markup) > (len(run) if run[0] == "`" else 2)
    assert yaml.safe_load(yaml_fences[0].content) == {"note": f"{run}\n# Owned", f"{run}python": [run]}
    assert "Owned" not in [token.content for token in tokens(card) if token.type == "inline"]


@pytest.mark.parametrize("case", HOSTILE)
def test_plain_text_is_one_line_that_reads_the_same(case: str) -> None:
    written = plain(HOSTILE[case])
    assert "\n" not in written
    assert not set(written) & set("<>[]()`*|\\!{}$~\"'")
    inline = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parseInline(f"x {written} x")
    assert {token.type for token in inline[0].children or []} <= {"text", "text_special"}
    read = "".join(token.content for token in inline[0].children or [])
    assert " ".join(read.split()) == f"x {readable(HOSTILE[case])} x".replace("  ", " ")


def test_a_secret_is_in_no_card(pushed: ModelCard) -> None:
    token = get_token()
    assert token
    assert token not in pushed.content


def test_a_damaged_config_still_makes_a_card(tmp_path: Path) -> None:
    """What a stranger's JSON may hold in place of numbers and names."""
    strange: list[Any] = ["x", None, [], {}, True, -1, 1e400, float("nan"), 10**400]
    for value in strange:
        rungs = [{"sparsity": value, "metrics": {"accuracy": value, "": value}, "std": value, "digest": value}] * 3
        config = replace(
            ticket().config,
            task={"family": value, "dataset": value, "metric": value, "greater_is_better": value},
            pruning={"criterion": value, "rounds": value, "amount": value, "scope": value},
            rewind={"rewind": value},
            dense={"metrics": {"accuracy": value}, "std": {"accuracy": value}},
            rungs=rungs,
        )
        card = make_card(Ticket(masks(), config), NAME)
        assert cards.check(card.content) == ([], []), value


def test_a_sparsity_that_is_no_number_is_not_drawn(tmp_path: Path) -> None:
    rungs = [{"sparsity": value, "metrics": {"accuracy": 0.5}} for value in ("half", 0.7, 0.9)]
    save_card(ticket(rungs=rungs), tmp_path, NAME)
    assert (tmp_path / "accuracy.png").exists()
