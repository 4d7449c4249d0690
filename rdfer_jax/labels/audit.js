"use strict";

/** Connects filters, cards, decisions and keys. Only one page of cards exists at a time. */
(() => {
  const PAGE = 25;
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  $("data").remove(); // frees its text
  const { title, classes, clips, scores } = data;
  const clipOf = new Map(clips.map((clip) => [clip.id, clip]));
  for (const clip of clips) clip.text = clip.id.toLowerCase();
  const key = `rdfer_jax audit ${JSON.stringify([title, classes])}`;
  const decisions = new Decisions(key, classes);
  const form = $("filters");
  let shown = [];
  let current = 0;
  let page = 0;

  function filter(target) {
    shown = Clips.select(clips, Clips.wanted(form), decisions);
    current = Math.max(target ? shown.indexOf(target) : 0, 0);
    drawPage(Math.floor(current / PAGE));
    count();
  }

  function drawPage(number) {
    page = number;
    const start = page * PAGE;
    const items = shown.slice(start, start + PAGE).map((clip, offset) => {
      const item = Cards.make($("card"), clip, start + offset, scores);
      Cards.mark(item, clip, decisions.get(clip.id));
      return item;
    });
    $("cards").replaceChildren(...items);
    $("cards").start = start + 1;
    $("empty").hidden = shown.length > 0;
    const pages = Math.max(Math.ceil(shown.length / PAGE), 1);
    for (const pager of document.querySelectorAll(".pager")) {
      pager.hidden = pages === 1;
      pager.querySelector(".where").textContent = `page ${page + 1} of ${pages}`;
      pager.querySelector(".previous").disabled = page === 0;
      pager.querySelector(".next").disabled = page === pages - 1;
    }
    markCurrent();
  }

  function item(index) {
    return $("cards").children[index - page * PAGE];
  }

  function markCurrent() {
    for (const card of $("cards").querySelectorAll("[aria-current]")) card.removeAttribute("aria-current");
    item(current)?.firstElementChild.setAttribute("aria-current", "true");
  }

  function count() {
    const tally = { undecided: 0, kept: 0, relabeled: 0 };
    for (const clip of shown) tally[Clips.state(clip, decisions)] += 1;
    const done = shown.length - tally.undecided;
    const number = (value) => value.toLocaleString("en");
    $("shown").textContent =
      `${number(shown.length)} of ${number(clips.length)} clips shown, ${number(done)} of them decided`;
    $("progress").max = Math.max(shown.length, 1);
    $("progress").value = done;
    const all = decisions.all;
    const here = all.filter(([id]) => clipOf.has(id));
    const kept = here.filter(([id, { label }]) => clipOf.get(id).label === label).length;
    $("tally").textContent =
      `${number(all.length)} decided: ${number(here.length - kept)} relabeled, ${number(kept)} kept` +
      (all.length > here.length ? `, ${number(all.length - here.length)} on clips that are not on this page` : "");
    $("export").disabled = all.length === 0;
    $("unsaved").hidden = decisions.isKept;
  }

  function go(index) {
    if (index < 0 || index >= shown.length) return;
    current = index;
    if (Math.floor(index / PAGE) === page) markCurrent();
    else drawPage(Math.floor(index / PAGE));
    const card = item(index).firstElementChild;
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "center" });
  }

  function say(text, isSeen = false) {
    $("spoken").textContent = text;
    if (!isSeen) return;
    $("notice").textContent = text;
    $("notice").hidden = false;
    clearTimeout(say.timer);
    say.timer = setTimeout(() => ($("notice").hidden = true), 8000);
  }

  function decide(index, label) {
    const clip = shown[index];
    if (!clip) return;
    decisions.change([[clip.id, label === null ? null : { label, how: Clips.how(clip, label) }]]);
    Cards.mark(item(index), clip, decisions.get(clip.id));
    count();
    say(`${clip.id}: ${label === null ? "undecided" : label}`);
  }

  function undo() {
    const changed = decisions.undo();
    if (!changed) {
      say("There is nothing to undo since you opened this page.", true);
      return;
    }
    refresh();
    const index = shown.findIndex((clip) => clip.id === changed[0]);
    if (changed.length === 1 && index >= 0) go(index);
    say(changed.length === 1 ? `Undone: ${changed[0]}` : `Undone: ${changed.length} clips`, true);
  }

  function refresh() {
    for (const node of $("cards").children) {
      const clip = shown[node.dataset.index];
      Cards.mark(node, clip, decisions.get(clip.id));
    }
    count();
  }

  function save() {
    const blob = new Blob([Exchange.write(decisions, clipOf)], { type: "text/csv" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = data.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    say(`${decisions.all.length} decisions exported as ${data.file}.`, true);
  }

  async function open(file) {
    try {
      const { pairs, others } = Exchange.read(await file.text(), clipOf, classes);
      if (pairs.length) decisions.change(pairs);
      refresh();
      const skipped = others ? ` ${others} clips that are not on this page were skipped.` : "";
      say(`${pairs.length} decisions imported.${skipped}`, true);
    } catch (error) {
      say(`Nothing imported from ${file.name}: ${error.message}.`, true);
    }
  }

  const keys = {
    j: () => go(current + 1),
    ArrowDown: () => go(current + 1),
    k: () => go(current - 1),
    ArrowUp: () => go(current - 1),
    a: () => decideAndAdvance(shown[current]?.suggested),
    r: () => decideAndAdvance(shown[current]?.label),
    u: undo,
    "?": () => $("manual").showModal(),
  };

  function decideAndAdvance(label) {
    if (label === undefined) return;
    decide(current, label);
    go(current + 1);
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.closest("input:not([type=checkbox]), select, textarea, dialog")) return;
    if (!$("keys").checked) return;
    const digit = /^[1-9]$/.test(event.key) ? classes[event.key - 1] : undefined;
    const action = digit ? () => decideAndAdvance(digit) : keys[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });

  $("cards").addEventListener("click", (event) => {
    const node = event.target.closest("li");
    const button = event.target.closest("button");
    if (!node || !button) return;
    const index = Number(node.dataset.index);
    if (button.matches(".accept")) decide(index, shown[index].suggested);
    else if (button.matches(".reject")) decide(index, shown[index].label);
    else if (button.matches(".clear")) decide(index, null);
  });
  $("cards").addEventListener("change", (event) => {
    const index = Number(event.target.closest("li").dataset.index);
    decide(index, event.target.value || null);
    // After a mouse click, return the focus to the list: a key would change the selected class.
    if (!event.target.matches(":focus-visible")) go(index);
  });
  $("cards").addEventListener("focusin", (event) => {
    current = Number(event.target.closest("li").dataset.index);
    markCurrent();
  });
  for (const pager of document.querySelectorAll(".pager")) {
    pager.querySelector(".previous").addEventListener("click", () => go((page - 1) * PAGE));
    pager.querySelector(".next").addEventListener("click", () => go((page + 1) * PAGE));
  }

  form.addEventListener("input", () => filter());
  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements.text.addEventListener("keydown", (event) => {
    if (event.key === "Enter") go(0); // to the first match
  });
  form.addEventListener("reset", () => setTimeout(filter));
  $("toggle").addEventListener("click", () => {
    const open = $("toggle").getAttribute("aria-expanded") !== "true";
    $("toggle").setAttribute("aria-expanded", open);
  });
  $("export").addEventListener("click", save);
  $("import").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", async () => {
    if ($("file").files.length) await open($("file").files[0]);
    $("file").value = "";
  });
  $("undo").addEventListener("click", undo);
  $("help").addEventListener("click", () => $("manual").showModal());
  window.addEventListener("storage", (event) => {
    if (event.key !== key) return;
    decisions.load(); // changed in another tab
    refresh();
  });

  filter();
  document.documentElement.dataset.ready = "";
})();
