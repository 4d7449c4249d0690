"use strict";

/** Filters and sorts the clips. */
const Clips = {
  /** Reads the filters: {kinds, sample, text, label, suggested, score, low, high, state, sort, descending}. */
  wanted(form) {
    const data = new FormData(form);
    const limit = (name, otherwise) => {
      const value = Number.parseFloat(data.get(name));
      return Number.isNaN(value) ? otherwise : value;
    };
    return {
      kinds: new Set(data.getAll("kind")),
      sample: data.has("sample"),
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

  /** Returns the matching clips in order; ties stay in the order of the page. */
  select(clips, wanted, decisions) {
    return Clips.ordered(clips, wanted.sort, wanted.descending).filter(
      (clip) =>
        (wanted.sample ? clip.sample : wanted.kinds.has(clip.kind)) &&
        (!wanted.text || clip.text.includes(wanted.text)) &&
        (!wanted.label || clip.label === wanted.label) &&
        (!wanted.suggested || clip.suggested === wanted.suggested) &&
        clip.scores[wanted.score] >= wanted.low &&
        clip.scores[wanted.score] <= wanted.high &&
        (!wanted.state || Clips.state(clip, decisions) === wanted.state),
    );
  },

  /** Returns all clips in order; the newest order is kept, as most changes of the filters leave it. */
  ordered(clips, sort, descending) {
    const last = Clips.order;
    if (last?.clips === clips && last.sort === sort && last.descending === descending) return last.found;
    const sign = descending ? -1 : 1;
    const value = sort === "" ? (clip) => clip.text : (clip) => clip.scores[sort];
    const pairs = clips.map((clip) => [value(clip), clip]);
    pairs.sort(([a], [b]) => (a < b ? -sign : a > b ? sign : 0));
    const found = pairs.map(([, clip]) => clip);
    Clips.order = { clips, sort, descending, found };
    return found;
  },

  /** Returns undecided, kept or relabeled. */
  state(clip, decisions) {
    const decision = decisions.get(clip.id);
    if (!decision) return "undecided";
    return decision.label === clip.label ? "kept" : "relabeled";
  },

  /** Returns the kind of decision: accept (the suggestion), reject (keep the label) or relabel. */
  how(clip, label) {
    if (label === clip.label) return "reject";
    return label === clip.suggested ? "accept" : "relabel";
  },
};

/** Writes decisions as CSV and reads them. */
const Exchange = {
  columns: ["clip_id", "label", "decision", "given", "suggested"],

  write(decisions, clipOf) {
    const rows = decisions.all.map(([id, { label, how }]) => {
      const clip = clipOf.get(id);
      return [id, label, how, clip?.label ?? "", clip?.suggested ?? ""];
    });
    return Csv.format([Exchange.columns, ...rows]);
  },

  /** Returns pairs for Decisions.change and the number of other clips; throws an Error for an invalid file. */
  read(text, clipOf, classes) {
    const [head = [], ...rows] = Csv.parse(text);
    const [id, label] = ["clip_id", "label"].map((name) => {
      if (!head.includes(name)) throw new Error(`the header has no column “${name}”`);
      return head.indexOf(name);
    });
    const pairs = [];
    let others = 0;
    for (const [number, row] of rows.entries()) {
      const name = row[label] ?? "";
      if (!classes.includes(name)) throw new Error(`row ${number + 2}: unknown class “${name}”`);
      const clip = clipOf.get(row[id]);
      if (clip) pairs.push([clip.id, { label: name, how: Clips.how(clip, name) }]);
      else others += 1;
    }
    return { pairs, others };
  },
};
