// The model card as a table: one row per fact, one column per model.

export function cardTable(models, classes) {
  const rows = [
    ["Intended use", (card) => card.intended_use],
    ["Licence", (card) => card.licence],
    ["Identity", (_, model) => model.identity],
    ["Architecture", (card) => card.architecture],
    ["Input", (_, model) => `one slice, ${model.input_pixels} × ${model.input_pixels} pixels`],
    ["Recipe", (card) => card.recipe],
    ["Start of weights", (card) => short(card.weights_origin)],
    ["Parameters", ({metrics}) => large(metrics?.parameters)],
    ["Multiply-adds per slice", ({metrics}) => large(metrics?.multiply_adds)],
    ["Training time", ({metrics}) => metrics?.train_minutes && `${metrics.train_minutes} min`],
    ["Data"],
    ["Training slices", ({data}) => counts(data?.counts?.train, classes)],
    ["Validation slices", ({data}) => counts(data?.counts?.val, classes)],
    ["Test slices", ({data}) => counts(data?.counts?.test, classes)],
    ["Groups (patients, near-duplicates)", ({data}) => large(data?.groups)],
    ["Tested on slices of other patients"],
    ["Protocol", ({metrics}) => metrics?.tested?.protocol],
    ["Slices, groups", ({metrics}) => [metrics?.tested?.n_images, metrics?.tested?.n_groups].filter((n) => n != null).join(", ")],
    ["Accuracy", ({metrics}) => interval(metrics?.tested?.accuracy) || "not recorded"],
    ...classes.map(({name, title}) => [`Recall, ${title}`, ({metrics}) => interval(metrics?.tested?.per_class?.[name]?.recall)]),
    ...classes.map(({name, title}) => [`Precision, ${title}`, ({metrics}) => interval(metrics?.tested?.per_class?.[name]?.precision)]),
    ["On validation slices, with which the model was tuned"],
    ["Accuracy", ({metrics}) => interval(metrics?.validation?.accuracy)],
    ["Macro F1", ({metrics}) => interval(metrics?.validation?.macro_f1)],
    ["Slices", ({metrics}) => large(metrics?.validation?.n)],
    ["Decisions"],
    ["Share of slices answered", (_, model) => fraction(model.coverage)],
    ["Referred as uncertain below", (_, model) => fraction(model.confidence)],
    ["Referred as unlike the training images above", (_, model) => fraction(model.ood_threshold) ?? "never"],
    ["Classified as not a brain MRI above", (_, model) => fraction(model.far_ood_threshold) ?? "never"],
    ["Temperature of the probabilities", (card) => fraction(card.temperature)],
    ["Full colour of the maps at", (_, model) => fraction(model.class_map_scale)],
  ];
  const table = document.createElement("table");
  table.className = "facts-table";
  const head = table.createTHead().insertRow();
  head.append(header("", "col"), ...models.map(({name}) => header(name, "col")));
  const body = table.createTBody();
  let section = null;
  for (const [title, value] of rows) {
    if (!value) {
      section = title;
      continue;
    }
    const values = models.map((model) => value(model.card, model));
    if (values.every((text) => text == null || text === "")) continue;
    if (section) {
      const cell = header(section, "colgroup");
      cell.colSpan = models.length + 1;
      body.insertRow().append(cell);
      section = null;
    }
    const row = body.insertRow();
    row.append(header(title, "row"));
    for (const text of values) row.insertCell().textContent = text ?? "–";
  }
  return table;
}

export function wholeCard(model) {
  const details = document.createElement("details");
  const [summary, text] = [document.createElement("summary"), document.createElement("pre")];
  summary.textContent = `Everything recorded about ${model.name}`;
  text.textContent = JSON.stringify(model.card, null, 1);
  text.tabIndex = 0;
  details.append(summary, text);
  return details;
}

function header(text, scope) {
  const cell = document.createElement("th");
  cell.scope = scope;
  cell.textContent = text;
  return cell;
}

function short(text, most = 120) {
  return text?.length > most ? `${text.slice(0, most)} … (in full below)` : text;
}

function large(number) {
  return number == null ? null : number.toLocaleString("en");
}

function fraction(number) {
  return number == null ? null : String(Number(number.toPrecision(4)));
}

function counts(byClass, classes) {
  if (!byClass) return null;
  const all = Object.values(byClass).reduce((sum, n) => sum + n, 0);
  return `${large(all)}: ${classes.map(({name, title}) => `${title} ${large(byClass[name] ?? 0)}`).join(", ")}`;
}

function interval(metric) {
  if (metric == null) return null;
  if (typeof metric === "number") return metric.toFixed(3);
  const {value, low, high, n} = metric;
  if (value == null) return null;
  const between = low == null ? "" : ` (95 % interval ${low.toFixed(3)} – ${high.toFixed(3)})`;
  return `${value.toFixed(3)}${between}${n == null ? "" : `, n ${large(n)}`}`;
}
