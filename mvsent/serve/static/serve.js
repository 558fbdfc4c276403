"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const [form, image, drop, status, answer] = ["pair", "image", "drop", "status", "answer"].map(at);
  const SHADES = 9; // classes shade-0 to shade-9 of report.css

  /** Create an element with attributes and content; texts are never parsed as HTML. */
  function element(name, attributes, ...content) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...content);
    return made;
  }

  function say(text, wrong) {
    status.textContent = text;
    status.classList.toggle("wrong", wrong);
  }

  let version = 0; // of the form's content: answers to older versions are not shown

  function forget() {
    version += 1;
    answer.hidden = true;
    say("", false);
  }

  function showChosen() {
    const [file] = image.files;
    URL.revokeObjectURL(at("preview").src);
    at("chosen").hidden = !file;
    at("preview").hidden = false;
    at("unseen").hidden = true;
    if (file) at("preview").src = URL.createObjectURL(file);
    forget();
  }

  function showUnseen() {
    const isTiff = image.files[0]?.type === "image/tiff";
    at("unseen").textContent = isTiff ? "A browser cannot show a TIFF; the network can." : "This file is not a picture.";
    at("preview").hidden = true;
    at("unseen").hidden = false;
  }

  function shaded(name, words, weights) {
    // As on the page of `mvsent explain`: words of equal weight get half the full shade.
    const mean = weights.reduce((sum, weight) => sum + weight, 0) / weights.length;
    const strongest = Math.max(...weights, 2 * mean);
    const spans = words.flatMap((word, i) => {
      const step = strongest > 0 ? Math.round((SHADES * (weights[i] ?? 0)) / strongest) : 0;
      return [element("span", { class: `shade-${step}` }, word), " "];
    });
    return element("figure", {},
      element("p", { class: "shaded", dir: "auto" }, ...spans),
      element("figcaption", {}, `${name}: a stronger colour is more weight; if all words have half the colour, their weights are equal`));
  }

  function show(found) {
    at("probabilities").replaceChildren(...Object.entries(found.probabilities).flatMap(([name, value]) => {
      const percent = `${(100 * value).toFixed(1)}\u00a0%`;
      const meter = element("meter", { class: name, min: 0, max: 1, value, "aria-label": name }, percent);
      return [element("dt", {}, name), element("dd", {}, meter, ` ${percent}`)];
    }));
    const layers = Object.entries({ ...(found.picture && { picture: found.picture }), ...found.maps });
    at("layers").replaceChildren(...layers.map(([name, uri]) => element("figure", {},
      element("img", { src: uri, alt: name === "picture" ? "The picture" : `The picture with its ${name} map` }),
      element("figcaption", {}, name === "picture" ? name : `${name} (bright: more, dark: less)`))));
    at("shades").replaceChildren(...Object.entries(found.shades)
      .map(([name, weights]) => shaded(name, found.words, weights)));
    at("note").textContent = found.note;
    at("worth").hidden = Object.keys({ ...found.maps, ...found.shades }).length === 0;
    answer.hidden = false;
    const best = Math.max(...Object.values(found.probabilities));
    const without = { image: ", judged without picture", text: ", judged without text" }[found.missing] ?? "";
    say(`It feels ${found.label}, with ${(100 * best).toFixed(1)}\u00a0%${without}.`, false);
  }

  async function ask() {
    const pair = new FormData();
    if (image.files[0]) pair.append("image", image.files[0]);
    pair.append("text", at("text").value);
    pair.append("explain", at("explain").checked);
    const reply = await fetch("/api/predict", { method: "POST", body: pair });
    const found = await reply.json();
    if (!reply.ok) throw new Error(found.error);
    return found;
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (at("ask").getAttribute("aria-disabled") === "true") return;
    at("ask").setAttribute("aria-disabled", "true"); // a disabled button would lose the focus
    say("Asking …", false);
    const asked = version;
    try {
      const found = await ask();
      if (asked === version) show(found);
    } catch (error) {
      if (asked !== version) return;
      answer.hidden = true;
      say(error instanceof TypeError ? "The server does not answer." : `No answer: ${error.message}.`, true);
    } finally {
      at("ask").removeAttribute("aria-disabled");
    }
  });

  form.addEventListener("input", forget);
  image.addEventListener("change", showChosen);
  at("preview").addEventListener("error", showUnseen);
  at("remove").addEventListener("click", () => {
    image.value = "";
    showChosen();
    image.focus();
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault(); // the browser would otherwise open the picture
      drop.classList.toggle("over", kind === "dragover");
    });
  }
  document.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    const one = new DataTransfer();
    one.items.add(event.dataTransfer.files[0]);
    image.files = one.files;
    showChosen();
  });
  showChosen();
})();
