"use strict";

/** Which clips are shown, and in which order: functions of the clips and of what the filters say. */
const Clips = {
  /** Reads the filters: {kinds, text, label, suggested, score, low, high, state, sort, descending}. */
  wanted(form) {
    const data = new FormData(form);
    const limit = (name, otherwise) => {
      const value = Number.parseFloat(data.get(name));
      return Number.isNaN(value) ? otherwise : value;
    };
    return {
      kinds: new Set(data.getAll("kind")),
      text: data.get("text").trim().toLowerCase(),
      label: data.get("label"),
      suggested: data.get("suggested"),
      score: data.get("score"),
      low: limit("low", -Infinity),
      high: limit("high", Infinity),
      state: data.get("state"),
      sort: data.get("sort"),
      descending: data.get("order") === "descending",
    };
  },

  /** Returns the clips that are wanted, in order; equal ones stay in the order of the page. */
  select(clips, wanted, decisions) {
    const found = clips.filter(
      (clip) =>
        wanted.kinds.has(clip.kind) &&
        (!wanted.text || clip.text.includes(wanted.text)) &&
        (!wanted.label || clip.label === wanted.label) &&
        (!wanted.suggested || clip.suggested === wanted.suggested) &&
        clip.scores[wanted.score] >= wanted.low &&
        clip.scores[wanted.score] <= wanted.high &&
        (!wanted.state || Clips.state(clip, decisions) === wanted.state),
    );
    const sign = wanted.descending ? -1 : 1;
    const value = wanted.sort === "" ? (clip) => clip.text : (clip) => clip.scores[wanted.sort];
    return found.sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      return a < b ? -sign : a > b ? sign : 0;
    });
  },

  /** Returns undecided, kept or relabelled. */
  state(clip, decisions) {
    const decision = decisions.get(clip.id);
    if (!decision) return "undecided";
    return decision.label === clip.label ? "kept" : "relabelled";
  },

  /** Returns how a label came about: accept (as suggested), reject (left as it was) or relabel. */
  how(clip, label) {
    if (label === clip.label) return "reject";
    return label === clip.suggested ? "accept" : "relabel";
  },
};

/** The decisions as a file, and back. */
const Exchange = {
  columns: ["clip_id", "label", "decision", "given", "suggested"],

  write(decisions, clipOf) {
    const rows = decisions.all.map(([id, { label, how }]) => {
      const clip = clipOf.get(id);
      return [id, label, how, clip?.label ?? "", clip?.suggested ?? ""];
    });
    return Csv.format([Exchange.columns, ...rows]);
  },

  /** Returns {pairs, strangers}, as Decisions.change takes them; throws an Error that says what is wrong. */
  read(text, clipOf, classes) {
    const [head = [], ...rows] = Csv.parse(text);
    const [id, label] = ["clip_id", "label"].map((name) => {
      if (!head.includes(name)) throw new Error(`its first line names no column “${name}”`);
      return head.indexOf(name);
    });
    const pairs = [];
    let strangers = 0;
    for (const [number, row] of rows.entries()) {
      const name = row[label] ?? "";
      if (!classes.includes(name)) throw new Error(`row ${number + 2}: there is no class “${name}”`);
      const clip = clipOf.get(row[id]);
      if (clip) pairs.push([clip.id, { label: name, how: Clips.how(clip, name) }]);
      else strangers += 1;
    }
    return { pairs, strangers };
  },
};
