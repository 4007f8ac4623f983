"""The report of a study: what its page says, where its numbers lead, and the files beside it."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pandas
import pytest
from made_up import dense, frame, masks_of, row, tickets, transfer_study

from hf_tickets.errors import RunFolderError
from hf_tickets.studies.report import write_report

HOSTILE = "<script>alert('x')</script>"


class Page(HTMLParser):
    """A page's links, images, titles and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[tuple[str, str]] = []  # address, text
        self.sources: list[str] = []
        self.names: set[str] = set()
        self.titles: set[str] = set()
        self.text = ""
        self._address: str | None = None
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.sources += [found[name] for name in ("src", "srcset", "data", "action") if name in found]
        self.names |= {found[name] for name in ("id",) if name in found}
        self.titles |= {found[name] for name in ("title",) if name in found}
        if tag == "a":
            self._address = found["href"]
            self.links.append((self._address, ""))

    def handle_endtag(self, tag):
        if tag == "a":
            self._address = None

    def handle_data(self, data):
        self.text += data
        if self._address is not None:
            self.links[-1] = (self._address, self.links[-1][1] + data)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    results, settings = transfer_study(("mrpc", "mlm"))
    folder = tmp_path_factory.mktemp("figure2") / "report"
    path = write_report(results, settings, masks_of(settings), folder)
    return results, settings, path, Page(path)


def test_the_page_is_one_file_that_needs_nothing_else(study):
    _, _, path, page = study
    assert path.name == "index.html"
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "iframe"} & set(page.tags)
    text = path.read_text()
    assert "@import" not in text
    assert "url(" not in text
    assert not any("//" in address for address, _ in page.links)


def test_every_result_is_on_the_page_and_leads_to_its_run(study):
    results, _, _, page = study
    done = results[results["status"] == "done"]
    addresses = {address for address, _ in page.links}
    for run in done.to_dict("records"):
        assert f"../{run['folder']}/" in addresses
        assert repr(float(run["value"])) in page.titles
        assert any(text == f"{run['value']:.4f}" for address, text in page.links if address == f"../{run['folder']}/")


def test_means_lead_to_the_rows_of_their_runs(study):
    results, _, _, page = study
    inside = {address[1:] for address, _ in page.links if address.startswith("#")}
    assert inside <= page.names
    level = results[(results["control"] == "dense") & (results["target"] == "mlm") & (results["kind"] == "training")]
    linked = [address for address, text in page.links if text == f"{level['value'].mean():.4f}"]
    assert linked
    assert all(address.startswith("#runs-") for address in linked)


def test_failed_and_missing_cells_are_told_with_their_reason(study):
    _, _, _, page = study
    assert "2 cells of this study failed." in page.text
    assert "RuntimeError: loss is nan at step 120" in page.text
    assert "OSError: [Errno 28] No space left" in page.text
    assert "not run yet" in page.text


def test_all_parts_of_a_transfer_study_are_there(study):
    _, _, path, page = study
    sections = {"winning", "transfer", "accuracy", "controls", "overlap", "searches", "cost", "holes", "runs"}
    assert sections | {"settings"} <= page.names
    pictures = {file.stem for file in path.parent.glob("*.png")}
    assert pictures == {"transfer-50", "transfer-70", "accuracy", "controls", "overlap-50", "overlap-70", "searches"}
    assert len(page.sources) == len(pictures)
    beside = {address for address, _ in page.links if address.endswith((".png", ".csv"))}
    assert all((path.parent / address).is_file() for address in beside)


def test_tables_are_the_same_when_read_again(study):
    results, _, path, _ = study
    again = pandas.read_csv(path.parent / "results.csv")
    columns = ["kind", "source", "target", "control", "status", "error", "folder", "key"]
    pandas.testing.assert_frame_equal(again[columns], results[columns], check_dtype=False)
    numbers = ["sparsity", "wanted", "seed", "value", "steps", "seconds"]
    read, written = again[numbers].astype(float), results[numbers].astype(float)
    pandas.testing.assert_frame_equal(read, written, check_exact=True)
    metrics = [json.loads(text) for text in again["metrics"].fillna("null")]
    assert metrics == [value if isinstance(value, dict) else None for value in results["metrics"]]
    matrix = pandas.read_csv(path.parent / "transfer-50.csv")
    counts = matrix[matrix["dark"] == True].groupby("row").size()  # noqa: E712
    assert all(matrix[matrix["row"] == name]["dark_count"].iloc[0] == count for name, count in counts.items())


def test_text_of_a_stranger_is_shown_and_does_nothing_else(tmp_path):
    results = frame(
        dense(HOSTILE, [0.8, 0.81], metric=HOSTILE),
        tickets(HOSTILE, HOSTILE, [0.8, 0.81], metric=HOSTILE, folder='cells/"><b>&#1$'),
        [row(source=HOSTILE, target=HOSTILE, seed=3, status="failed", value=None, error=f"KeyError: {HOSTILE}")],
    )
    settings = {"description": HOSTILE, "sources": [HOSTILE], "targets": {HOSTILE: 1}, "name": HOSTILE}
    page = Page(write_report(results, settings, {}, tmp_path / "study" / "report"))
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert page.text.count(HOSTILE) > 5
    assert f"KeyError: {HOSTILE}" in page.text
    assert "../cells/%22%3E%3Cb%3E%26%231%24/" in {address for address, _ in page.links}


def test_a_study_of_one_source_has_no_transfer_and_one_seed_no_verdict(tmp_path):
    results = frame(dense("cola", [0.8]), tickets("cola", "cola", [0.79]))
    page = Page(write_report(results, {"sparsities": [0.5]}, {}, tmp_path / "study" / "report"))
    assert {"winning", "controls", "runs"} <= page.names
    assert not {"transfer", "overlap", "searches", "holes", "accuracy"} & page.names
    assert "nan" not in page.text
    assert "–" in page.text


def test_a_search_alone_and_a_study_that_has_not_begun_have_pages(tmp_path):
    rounds = [
        row(kind="search", target=None, sparsity=sparsity, wanted=float("nan"), key="search", value=0.8)
        for sparsity in (0.0, 0.5)
    ]
    page = Page(write_report(frame(rounds), {}, {}, tmp_path / "search" / "report"))
    assert "searches" in page.names
    assert "winning" not in page.names
    waiting = frame([row(status="waiting", value=None, steps=None, seconds=None, metric=None, metrics=None)])
    page = Page(write_report(waiting, {}, {}, tmp_path / "waiting" / "report"))
    assert {"holes", "runs"} <= page.names
    assert "not run yet" in page.text


def test_a_report_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "report").write_text("in the way")
    with pytest.raises(RunFolderError, match="cannot write the report"):
        write_report(frame(dense("cola", [0.8])), {}, {}, tmp_path / "report")
    with pytest.raises(RunFolderError, match="no kind, source"):
        write_report(pandas.DataFrame({"value": [1]}), {}, {}, tmp_path / "other")
