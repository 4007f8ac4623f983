"""Answers from logits, and their score, against the official script's rules worked out by hand."""

import numpy as np
import pytest
from torchmetrics.functional.text import squad as torchmetrics_squad

from hf_tickets.tasks.answer_metrics import Squad, normalise
from hf_tickets.tasks.answers import AnswerSearch, Window

TEXT = "In 1858, the Virgin Mary appeared."  # 7 tokens, the two marks alone
FIRST = [0, 3, 7, 9, 13, 20, 25]
LAST = [2, 7, 8, 12, 19, 24, 33]


def window(starts: dict[int, float], ends: dict[int, float], tokens: slice = slice(0, 7), null: float = 0.0) -> Window:
    """A class token, a question of two tokens, and these tokens of TEXT; logits by token of the text."""
    size = 3 + len(FIRST[tokens])
    logits = np.full((2, size), -5.0, dtype=np.float32)
    logits[:, 0] = null / 2
    logits[:, 1:3] = 50.0  # a model may point at the question, but no answer lies there
    for side, values in enumerate((starts, ends)):
        for token, value in values.items():
            logits[side, 3 + token - tokens.start] = value
    outside = [-1] * 3
    return Window(logits[0], logits[1], np.array(outside + FIRST[tokens]), np.array(outside + LAST[tokens]), 0)


def test_an_answer_is_cut_from_the_text_as_it_stands() -> None:
    answers = AnswerSearch()(TEXT, [window({3: 2.0, 1: 1.5}, {5: 3.0, 1: 1.0})])
    assert answers[0] == ("the Virgin Mary", 5.0)
    assert answers[1] == ("1858, the Virgin Mary", 4.5)
    assert "1858" in [answer.text for answer in answers]


def test_an_answer_ends_after_it_begins_and_is_not_too_long() -> None:
    backwards = [window({5: 9.0, 1: 1.0}, {4: 9.0, 5: 1.0})]
    assert AnswerSearch()(TEXT, backwards)[0] == ("1858, the Virgin", 10.0)
    assert AnswerSearch(max_length=2)(TEXT, backwards)[0] == ("Mary", 10.0)
    lengths = {len(answer.text.replace(",", " ,").split()) for answer in AnswerSearch(max_length=2)(TEXT, backwards)}
    assert lengths == {1, 2}


def test_the_best_of_all_windows_is_given_and_a_span_seen_twice_is_listed_once() -> None:
    windows = [window({1: 2.0}, {1: 2.0}, slice(0, 4)), window({4: 3.0, 3: 2.0}, {5: 3.0}, slice(2, 7))]
    answers = AnswerSearch()(TEXT, windows)
    assert answers[0] == ("Virgin Mary", 6.0)
    texts = [answer.text for answer in answers]
    assert len(texts) == len(set(texts))
    assert [answer.score for answer in answers] == sorted((answer.score for answer in answers), reverse=True)


def test_a_list_of_the_n_best_equals_the_first_of_all_pairs() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 7))
    said = window(dict(enumerate(logits[0])), dict(enumerate(logits[1])))
    every = sorted(
        ((logits[0, i] + logits[1, j], TEXT[FIRST[i] : LAST[j]]) for i in range(7) for j in range(i, min(i + 3, 7))),
        reverse=True,
    )
    answers = AnswerSearch(n_best=7, max_length=3)(TEXT, [said])
    assert [answer.text for answer in answers] == [text for _, text in every[:7]]


@pytest.mark.parametrize(("threshold", "given"), [(0.0, ""), (0.9, ""), (1.1, "Mary"), (-3.0, "")])
def test_no_answer_is_given_where_its_score_leads_by_more_than_the_threshold(threshold: float, given: str) -> None:
    windows = [window({5: 1.0}, {5: 1.0}, null=3.0), window({}, {}, slice(0, 2), null=7.0)]
    answers = AnswerSearch(null_threshold=threshold)(TEXT, windows)
    assert answers[0].text == given  # the lowest null score of all windows counts: 3, one more than the answer's 2
    assert ("", 3.0) in answers
    assert AnswerSearch(null_threshold=None)(TEXT, windows)[0].text == "Mary"


def test_a_context_without_a_token_has_no_answer() -> None:
    assert AnswerSearch()("", [window({}, {}, slice(0, 0))])[0].text == ""


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Virgin,\tMary!", "virgin mary"),
        ("an apple a day", "apple day"),
        ("Anthea's theatre", "antheas theatre"),  # articles are whole words
        ("U.S.A.", "usa"),
        ("“the” A", "“ ”"),  # the script knows ASCII punctuation alone
        ("a", ""),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("answer", "gold", "exact", "f1"),
    [
        ("The Virgin Mary.", ["virgin mary"], 1, 1),
        ("Virgin Mary of Lourdes", ["Mary", "the Virgin Mary"], 0, 2 / 3),  # 2 of 4 words, 2 of 2
        ("in 1858", ["1858", "the year 1858"], 0, 2 / 3),
        ("mary mary", ["mary"], 0, 2 / 3),  # a word counts as often as it is right
        ("Joseph", ["Mary", "Anne"], 0, 0),
        ("", [], 1, 1),
        ("Mary", [], 0, 0),
        ("", ["Mary"], 0, 0),
    ],
)
def test_exact_match_and_f1(answer: str, gold: list[str], exact: float, f1: float) -> None:
    result = Squad().compute(predictions=[answer], references=[gold])
    assert result == {"exact_match": exact, "f1": pytest.approx(f1)}


def test_questions_with_and_without_an_answer_are_told_apart() -> None:
    result = Squad(unanswerable=True).compute(
        predictions=["Mary", "", "Anne", "in 1858"], references=[["Mary"], [], [], ["1858", "it was 1858"]]
    )
    assert result == {
        "exact_match": 0.5,
        "f1": pytest.approx((1 + 1 + 0 + 2 / 3) / 4),
        "HasAns_exact": 0.5,
        "HasAns_f1": pytest.approx((1 + 2 / 3) / 2),
        "NoAns_exact": 0.5,
        "NoAns_f1": 0.5,
    }


def test_the_scores_of_many_answers_are_those_of_torchmetrics() -> None:
    generator = np.random.default_rng(1)
    words = ["the", "a", "Mary", "mary,", "in", "1858", "Lourdes.", "of"]

    def text() -> str:
        return " ".join(generator.choice(words, size=generator.integers(1, 5)))

    given = [text() for _ in range(200)]
    gold = [[right for right in (text(), text()) if normalise(right)] or ["Mary"] for _ in range(200)]
    reference = torchmetrics_squad(
        [{"id": str(i), "prediction_text": answer} for i, answer in enumerate(given)],
        [{"id": str(i), "answers": {"text": right, "answer_start": [0]}} for i, right in enumerate(gold)],
    )
    result = Squad().compute(predictions=given, references=gold)
    assert result == {name: pytest.approx(float(value) / 100) for name, value in reference.items()}
    assert 0 < result["exact_match"] < result["f1"] < 1
