"""The review page in a real browser: journeys by keyboard, hostile cells, other sites, killed servers, accessibility."""

import io
import os
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fixtures.browser import SIZE, OwnHostOnly, open_browser, skip_or_fail
from tests.fixtures.commands import ROOT
from tests.fixtures.reviews import candidate, mapping, new_review, sample_mappings, served, served_by_process
from xsap.exchange.mapping import Equivalence, Signature, Status
from xsap.server.review_decisions import Choice
from xsap.server.review_store import read_review

TIMEOUT = 60_000  # milliseconds
SCREENSHOTS = os.environ.get("XSAP_SCREENSHOTS")  # `make screenshots` sets it


@pytest.fixture(scope="module")
def browser():
    with open_browser() as started:
        yield started


@pytest.fixture
def store(tmp_path):
    with_terms = new_review(tmp_path / "r.sqlite")
    yield with_terms
    with_terms.close()


@contextmanager
def opened(browser, address, **options):
    """The page, in a browser profile of its own; nothing may fail in it, and nothing may be asked of another host."""
    context = browser.new_context(viewport=SIZE, **options)
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    guard = OwnHostOnly(page, [address.split("/")[2]])
    page.goto(address)
    ready(page)
    try:
        yield page
    finally:
        context.close()
    assert (guard.foreign, guard.errors) == ([], [])


def ready(page):
    page.wait_for_selector("#list li.current")
    page.wait_for_function("() => document.querySelectorAll('#facets fieldset').length > 0")


def shown_name(page):
    return page.locator("#term-name").text_content()


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def press_and_wait(page, key, name):
    """Press a key, and wait until it is done and a term is shown: at the end of the list, the name alone says nothing."""
    page.keyboard.press(key)
    page.wait_for_selector("main[aria-busy=false]")
    page.wait_for_function("name => document.getElementById('term-name').textContent === name", arg=name)


def message(page, part):
    page.wait_for_function("part => document.getElementById('message').textContent.includes(part)", arg=part)


# A journey

JOURNEY = [
    *"jk",
    "ArrowDown",
    "ArrowUp",
    "Enter",
    *"a120fsr",
    "Enter",
    *"uujk0uxx31af",
    "Enter",
    *"kkfj20ssk1u",
    "Enter",
    *"ru",
]


class PlainPage:
    """What each key does, in plain Python: the list, where it is, and the actions that can be undone."""

    def __init__(self, mappings):
        self.terms = mappings
        self.decided = [(Status.UNREVIEWED, None)] * len(mappings)
        self.at, self.done = 0, []

    def press(self, key):
        found = self.terms[self.at].candidates
        if key in ("j", "ArrowDown", "s"):
            self.at = min(self.at + 1, len(self.terms) - 1)
        elif key in ("k", "ArrowUp"):
            self.at = max(self.at - 1, 0)
        elif key in ("Enter", "a"):
            chosen = self.decided[self.at][1] or (found[0].concept_id if found else None)
            if chosen:
                self.decide(Status.APPROVED, chosen)
        elif key in "123" and int(key) <= len(found):
            self.decide(Status.APPROVED, found[int(key) - 1].concept_id)
        elif key == "0":
            self.decide(Status.NO_MATCH, None)
        elif key == "r":
            self.decide(Status.REJECTED, None)
        elif key == "f":
            status, chosen = self.decided[self.at]
            self.decide(Status.FLAGGED, chosen or (found[0].concept_id if found else None))
        elif key == "u" and self.done:
            self.at, before = self.done.pop()
            self.decided[self.at] = before

    def decide(self, status, chosen):
        self.done.append((self.at, self.decided[self.at]))
        self.decided[self.at] = (status, chosen)
        self.at = min(self.at + 1, len(self.terms) - 1)


def decisions_of(path):
    found = read_review(path)
    return [
        (each.status, each.targets[0].concept_id if each.targets and each.status is not Status.UNREVIEWED else None)
        for each in found
    ]


def list_of(page):
    return page.locator("#list li").all_text_contents()


def test_journey_of_forty_keys_is_in_the_file_and_shown_again_after_reload(browser, store):
    assert len(JOURNEY) == 40
    plain = PlainPage(sample_mappings())
    with served(store) as address, opened(browser, address) as page:
        for key in JOURNEY:
            plain.press(key)
            press_and_wait(page, key, plain.terms[plain.at].source_name)
        message(page, "Undone")  # of the last key
        assert decisions_of(store.path) == plain.decided
        shown = list_of(page), page.locator("#term-state").text_content(), shown_name(page)
        page.reload()
        ready(page)
        assert (list_of(page), page.locator("#term-state").text_content(), shown_name(page)) == shown


def test_keys_pressed_without_waiting_act_on_one_term_each_and_reach_the_next_page(browser, tmp_path):
    store = new_review(tmp_path / "r.sqlite", sample_mappings(60))
    with served(store) as address, opened(browser, address) as page:
        page.locator("#list .term").nth(44).click()
        page.wait_for_function(
            "name => document.getElementById('term-name').textContent === name", arg=sample_mappings(60)[44].source_name
        )
        press(page, *("0f" * 4))
        message(page, f"{sample_mappings(60)[51].source_name}: flagged")
        assert page.locator("#page-number").text_content() == "page 2"
        statuses = [each.status for each in read_review(store.path)]
    assert statuses == [Status.UNREVIEWED] * 44 + [Status.NO_MATCH, Status.FLAGGED] * 4 + [Status.UNREVIEWED] * 8
    store.close()


def test_keys_decide_once_when_held_down_and_nothing_while_a_person_types(browser, store):
    with served(store) as address, opened(browser, address) as page:
        for field in ("#filter-text", "#search-text", "#note"):
            page.locator(field).focus()
            page.keyboard.type("a1 0frsuxj/?")
            assert page.locator(field).input_value() == "a1 0frsuxj/?"
            page.locator(field).fill("")
        page.keyboard.press("Escape")
        assert page.evaluate("() => document.activeElement.className") == "term"
        assert {each.status for each in read_review(store.path)} == {Status.UNREVIEWED}
        for _ in range(3):
            page.keyboard.down("0")
        page.keyboard.up("0")
        message(page, "no concept")
        press_and_wait(page, "j", sample_mappings()[2].source_name)
    assert [each.status for each in read_review(store.path)].count(Status.NO_MATCH) == 1


def test_note_equivalence_and_search_are_saved(browser, store):
    with served(store) as address, opened(browser, address) as page:
        press(page, "n")
        page.keyboard.type("ask the ward")
        press(page, "Escape")
        message(page, "note saved")
        press(page, "e")
        page.locator("#equivalence").select_option("wider")
        press(page, "Enter")
        press_and_wait(page, "2", sample_mappings()[1].source_name)
        press(page, "/")
        page.keyboard.type("жар")
        press(page, "Enter")
        page.wait_for_selector("#results .candidate")
        assert page.locator("#results .title").all_text_contents() == ["жар 0", "жар 1", "жар 2"]
        page.locator("#results button", has_text="Choose").nth(1).click()
        message(page, "as жар 1")
    first, second, *_ = read_review(store.path)
    assert (first.comment, first.equivalence, first.targets[0].concept_id) == (
        "ask the ward",
        Equivalence.WIDER,
        "A:101",
    )
    assert (second.status, second.targets[0].name, second.equivalence) == (
        Status.APPROVED,
        "жар 1",
        Equivalence.EQUIVALENT,
    )


def test_two_windows_do_not_lose_each_others_decisions(browser, store):
    with (
        served(store) as address,
        opened(browser, address) as mine,
        served(store, "Ben") as bens,
        opened(browser, bens) as other,
    ):
        press_and_wait(other, "0", sample_mappings()[1].source_name)
        press(mine, "Enter")
        message(mine, "Somebody else decided on this term meanwhile")
        assert "by Ben" in mine.locator("#term-state").text_content()
        assert shown_name(mine) == sample_mappings()[0].source_name
        press_and_wait(mine, "c", sample_mappings()[1].source_name)
    found = read_review(store.path)[0]
    assert (found.status, found.decided.by, found.confirmed.by) == (Status.NO_MATCH, "Ben", "Ann")
    assert store.query("SELECT count(*) FROM decisions") == [(2,)]


def test_bulk_approval_says_how_many_and_how_many_are_wrong_asks_once_and_is_undone(browser, tmp_path):
    store = new_review(tmp_path / "r.sqlite", sample_mappings(90))
    store.decide({3: 0}, Choice(Status.FLAGGED), "decide", Signature("Ben", 1))
    expected = [each for each in sample_mappings(90) if (each.confidence or 0) >= 0.9 and each.source_code != "L0003"]
    with served(store) as address, opened(browser, address) as page:
        page.locator("#bulk-open").click()
        page.locator("#bulk-confidence").fill("0.9")
        page.wait_for_function(f"() => document.getElementById('bulk-do').textContent === 'Approve {len(expected)}'")
        effect = page.locator("#bulk-effect").text_content()
        assert f"{len(expected)} of 90 terms" in effect
        assert f"About {sum(1 - each.confidence for each in expected):.1f} of them are expected to be wrong" in effect
        page.locator("#bulk-do").click()
        message(page, f"{len(expected)} terms: approved")
        approved = [each.source_code for each in read_review(store.path) if each.status is Status.APPROVED]
        assert approved == [each.source_code for each in expected]
        press(page, "u")
        message(page, f"Undone: {len(expected)} terms")
    assert [each.status for each in read_review(store.path)].count(Status.UNREVIEWED) == 89
    store.close()


def test_selected_terms_get_one_concept_at_once(browser, store):
    with served(store) as address, opened(browser, address) as page:
        press(page, "x")
        press_and_wait(page, "j", sample_mappings()[1].source_name)
        press_and_wait(page, "j", sample_mappings()[2].source_name)
        press(page, "x")
        page.wait_for_selector("#selection:not([hidden])")
        page.locator("#candidates .for-selected").nth(1).click()
        message(page, "2 terms: approved")
        assert page.locator("#selection").is_hidden()
    assert [each.targets[0].name for each in read_review(store.path) if each.status is Status.APPROVED] == [
        "Chest pain",
        "Chest pain",
    ]


def test_filter_facets_and_order_change_the_list(browser, tmp_path):
    mappings = sample_mappings(120)
    store = new_review(tmp_path / "r.sqlite", mappings)
    russian = [each for each in mappings if each.language == "ru"]
    wanted = sorted(
        (each for each in russian if each.columns["laboratory"] == "site 3"), key=lambda each: -each.frequency
    )
    counted = "text => document.getElementById('list-count').textContent === text"
    with served(store) as address, opened(browser, address) as page:
        assert page.locator("#list li").count() == 50
        page.locator("#page-next").click()
        page.wait_for_function("() => document.getElementById('page-number').textContent === 'page 2'")
        page.locator("label.facet", has_text="Russian").click()
        page.wait_for_function(counted, arg=f"{len(russian)} of 120")
        page.locator("#sort").select_option("frequency")
        page.locator("#filter-text").fill("site 3")
        page.keyboard.press("Enter")
        page.wait_for_function(counted, arg=f"{len(wanted)} of 120")
        names = page.locator("#list .name").all_text_contents()
        assert names == [each.source_name for each in wanted]
        page.reload()
        ready(page)
        assert page.locator("#list .name").all_text_contents() == names
    store.close()


# Hostile input

HOSTILE = [
    "<img src=x onerror=\"document.title='run'\">", "<script>document.title='run'</script>", "<svg/onload=alert(1)>", "=HYPERLINK(\"http://evil.example\")",
    "javascript:alert(1)", "</textarea></title><iframe src=//evil.example>", "\u202egnp.exe\u202c", "שלום <b>עולם</b>", "{{7*7}} ${7*7}", "a\0b\x1b[31m\u2028c",
    "x" * 10_000, "\U0001f9ea" * 200, "'; DROP TABLE decisions; --", "%s %n", "//evil.example/a.png",
]  # fmt: skip


def test_hostile_cells_are_text_and_reach_no_other_host(browser, tmp_path):
    """Every cell that a page shows is hostile; each term is opened, decided and searched for."""
    found = [
        candidate("C0000001", text, text, domain=text, score=0.9 - rank / 100) for rank, text in enumerate(HOSTILE[:8])
    ]
    mappings = [
        mapping(text, str(number), found, 0.5, columns={text: text}, comment=text[:4000], assigned_reviewer=text[:50])
        for number, text in enumerate(HOSTILE)
    ]
    store = new_review(tmp_path / "r.sqlite", mappings)
    with served(store, HOSTILE[0][:90]) as address, opened(browser, address) as page:
        for number, text in enumerate(HOSTILE):
            assert shown_name(page) == text.replace("\0", "�") or shown_name(page) == text
            if number % 5 == 0:
                page.locator("#search-text").fill(text[:500])
                page.locator("#search button").click()
                page.wait_for_function(
                    "() => document.getElementById('search-state').textContent !== '' && !document.getElementById('search-state').textContent.startsWith('Searching')"
                )
                page.keyboard.press("Escape")
            if number + 1 < len(HOSTILE):
                press_and_wait(page, "1", HOSTILE[number + 1])
        assert page.title().endswith("xsap review")
        assert page.locator("img, iframe, svg, script:not([src])").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZE["width"]
    assert [each.status for each in read_review(store.path)].count(Status.APPROVED) == len(HOSTILE) - 1
    store.close()


EVIL = """<form id=f action="{home}api/decide" method=post enctype="text/plain"><input name='{{"versions":[[1,0]],"status":"no_match","x":"' value='"}}'></form>
<img src="{home}"><script>
window.read = [];
const body = JSON.stringify({{versions: [[1, 0]], status: "no_match"}});
const tries = ["api/about", "api/list", "api/decide", "api/undo", ""].flatMap((path) => ["cors", "no-cors"].map((mode) =>
  fetch("{home}" + path, {{method: path ? "POST" : "GET", mode, credentials: "include", body: path ? body : undefined}}).then((answer) => answer.text()).then((text) => window.read.push(text), () => 0)));
Promise.all(tries).then(() => {{ window.done = true; }});
</script>"""


def test_page_of_another_site_reads_and_decides_nothing(browser, store):
    with served(store) as address, opened(browser, address) as page:
        home = address.partition("?")[0]
        evil = page.context.new_page()
        for site in ("http://evil.example/", "http://127.0.0.1:9/"):
            evil.route(f"{site}**", lambda route: route.fulfill(body=EVIL.format(home=home), content_type="text/html"))
            evil.goto(site)
            evil.wait_for_function("() => window.done")
            assert [text for text in evil.evaluate("window.read") if "xsap" in text or "terms" in text] == []
            with evil.expect_navigation():
                evil.evaluate("document.getElementById('f').submit()")
            assert "not answered" in evil.text_content("body")
        evil.route(
            "http://framer.example/**",
            lambda route: route.fulfill(body=f"<iframe src='{home}'></iframe>", content_type="text/html"),
        )
        evil.goto("http://framer.example/")
        assert all(
            "xsap" not in frame.content() for frame in evil.frames[1:] if not frame.url.startswith("chrome-error")
        )
        evil.close()
    assert store.query("SELECT count(*) FROM actions") == [(0,)]


# A killed server


def kill_while_deciding(browser, path, decisions):
    """Decide by keyboard until some decisions were shown as saved, and kill the server in the midst of more; the names that were shown."""
    with served_by_process(path) as (process, address):
        context = browser.new_context(viewport=SIZE)
        context.set_default_timeout(TIMEOUT)
        page = context.new_page()
        page.goto(address)
        ready(page)
        page.evaluate(
            "() => { window.saved = []; new MutationObserver(() => { const text = document.getElementById('message').textContent;"
            " if (text.endsWith(': no concept')) window.saved.push(text.slice(0, -12)); }).observe(document.getElementById('message'), {childList: true}); }"
        )
        page.locator("label.facet", has_text="unreviewed").click()
        while page.evaluate("() => window.saved.length") < decisions:
            press(page, "0", "0")
        press(page, "0", "0", "0")
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        message(page, "nothing was saved")
        saved = page.evaluate("() => window.saved")
        context.close()
    return saved


def check_kills(browser, store, kills):
    """Nothing that was shown as saved is lost, however often the server is killed."""
    shown = set()
    for kill in range(kills):
        saved = kill_while_deciding(browser, store.path, 1 + kill % 4)
        assert len(saved) >= 1 + kill % 4
        shown |= set(saved)
        decided = {each.source_name for each in read_review(store.path) if each.status is Status.NO_MATCH}
        assert shown <= decided
        assert len(decided) <= len(shown) + kill + 1  # at most the decision that each kill interrupted was saved unseen
    assert store.query("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.slow
def test_killed_server_loses_no_decision_that_the_page_showed_as_saved(browser, tmp_path):
    store = new_review(tmp_path / "r.sqlite", sample_mappings(1000))
    check_kills(browser, store, 20)
    with served_by_process(store.path) as (_, address), opened(browser, address) as page:
        assert page.locator("#list .status.no_match").count() >= 20
    store.close()


# Accessibility and screenshots


def violations(page):
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ModuleNotFoundError:
        skip_or_fail("checks of accessibility need axe-playwright-python (pip install axe-playwright-python)")
    axe = Axe()
    found = axe.run(
        page,
        options={
            "runOnly": {
                "type": "tag",
                "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
            }
        },
    )
    return [(each["id"], [node["target"] for node in each["nodes"]][:4]) for each in found.response["violations"]]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_and_dialogs_have_no_accessibility_violation(browser, tmp_path, scheme):
    store = new_review(tmp_path / "r.sqlite", sample_mappings(80))
    for term, choice in {1: Status.APPROVED, 2: Status.FLAGGED, 3: Status.NO_MATCH, 4: Status.REJECTED}.items():
        store.decide({term: 0}, Choice(choice), "decide", Signature("Ben", 1_700_000_000_000))
    with served(store) as address, opened(browser, address, color_scheme=scheme, bypass_csp=True) as page:
        assert violations(page) == []
        press(page, "x", "/")
        page.keyboard.type("fever")
        press(page, "Enter")
        page.wait_for_selector("#results .candidate")
        assert violations(page) == []
        for button in ("#help-open", "#bulk-open")[scheme == "dark" :]:
            page.locator(button).click()
            page.wait_for_selector("dialog[open]")
            page.wait_for_timeout(150)
            assert violations(page) == []
            page.keyboard.press("Escape")
    store.close()


def test_page_fits_1280_by_720_and_narrow_windows(browser, store):
    with served(store) as address, opened(browser, address) as page:
        for control in (
            "#actions [data-act=approve]",
            "#actions [data-act=skip]",
            "#note",
            "#search-text",
            "#bulk-open",
            "#list li.current",
            "#candidates li:first-child",
        ):
            box = page.locator(control).bounding_box()
            assert box["x"] >= 0
            assert box["y"] >= 0
            assert box["x"] + box["width"] <= 1280
            assert box["y"] + box["height"] <= 720
        for width in (1920, 900, 640, 360):
            page.set_viewport_size({"width": width, "height": 720})
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def save_small(screenshot, name):
    """A screenshot of few colors, which takes a third of the space."""
    from PIL import Image

    Image.open(io.BytesIO(screenshot)).quantize(96).save(ROOT / "docs" / "assets" / name, optimize=True)


@pytest.mark.skipif(not SCREENSHOTS, reason="make screenshots takes them")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screenshots_of_the_documentation(browser, tmp_path, scheme):
    store = new_review(tmp_path / "r.sqlite", sample_mappings(400))
    for term, (status, by) in {
        2: (Status.APPROVED, "Ben"),
        3: (Status.APPROVED, "Ben"),
        5: (Status.FLAGGED, "Ben"),
        8: (Status.NO_MATCH, "Ann"),
    }.items():
        store.decide({term: 0}, Choice(status), "decide", Signature(by, 1_790_000_000_000))
    store.decide({2: store.term(2).version}, Choice(confirm=True), "decide", Signature("Ann", 1_790_100_000_000))
    with served(store) as address, opened(browser, address, color_scheme=scheme) as page:
        page.wait_for_timeout(400)
        save_small(page.screenshot(), f"review-{scheme}.png")
        page.locator("#bulk-open").click()
        page.wait_for_function("() => document.getElementById('bulk-do').textContent !== '…'")
        page.locator("#bulk-confidence").fill("0.9")
        page.wait_for_timeout(300)
        save_small(page.screenshot(), f"review-bulk-{scheme}.png")
    store.close()


def test_documentation_has_the_screenshots():
    page = (ROOT / "docs" / "review.md").read_text(encoding="utf-8")
    for name in ("review-light.png", "review-dark.png"):
        assert name in page
        assert 10_000 < (Path(ROOT) / "docs" / "assets" / name).stat().st_size < 100_000
