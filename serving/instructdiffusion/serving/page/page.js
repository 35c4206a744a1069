// The page: choose a picture and an instruction, send both to `edit`, draw what was found over the answer.
// Every address is relative, so that the page works behind any prefix.

const $ = (id) => document.getElementById(id);
const INKS = ["#e6194b", "#0082c8", "#3cb44b", "#f58231", "#911eb4", "#111111"];
const shown = { file: null, coming: null, name: "", answer: null }; // coming: the picture of an example

const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

function choose(file, name = "picture.png") {
  URL.revokeObjectURL($("source").src);
  Object.assign(shown, { file, coming: null, name: file.name ?? name });
  $("source").src = URL.createObjectURL(file);
  $("source").hidden = false;
  $("hint").hidden = true;
}

// Of several that are on their way the last one counts.
function chooseExample(example, task, number) {
  $("instruction").value = example.instruction;
  $("task").value = "";
  const coming = fetch(example.image).then((answer) => answer.blob()).then((picture) => {
    if (shown.coming === coming) choose(picture, `${task}-${number}.png`);
  });
  shown.coming = coming;
}

function showTask(task, examples) {
  for (const button of $("tasks").children) button.ariaPressed = String(button.dataset.task === task);
  $("examples").replaceChildren(
    ...examples.map((example, number) => {
      const picture = element("img", { src: example.image, alt: "", width: 76, height: 76 });
      const button = element("button", { type: "button" }, picture, element("span", { textContent: example.instruction }));
      button.onclick = () => chooseExample(example, task, number);
      return button;
    }),
  );
}

async function start() {
  const answer = await fetch("tasks");
  $("version").textContent = `model ${answer.headers.get("X-Model-Version")}`;
  const tasks = Object.entries(await answer.json());
  for (const [task, { examples }] of tasks) {
    const button = element("button", { type: "button", textContent: task });
    button.dataset.task = task;
    button.onclick = () => showTask(task, examples);
    $("tasks").append(button);
    $("task").append(element("option", { value: task, textContent: task }));
  }
  const [task, { examples }] = tasks.find(([name]) => name === "referring") ?? tasks[0];
  showTask(task, examples);
  if (!shown.file) chooseExample(examples[0], task, 0);
}

async function edit(event) {
  event?.preventDefault();
  const fields = [...new FormData($("ask"))].filter(([, value]) => value !== "");
  $("go").disabled = true;
  $("answer").classList.add("busy");
  try {
    await shown.coming;
    const { file, name } = shown;
    if (!file) throw new Error("Choose a picture first.");
    const body = new FormData();
    body.append("image", file, name);
    for (const [field, value] of fields) body.append(field, value);
    const response = await fetch("edit", { method: "POST", body });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    await show(answer, file);
    showCall(fields, name);
  } catch (error) {
    say([element("p", { className: "error", textContent: error.message })]);
  } finally {
    $("go").disabled = false;
    $("answer").classList.remove("busy");
  }
}

async function show(answer, file) {
  shown.answer = answer;
  $("after").src = $("save").href = `data:image/png;base64,${answer.picture}`;
  URL.revokeObjectURL($("before").src);
  $("before").src = URL.createObjectURL(file);
  await $("after").decode();
  for (const id of ["compare", "controls", "actions", "call"]) $(id).hidden = false;
  $("idle").hidden = true;
  slide();
  place();
  say([...words(answer), facts(answer)]);
}

const say = (lines) => $("result").replaceChildren(...lines);

function words({ found }) {
  const line = (textContent) => element("p", { className: "say", textContent });
  if (!found) return [line("Edited")];
  if (found.kind === "nothing") return [line("Nothing found")];
  if (found.kind === "joints") {
    const joints = Object.entries(found.joints).map(([name, { x, y, confidence }]) =>
      element("li", { textContent: `${name} at ${Math.round(x)}, ${Math.round(y)} (${percent(confidence)})` }),
    );
    return [line(`Found ${joints.length} ${joints.length === 1 ? "joint" : "joints"}`), element("ul", { className: "joints" }, ...joints)];
  }
  const [left, top, right, bottom] = found.box.map(Math.round);
  const pixels = found.mask.counts.filter((_, i) => i % 2).reduce((sum, run) => sum + run, 0);
  const share = percent(pixels / (found.mask.size[0] * found.mask.size[1]));
  return [line(`Found a region of ${right - left} × ${bottom - top} pixels at ${left}, ${top}: ${share} of the picture`)];
}

const percent = (share) => `${Math.round(100 * share)} %`;

function facts({ task, confidence, seed, seconds, model_version }) {
  const line = element("p", { className: "facts" });
  if (confidence !== null) line.append("confidence ", element("meter", { value: confidence, title: percent(confidence) }), ` ${percent(confidence)} · `);
  line.append(`${task ? `understood as ${task}` : "an edit of no known task"} · ${seconds.toFixed(1)} s · seed ${seed} · model ${model_version}`);
  return line;
}

// Fit the answer into its stage, and draw at the screen's resolution.
function place() {
  if (!shown.answer) return;
  const { naturalWidth: width, naturalHeight: height } = $("after");
  const scale = Math.min($("answer").clientWidth / width, $("answer").clientHeight / height);
  Object.assign($("compare").style, { width: `${width * scale}px`, height: `${height * scale}px` });
  const canvas = $("drawn");
  canvas.width = width * scale * devicePixelRatio;
  canvas.height = height * scale * devicePixelRatio;
  const pen = canvas.getContext("2d");
  pen.scale(devicePixelRatio, devicePixelRatio);
  if ($("draw").checked) draw(pen, shown.answer.found, scale);
}

function draw(pen, found, scale) {
  if (found?.kind === "region") drawRegion(pen, found, scale);
  if (found?.kind === "joints") drawJoints(pen, found.joints, scale);
}

function drawRegion(pen, { box, mask }, scale) {
  const [height, width] = mask.size;
  const inside = decode(mask);
  pen.beginPath(); // along every side of a pixel that has no neighbour in the mask
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!inside(x, y)) continue;
      if (!inside(x - 1, y)) side(x, y, x, y + 1);
      if (!inside(x + 1, y)) side(x + 1, y, x + 1, y + 1);
      if (!inside(x, y - 1)) side(x, y, x + 1, y);
      if (!inside(x, y + 1)) side(x, y + 1, x + 1, y + 1);
    }
  }
  outline(pen, "#fff", 4);
  outline(pen, INKS[0], 2);
  const [left, top, right, bottom] = box.map((value) => value * scale);
  pen.beginPath();
  pen.setLineDash([7, 5]);
  pen.rect(left, top, right - left, bottom - top);
  outline(pen, "#fff", 3);
  outline(pen, INKS[1], 1.5);
  pen.setLineDash([]);

  function side(x0, y0, x1, y1) {
    pen.moveTo(x0 * scale, y0 * scale);
    pen.lineTo(x1 * scale, y1 * scale);
  }
}

function outline(pen, color, width) {
  Object.assign(pen, { strokeStyle: color, lineWidth: width, lineCap: "round" });
  pen.stroke();
}

// COCO's run lengths: column by column, background first.
function decode({ size: [height, width], counts }) {
  const cells = new Uint8Array(width * height);
  let at = 0;
  counts.forEach((run, i) => {
    if (i % 2) cells.fill(1, at, at + run);
    at += run;
  });
  return (x, y) => x >= 0 && y >= 0 && x < width && y < height && cells[x * height + y] === 1;
}

function drawJoints(pen, joints, scale) {
  pen.font = "600 13px system-ui, sans-serif";
  Object.entries(joints).forEach(([name, { x, y }], i) => {
    const [cx, cy, ink] = [(x + 0.5) * scale, (y + 0.5) * scale, INKS[i % INKS.length]];
    pen.beginPath();
    pen.arc(cx, cy, 8, 0, 2 * Math.PI);
    pen.moveTo(cx - 13, cy);
    pen.lineTo(cx + 13, cy);
    pen.moveTo(cx, cy - 13);
    pen.lineTo(cx, cy + 13);
    outline(pen, "#fff", 5);
    outline(pen, ink, 2.5);
    Object.assign(pen, { strokeStyle: "#fff", lineWidth: 4, lineJoin: "round", fillStyle: ink });
    const left = cx + 16 + pen.measureText(name).width > pen.canvas.width / devicePixelRatio;
    pen.textAlign = left ? "right" : "left";
    pen.strokeText(name, cx + (left ? -16 : 16), cy - 8);
    pen.fillText(name, cx + (left ? -16 : 16), cy - 8);
  });
}

function slide() {
  $("compare").style.setProperty("--cut", `${$("slider").value}%`);
  $("divider").hidden = $("slider").value === "0";
}

function showCall(fields, name) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = fields.map(([field, value]) => `  --form-string ${quoted(`${field}=${value}`)}`);
  const address = new URL("edit", location.href).href;
  $("curl").textContent = [`curl ${address}`, `  --form ${quoted(`image=@${name}`)}`, ...parts].join(" \\\n");
}

$("ask").onsubmit = edit;
$("file").onchange = () => $("file").files[0] && choose($("file").files[0]);
$("slider").oninput = slide;
$("draw").onchange = place;
window.onresize = place;
$("again").onclick = async () => choose(await (await fetch($("save").href)).blob(), "edited.png");
$("reroll").onclick = () => {
  $("seed").value = Math.floor(Math.random() * 2 ** 32);
  edit();
};
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) choose(event.dataTransfer.files[0]);
  });
}
document.onpaste = ({ clipboardData }) => clipboardData.files[0] && choose(clipboardData.files[0]);
start().catch((error) => say([element("p", { className: "error", textContent: `The service does not answer (${error.message}).` })]));
