"use strict";
// Draws the charts in the colours of the scheme, and lets their evaluations be pointed at and pinned.
(async () => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const items = read("chart-items"), data = read("page-data").evaluations;
  Bokeh.logger.set_level("error");

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const {Document} = Bokeh.require("document/document");
  const charts = {};
  // A chart's models; nothing is drawn of them yet, so what is set here costs no drawing.
  function make(place) {
    const key = place.dataset.chart;
    const whole = Document.from_json(items[key].doc);
    return charts[key] = {place, whole, plot: whole.roots()[0], kind: key.replace("front-", "")};
  }
  async function draw(chart) {
    const views = await Bokeh.embed.add_document_standalone(chart.whole, chart.place);
    chart.view = [...views.roots][0];
  }
  const places = [...document.querySelectorAll("[data-chart]")];
  const fronts = places.filter((place) => "explorable" in place.dataset).map(make);

  // ---- Colours: a renderer is named for the variable of the style sheet that it has its colour from.
  function paint(those) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const ink = colour("ink"), quiet = colour("quiet"), line = colour("line"), grid = colour("grid"), paper = colour("paper");
    for (const {plot} of those) {
      for (const axis of [...plot.left, ...plot.below]) {
        axis.setv({axis_line_color: line, major_tick_line_color: line, major_label_text_color: quiet, axis_label_text_color: ink});
      }
      for (const part of plot.center) {
        if (part.type === "Grid") part.setv({grid_line_color: grid});
        else if (part.type === "Span") part.setv({line_color: quiet});
        else if (part.type === "Label") part.setv({text_color: quiet});
        else if (part.type === "LabelSet") part.setv({text_color: ink, background_fill_color: paper, background_fill_alpha: 0.6});
      }
      for (const renderer of plot.renderers) {
        const own = renderer.name === "ink" ? ink : colour(renderer.name.replace(/\d+/, (n) => n % 8));
        const glyph = renderer.glyph, wanted = {};
        for (const name of ["line_color", "fill_color"]) if (name in glyph) wanted[name] = {value: own};
        glyph.setv(wanted);
      }
    }
    document.documentElement.dataset.drawn = matchMedia("print").matches || !dark.matches ? "light" : "dark";
    keepForPrint();
  }

  // ---- Paper: a chart is printed as a picture, taken whenever it has come to rest.
  let waiting = 0;
  function keepForPrint() {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      for (const [key, {view, place}] of Object.entries(charts)) {
        if (!view || !place.offsetWidth) continue;
        const picture = document.querySelector(`[data-print="${key}"]`);
        picture.src = view.export("png", true).canvas.toDataURL();
        picture.alt = place.getAttribute("aria-label");
      }
      if (document.documentElement.dataset.ready === "all") document.documentElement.dataset.ready = "print";
    }, 700);
  }

  // ---- Evaluations
  const numbers = (text, kind) => {
    const characters = atob(text), bytes = new Uint8Array(characters.length);
    for (let place = 0; place < bytes.length; place++) bytes[place] = characters.charCodeAt(place);
    return new kind(bytes.buffer);
  };
  let columns = null, plans = null, shown = -1;
  const hidden = new Set(), pinned = [];

  const renderer = (plot, tag) => plot.renderers.find((one) => one.tags.includes(tag));
  const fill = (plot, tag, x, y) => { renderer(plot, tag).data_source.data = {x, y}; };

  function load() {
    columns = {of: numbers(data.of, Uint8Array), number: numbers(data.number, Uint32Array)};
    for (const name of ["latency", "memory", "accuracy", "score"]) columns[name] = numbers(data[name], Float32Array);
    data.series.forEach((_, series) => {
      const rows = [...columns.of.keys()].filter((row) => columns.of[row] === series);
      for (const {plot, kind} of fronts) {
        fill(plot, `points-${series}`, Float32Array.from(rows, (row) => columns[kind][row]), Float32Array.from(rows, (row) => columns.accuracy[row]));
      }
    });
  }

  // What every plan keeps is packed: for each dimension the place of its value among those that occur.
  async function unpack() {
    const packed = numbers(data.plans, Uint8Array);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const whole = await new Response(stream).arrayBuffer();
    plans = data.wide ? new Uint16Array(whole) : new Uint8Array(whole);
  }
  const kept = (row) => data.values.map((values, dimension) => values[plans[dimension * columns.of.length + row]]);

  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  const share = (value, whole) => (whole ? ` (${(100 * value / whole).toFixed(1)}\u00a0%)` : "");

  const told = (value) => (data.measure.percent ? `${value.toFixed(2)} % ${data.measure.name}` : `${data.measure.name} ${value.toPrecision(4)}`);

  function describe(row) {
    const {latency, memory, accuracy, score} = columns;
    const parts = [`${told(accuracy[row])} before fine-tuning, score ${score[row].toPrecision(4)}`,
      `${latency[row].toPrecision(4)} ${data.unit}${share(latency[row], data.dense.latency)}`];
    if (!Number.isNaN(memory[row])) parts.push(`${memory[row].toFixed(2)} MiB${share(memory[row], data.dense.memory)}`);
    const over = ["latency", "memory"].filter((kind) => data.budget[kind] && columns[kind][row] > data.budget[kind] * (1 + 1e-6));
    return [parts[0], `${parts.slice(1).join(", ")}, ${over.length ? `over the budget of ${over.join(" and ")}` : "within the budget"}`];
  }
  const name = (row) => `${data.series[columns.of[row]]}, evaluation ${columns.number[row]}`;

  function card(row, detailed) {
    const made = [element("h3", {}, name(row))];
    made.push(...describe(row).map((words) => element("p", {textContent: words})));
    if (plans) {
      const values = kept(row), widths = values.slice(0, data.groups.length);
      const gone = data.branches.filter((_, place) => values[data.groups.length + place] === 0);
      const strip = element("div", {className: "strip"});
      strip.setAttribute("role", "img");
      strip.setAttribute("aria-label", "Share of the channels that every group keeps, in the order of the network");
      widths.forEach((width, place) => {
        const bar = element("i", {title: `${data.groups[place]}: ${width || "gone"} of ${data.sizes[place]}`, className: width ? "" : "gone"});
        bar.style.setProperty("--left", `${100 * width / data.sizes[place]}%`);
        strip.append(bar);
      });
      const total = widths.reduce((sum, width) => sum + width, 0), whole = data.sizes.reduce((sum, size) => sum + size, 0);
      made.push(strip, element("p", {className: "small"}, `${Math.round(100 * total / whole)} % of the channels${gone.length ? `, without ${gone.join(", ")}` : ""}`));
      if (!detailed) return made;
      const list = element("ul", {className: "widths"}, ...widths.map((width, place) => element("li", {}, `${data.groups[place]} ${width || "gone"} of ${data.sizes[place]}`)));
      made.push(element("details", {}, element("summary", {}, "Channels of every group"), list));
    }
    return made;
  }

  const panel = document.getElementById("plan-shown"), cards = document.getElementById("plans-pinned");
  function point(row) {
    if (row === shown) return;
    shown = row;
    panel.classList.toggle("empty", row < 0);
    panel.replaceChildren(...(row < 0 ? [] : card(row)));
    for (const {plot, kind} of fronts) fill(plot, "cursor", row < 0 ? [] : [columns[kind][row]], row < 0 ? [] : [columns.accuracy[row]]);
  }
  function pin(row) {
    if (row < 0) return;
    const place = pinned.indexOf(row);
    if (place < 0) pinned.push(row); else pinned.splice(place, 1);
    cards.replaceChildren(...pinned.map((one) => {
      const made = element("article", {className: "card pinned"}, ...card(one, true));
      const away = element("button", {type: "button", onclick: () => { pin(one); cards.querySelector("button")?.focus(); }}, "Unpin");
      away.setAttribute("aria-label", `Unpin ${name(one)}`);
      made.querySelector("h3").append(away);
      return made;
    }));
    for (const {plot, kind} of fronts) fill(plot, "pins", pinned.map((one) => columns[kind][one]), pinned.map((one) => columns.accuracy[one]));
    keepForPrint();
  }

  // The plan nearest to a place on a chart, within reach of a finger.
  function nearest({plot, kind}, x, y) {
    const across = plot.inner_width / (plot.x_range.end - plot.x_range.start);
    const up = plot.inner_height / (plot.y_range.end - plot.y_range.start);
    let found = -1, least = 24 * 24;
    for (let row = 0; row < columns.of.length; row++) {
      const dx = (columns[kind][row] - x) * across, dy = (columns.accuracy[row] - y) * up, distance = dx * dx + dy * dy;
      if (distance < least && !hidden.has(columns.of[row])) { least = distance; found = row; }
    }
    return found;
  }

  function listen(front) {
    const {plot, place, kind} = front;
    let order = null;
    plot.on_event("mousemove", ({x, y}) => point(nearest(front, x, y)));
    plot.on_event("mouseleave", () => point(-1));
    // What is shown does not cover what is pointed at.
    for (const kind of ["pointermove", "focus"]) {
      place.addEventListener(kind, ({clientX}) => {
        const {left, width} = place.getBoundingClientRect();
        panel.classList.toggle("left", (clientX ?? left + width / 2) > innerWidth / 2);
      });
    }
    plot.on_event("tap", ({x, y}) => { const row = nearest(front, x, y); point(row); pin(row); });
    place.addEventListener("keydown", (event) => {
      order ??= [...columns.of.keys()].sort((a, b) => columns[kind][a] - columns[kind][b]);
      const rows = order.filter((row) => !hidden.has(columns.of[row]));
      const here = rows.indexOf(shown), last = rows.length - 1;
      const steps = {ArrowRight: here + 1, ArrowUp: here + 1, ArrowLeft: here - 1, ArrowDown: here - 1, PageUp: here + 25, PageDown: here - 25, Home: 0, End: last};
      if (event.key in steps) point(rows[Math.max(0, Math.min(last, here < 0 && event.key !== "End" ? 0 : steps[event.key]))] ?? -1);
      else if (event.key === "Enter" || event.key === " ") pin(shown);
      else if (event.key === "Escape") point(-1);
      else return;
      event.preventDefault();
    });
  }

  function zoom(near) {
    for (const {plot, kind} of fronts) {
      const limit = near && data.budget[kind];
      const rows = [...columns.of.keys()].filter((row) => !limit || Math.abs(columns[kind][row] / limit - 1) < 0.25);
      if (!limit || rows.length < 2) { plot.x_range.reset(); plot.y_range.reset(); continue; }
      const range = (values, one) => {
        const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
        const room = 0.08 * (high - low) || 1;
        one.setv({start: low - room, end: high + room});
      };
      range(rows.map((row) => columns[kind][row]), plot.x_range);
      range(rows.map((row) => columns.accuracy[row]), plot.y_range);
    }
    keepForPrint();
  }

  if (data && fronts.length) {
    load();
    fronts.forEach(listen);
    for (const box of document.querySelectorAll("[data-series]")) {
      box.addEventListener("change", () => {
        const series = Number(box.dataset.series);
        if (box.checked) hidden.delete(series); else hidden.add(series);
        for (const {plot} of fronts) renderer(plot, `points-${series}`).visible = box.checked;
        point(-1);
        keepForPrint();
      });
    }
    document.getElementById("zoom-budget").addEventListener("click", () => zoom(true));
    document.getElementById("zoom-all").addEventListener("click", () => zoom(false));
    document.getElementById("zoom-budget").hidden = !(data.budget.latency || data.budget.memory);
  }
  const paintAll = () => paint(Object.values(charts));
  dark.addEventListener("change", paintAll);
  matchMedia("print").addEventListener("change", paintAll);
  addEventListener("resize", keepForPrint);
  paint(fronts);
  for (const front of fronts) {
    await draw(front);
    // The first is seen while the next is drawn.
    if (!front.whole.is_idle) await new Promise((resolve) => front.whole.idle.connect(resolve));
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  }
  document.documentElement.dataset.ready = "charts";
  if (data && fronts.length && "DecompressionStream" in window) await unpack();
  for (const place of places.filter((place) => !("explorable" in place.dataset))) {
    await new Promise((resolve) => setTimeout(resolve));
    const chart = make(place);
    paint([chart]);
    await draw(chart);
  }
  document.documentElement.dataset.ready = "all";
  keepForPrint();
})();
