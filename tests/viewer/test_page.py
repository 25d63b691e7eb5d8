"""The page in Chromium: filters, opening, stepping, comparing, hostile texts, and a policy that holds."""

import dataclasses

import pytest
from PIL import Image

from data_pipeline.inspection.described import described
from data_pipeline.records import RecordWriter
from pixel_reasoner_jax.report.page import document
from pixel_reasoner_jax.report.trajectory_html import trajectory_html
from pixel_reasoner_jax.trajectory import OperationRecord
from tests.trajectories import EVIL, call, message, text
from tests.viewer.browser import Browser
from tests.viewer.conftest import sample, view_of, write_evaluation, write_run

OPENED = "document.querySelector('#detail article') && document.querySelector('#detail .question').textContent"
COUNT = "document.getElementById('count').textContent"


@pytest.fixture(scope="module")
def address(tmp_path_factory, evaluations) -> str:
    folder = tmp_path_factory.mktemp("view")
    run = write_run(tmp_path_factory.mktemp("runs") / "run")
    view_of(folder, *evaluations, run)
    return f"file://{folder}/index.html"


@pytest.fixture
def page(chromium, address):
    """The list of trajectories; whatever a test does, the console stays silent."""
    start(chromium, address)
    yield chromium
    assert chromium.log() == []


def start(chromium: Browser, address: str, tab: str = "list") -> None:
    chromium.open("about:blank")
    chromium.open(address)
    chromium.wait("typeof view === 'object' && Boolean(view.index)")
    click(chromium, f"tab-{tab}")


def click(chromium: Browser, identity: str) -> None:
    chromium.run("document.getElementById(arguments[0]).click()", identity)


def search(chromium: Browser, words: str) -> None:
    script = "const field = document.getElementById('search'); field.value = arguments[0];"
    chromium.run(f"{script} field.dispatchEvent(new Event('input'))", words)


def choose(chromium: Browser, name: str, value: str) -> None:
    script = "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
    chromium.run(f"{script} field.dispatchEvent(new Event('change'))", name, value)


def shown(chromium: Browser) -> str:
    return chromium.run(f"return {COUNT}")


def test_filters(page):
    assert shown(page) == "244 trajectories"
    counts = {}
    for name in ("right", "wrong", "failed", "never", "flipped"):
        click(page, f"flag-{name}")
        counts[name] = shown(page).split(" of ")[0]
        click(page, f"flag-{name}")
    # 51 of each evaluation and the samples of the run; items 1 and 2 of both; items 0 and 5 of the first.
    assert counts == {"right": "106", "wrong": "138", "failed": "2", "never": "8", "flipped": "2"}
    choose(page, "group", "episode 2")
    assert shown(page).startswith("2 of")
    choose(page, "group", "")
    choose(page, "category", "kind: odd")
    choose(page, "run", "1")
    assert shown(page).startswith("59 of")
    choose(page, "category", "")
    search(page, "ITEM boxed{17}")
    page.wait(f"{COUNT} === '1 of 244 trajectories'")
    search(page, "no such words")
    page.wait(f"{COUNT} === '0 of 244 trajectories'")
    page.press("j")


def test_open_step_and_look(page):
    assert page.wait(OPENED) == "What is item 0?"
    page.wait("[...document.images].length === 2 && [...document.images].every((image) => image.naturalWidth > 0)")
    assert page.run("return document.querySelectorAll('#detail .stack svg .box').length") == 1
    page.press("j", "j")
    page.wait(f"{OPENED} === 'What is item 2?'")
    page.press("k")
    page.wait(f"{OPENED} === 'What is item 1?'")
    assert page.run("return document.querySelector('#detail .operation .error').textContent").startswith("✗ </p>")
    page.press("t")
    page.wait("document.querySelectorAll('#detail .tokens span').length === 4")
    assert page.run("return document.querySelector('#detail .tokens span').title") == "-2.5000"
    assert page.run("return location.hash") == "#1"


def test_a_run_without_samples_is_none_to_choose(chromium, evaluations, tmp_path):
    run = write_run(tmp_path / "runs" / "run", episodes=0)
    view_of(tmp_path / "view", run, *evaluations)
    start(chromium, f"file://{tmp_path / 'view' / 'index.html'}")
    assert chromium.run("return document.getElementById('other').value") == "2"
    assert chromium.run("return document.querySelectorAll('#run option').length") == 3
    click(chromium, "flag-flipped")
    assert shown(chromium).startswith("2 of")
    click(chromium, "flag-flipped")
    click(chromium, "tab-summary")
    assert "no samples were stored" in chromium.run("return document.getElementById('summary').innerText")
    assert chromium.log() == []


def test_a_response_of_which_the_text_alone_was_kept(chromium, tmp_path):
    directory = write_evaluation(tmp_path / "a", set(), queries=2)
    (directory / "trajectories.jsonl").unlink()
    view_of(tmp_path / "view", directory)
    start(chromium, f"file://{tmp_path / 'view' / 'index.html'}")
    chromium.wait(OPENED)
    assert "the text alone was kept" in chromium.run("return document.getElementById('detail').innerText")
    assert chromium.log() == []


def test_a_sample_of_a_run(page):
    choose(page, "run", "2")
    page.press("j")
    page.wait(f"{OPENED} === 'Which digit?'")
    table = page.run("return document.querySelector('#detail .rewards').innerText.replace(/\\s+/g, ' ')")
    assert table == "correct 1.0000 bonus 0.0500 reward 0.5000 advantage -0.2500"
    assert page.run("return document.querySelectorAll('#detail svg .object').length") == 1
    page.press("d")
    shares = "[...document.querySelectorAll('.tokens span')].map((one) => one.style.getPropertyValue('--share'))"
    page.wait("document.querySelector('.tokens .below')")
    assert page.run(f"return {shares}") == ["100%", "0%"]


def test_compare(page):
    page.wait(OPENED)
    page.press("c")
    page.wait("document.querySelectorAll('#detail article').length === 2")
    verdicts = "[...document.querySelectorAll('#detail article header')].map((one) => one.textContent)"
    first, second = page.run(f"return {verdicts}")
    assert first.startswith("✓ right") and "a · vstar · q0" in first
    assert second.startswith("✗ wrong") and "b · vstar · q0" in second
    page.press("j")
    page.wait("document.querySelectorAll('#detail article').length === 2 && location.hash === '#1'")


def test_the_same_query_in_all_evaluations_of_a_run(chromium, tmp_path):
    workdir = write_run(tmp_path / "run", episodes=0)
    for step in range(1, 8):
        write_evaluation(workdir / "evaluations" / f"{step:05d}", set(), queries=2)
    view_of(tmp_path / "view", workdir)
    start(chromium, f"file://{tmp_path / 'view' / 'index.html'}")
    chromium.wait(OPENED)
    chromium.press("j", "j", "c")
    chromium.wait("document.querySelectorAll('#detail article').length === 4")
    where = "[...document.querySelectorAll('#detail .where')].map((one) => one.textContent)"
    assert chromium.run(f"return {where}") == [f"evaluation after {n}: vstar · q0 · sample 0" for n in (1, 2, 5, 7)]
    assert chromium.log() == []


def test_hostile_texts_are_inert(page):
    search(page, "script alert")
    page.wait(f"{COUNT} === '2 of 244 trajectories'")
    page.press("j")
    page.wait(f"{OPENED}.startsWith('</p></details><script>')")
    click(page, "tab-summary")
    page.run("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert page.run("return document.querySelectorAll('b b, img[src=x], script:not([src]), [onerror]').length") == 0
    assert EVIL[:20] in page.run("return document.body.textContent")
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")


def test_a_page_without_a_script_shows_the_same(chromium, tmp_path):
    """A trajectory with a crop, a call that failed and is left out of the loss, rewards and hostile texts."""
    one = sample(1, 0)
    failing = f"Again. {call('zoom_in', '{}')} {EVIL}"
    messages = [
        *one.messages[:-1],
        message("assistant", text(f"I look. {call('zoom_in', '{}')}", train=True)),
        message("user", text("Here:"), {"type": "image", "image": Image.new("RGB", (50, 40), "red")}),
        message("assistant", text(failing, train=False)),
        message("user", text(f"Execution error: {EVIL}")),
        message("assistant", text("\\boxed{7}", train=True)),
    ]
    box = {"boxes": ((10, 20, 60, 60),), "sizes": ((56, 28),), "sources": (0,)}
    calls = (OperationRecord(0, "zoom_in", {"a": 1}, **box), OperationRecord(1, EVIL, {EVIL: 2}, error=EVIL))
    draft = dataclasses.replace(one, messages=messages, operations=calls)
    with RecordWriter(tmp_path / "data", "trajectory") as writer:
        writer.write(draft)
    trajectory, facts = described(draft, "")
    (tmp_path / "page.html").write_text(document("A page", trajectory_html(trajectory, facts=facts)))
    view_of(tmp_path / "view", tmp_path / "data")
    parts = [".question", ".scenes", ".talk"]
    found = {}
    for name in ("page.html", "view/index.html"):
        chromium.open(f"file://{tmp_path / name}")
        chromium.wait("document.querySelector('article') || (typeof view === 'object' && view.index)")
        if name.startswith("view"):
            click(chromium, "tab-list")
            chromium.wait(OPENED)
        chromium.wait("[...document.images].every((image) => image.naturalWidth > 0)")
        chromium.run("document.querySelectorAll('article details').forEach((one) => (one.open = true))")
        words = "document.querySelector(arguments[0]).innerText.replace(/\\s+/g, ' ')"
        shapes = "[...document.querySelectorAll('.scenes .box')].map((one) => [one.parentNode, one].map(attributes))"
        shapes = f"const attributes = (one) => [...one.attributes].map((own) => own.value); return {shapes}"
        marked = "[...document.querySelectorAll('article .masked')].map((one) => one.textContent.trim())"
        found[name] = [chromium.run(f"return {words}", part) for part in parts]
        found[name] += [chromium.run(shapes), chromium.run(f"return {marked}")]
        assert chromium.log() == []
    page, viewer = found.values()
    assert page == viewer
    assert "✗ </p>" in page[2] and "bonus 0.0500" in page[2] and "the last operation failed" in page[2]
    assert len(page[3]) == 2 and len(page[4]) == 7  # the object and a crop; texts without loss


def test_a_view_that_was_written_anew_shows_no_details_of_other_rows(chromium, evaluations, tmp_path):
    view_of(tmp_path, evaluations[0])
    start(chromium, f"file://{tmp_path}/index.html")
    chromium.wait(OPENED)
    view_of(tmp_path, evaluations[1], limit=60)
    chromium.run("view.chunks.clear(); view.open(view.list.rows[1])")
    chromium.wait("document.querySelector('#detail .missing')")
    assert "reload" in chromium.run("return document.getElementById('detail').textContent")
    assert chromium.log() == []


def test_the_policy_holds(chromium, address):
    start(chromium, address)
    chromium.run(
        """window.broken = [];
        document.addEventListener("securitypolicyviolation", (event) => broken.push(event.effectiveDirective));
        const add = (name, values) => document.body.append(Object.assign(document.createElement(name), values));
        add("script", { textContent: "window.hacked = 1" });
        add("img", { src: "https://example.com/x.png" });
        add("script", { src: "https://example.com/x.js" });
        add("style", { textContent: "body { color: red }" });
        document.body.setAttribute("onclick", "window.hacked = 1");
        document.body.click();"""
    )
    wanted = {"script-src-elem", "script-src-attr", "style-src-elem", "img-src"}
    chromium.wait("broken.length >= 5")
    assert set(chromium.run("return broken")) == wanted and chromium.run("return window.hacked") is None
    assert all("Content Security Policy" in line for line in chromium.log())


def test_the_list_holds_what_is_seen(page):
    page.run("document.getElementById('scroll').scrollTop = 100 * 62")
    page.wait("document.querySelector('.item .facts').textContent.includes('q9')")
    assert page.run("return document.querySelectorAll('.item').length") < 40


def test_the_summary(chromium, address):
    start(chromium, address, "summary")
    text = chromium.run("return document.getElementById('summary').innerText")
    assert "0.425 [" in text and "learning trap" in text and "steps 4 to 5" in text
    assert "curiosity pays below 0.3" in text and "Accuracy by resolution" in text
    assert chromium.run("return document.querySelectorAll('.plot').length") >= 5
    chromium.run("document.getElementById('more').open = true")
    chromium.wait("[...document.querySelectorAll('#more h3')].map((one) => one.textContent).includes('constructor')")
    assert chromium.log() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(chromium, address, scheme):
    size = dict(width=390, height=800, deviceScaleFactor=1, mobile=True)
    chromium.command("Emulation.setDeviceMetricsOverride", **size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chromium.command("Emulation.setEmulatedMedia", features=features)
    try:
        start(chromium, address)
        visible = "getComputedStyle(document.getElementById(arguments[0])).display !== 'none'"
        assert chromium.run(f"return {visible}", "side") and not chromium.run(f"return {visible}", "detail")
        chromium.run("document.querySelector('.item').click()")
        chromium.wait(OPENED)
        assert chromium.run(f"return {visible}", "detail") and not chromium.run(f"return {visible}", "side")
        assert chromium.run("return document.documentElement.scrollWidth") <= 390
        click(chromium, "back")
        assert chromium.run(f"return {visible}", "side")
        click(chromium, "tab-summary")
        assert chromium.run("return document.documentElement.scrollWidth") <= 390
        color = chromium.run("return getComputedStyle(document.body).backgroundColor")
        assert color == {"light": "rgb(245, 246, 248)", "dark": "rgb(16, 20, 27)"}[scheme]
        assert chromium.log() == []
    finally:
        chromium.command("Emulation.clearDeviceMetricsOverride")
        chromium.command("Emulation.setEmulatedMedia", features=[])
