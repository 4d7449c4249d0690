"use strict";

/** What was decided, by clip: its label from now on, and how it came about. Kept in the browser. */
class Decisions {
  #key;
  #known;
  #found = new Map();
  #steps = [];

  /** Reads what an earlier visit left under the key; labels that are no classes are left out. */
  constructor(key, classes) {
    this.#key = key;
    this.#known = new Set(classes);
    this.isKept = true;
    this.load();
  }

  load() {
    this.#steps = [];
    try {
      const stored = JSON.parse(localStorage.getItem(this.#key) ?? "[]");
      this.#found = new Map(stored.filter(([, { label }]) => this.#known.has(label)));
    } catch {
      this.isKept = false;
    }
  }

  get(clip) {
    return this.#found.get(clip);
  }

  get all() {
    return [...this.#found];
  }

  /** Changes the decisions of some clips in one step: pairs of a clip and {label, how}, or null. */
  change(pairs) {
    this.#steps.push(pairs.map(([clip]) => [clip, this.#found.get(clip) ?? null]));
    this.#apply(pairs);
  }

  /** Takes back the last step; returns its clips, or null if there is none. */
  undo() {
    const step = this.#steps.pop();
    if (!step) return null;
    this.#apply(step.toReversed());
    return step.map(([clip]) => clip);
  }

  #apply(pairs) {
    for (const [clip, decision] of pairs) {
      if (decision) this.#found.set(clip, decision);
      else this.#found.delete(clip);
    }
    try {
      localStorage.setItem(this.#key, JSON.stringify(this.all));
      this.isKept = true;
    } catch {
      this.isKept = false;
    }
  }
}
