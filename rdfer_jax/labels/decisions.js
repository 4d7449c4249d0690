"use strict";

/** The decisions by clip: final label and kind of decision. Stored in the browser. */
class Decisions {
  #key;
  #classes;
  #byClip = new Map();
  #steps = [];

  /** Loads the decisions stored under the key; labels that are not classes are dropped. */
  constructor(key, classes) {
    this.#key = key;
    this.#classes = new Set(classes);
    this.isKept = true;
    this.load();
  }

  load() {
    this.#steps = [];
    try {
      const stored = JSON.parse(localStorage.getItem(this.#key) ?? "[]");
      this.#byClip = new Map(stored.filter(([, { label }]) => this.#classes.has(label)));
    } catch {
      this.isKept = false;
    }
  }

  get(clip) {
    return this.#byClip.get(clip);
  }

  get all() {
    return [...this.#byClip];
  }

  /** Changes the decisions of some clips in one step: pairs of a clip and {label, how}, or null. */
  change(pairs) {
    this.#steps.push(pairs.map(([clip]) => [clip, this.#byClip.get(clip) ?? null]));
    this.#apply(pairs);
  }

  /** Reverts the last step; returns its clips, or null if there is none. */
  undo() {
    const step = this.#steps.pop();
    if (!step) return null;
    this.#apply(step.toReversed());
    return step.map(([clip]) => clip);
  }

  #apply(pairs) {
    for (const [clip, decision] of pairs) {
      if (decision) this.#byClip.set(clip, decision);
      else this.#byClip.delete(clip);
    }
    try {
      localStorage.setItem(this.#key, JSON.stringify(this.all));
      this.isKept = true;
    } catch {
      this.isKept = false;
    }
  }
}
