"use strict";

/** The cards of the clips. All texts are inserted as text, never as markup. */
class Cards {
  /** Returns the card of a clip. */
  static make(template, clip, index, scores) {
    const item = template.content.cloneNode(true).firstElementChild;
    const put = (selector, text) => {
      for (const node of item.querySelectorAll(selector)) node.textContent = text;
    };
    item.dataset.index = index;
    const card = item.querySelector("article");
    card.setAttribute("aria-label", `Clip ${clip.id}`);
    put(".name", clip.id);
    put(".kind", clip.why ? `${clip.kind}: ${clip.why}` : clip.kind);
    item.querySelector(".kind").classList.add(clip.kind);
    put(".given", clip.label);
    put(".suggested", clip.suggested);
    if (clip.label === clip.suggested) item.querySelector(".accept").hidden = true;
    Cards.#strip(item, clip);
    Cards.#votes(item.querySelector(".votes"), clip);
    const list = item.querySelector(".scores");
    const line = list.firstElementChild;
    line.remove();
    for (const { key, name } of scores) list.append(Cards.#score(line, key, name, clip.scores[key]));
    return item;
  }

  /** Shows the decision on a clip. */
  static mark(item, clip, decision) {
    const label = decision?.label;
    const kept = label === clip.label;
    const state = item.querySelector(".state");
    state.textContent = !decision ? "undecided" : kept ? `kept: ${label}` : `relabeled: ${label}`;
    item.querySelector("article").dataset.state = !decision ? "" : kept ? "kept" : "relabeled";
    const accepted = Boolean(decision) && !kept && label === clip.suggested;
    item.querySelector(".accept").setAttribute("aria-pressed", accepted);
    item.querySelector(".reject").setAttribute("aria-pressed", kept);
    item.querySelector("select").value = decision && !kept && !accepted ? label : "";
    item.querySelector(".clear").disabled = !decision;
  }

  static #strip(item, clip) {
    const picture = item.querySelector("img");
    const missing = item.querySelector(".missing");
    if (clip.strip) {
      picture.alt = `Frames of clip ${clip.id} from left to right`;
      picture.src = clip.strip;
      missing.remove();
    } else {
      picture.remove();
    }
  }

  static #votes(node, clip) {
    if (!clip.votes) {
      node.remove();
      return;
    }
    const all = clip.votes.map(([name, count]) => `${name}\u00a0${count}`);
    node.querySelector("span").textContent = all.join(", ");
  }

  static #score(template, key, name, value) {
    const line = template.cloneNode(true);
    line.querySelector("dt").textContent = name;
    line.querySelector(".amount").textContent = value.toFixed(3);
    line.querySelector(".bar").classList.add(key);
    line.querySelector(".bar").style.setProperty("--share", value);
    return line;
  }
}
