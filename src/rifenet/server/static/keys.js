// The keyboard: everything that the pointer does on the stage.

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const TOOLS = { b: "brush", e: "eraser", p: "polygon", m: "pan" };

/** `act` has choose(tool), resize(step), toggle(). */
export function listen(editor, act) {
  editor.canvas.addEventListener("keydown", (event) => {
    if (editor.photo && !event.ctrlKey && !event.metaKey && onStage(editor, event)) event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.target.matches("input[type=text], input[type=color]")) return;
    if (event.ctrlKey || event.metaKey ? onHistory(editor, event) : onPage(editor, act, event)) event.preventDefault();
  });
}

function onStage(editor, event) {
  const { width, height } = editor.photo.labels;
  if (ARROWS[event.key]) {
    const from = editor.cursor ?? [width / 2, height / 2], step = editor.tool === "polygon" ? 6 : Math.max(1, editor.radius / 2);
    const [dx, dy] = ARROWS[event.key];
    const to = [Math.min(width, Math.max(0, from[0] + dx * step)), Math.min(height, Math.max(0, from[1] + dy * step))];
    if (event.shiftKey && editor.canPaint && editor.tool !== "polygon") {
      editor.begin(from);
      editor.strokeTo(to);
      editor.end();
    }
    editor.cursor = to;
    editor.reveal(to);
    return true;
  }
  if (event.key === " " && editor.canPaint) {
    editor.cursor ??= [width / 2, height / 2];
    if (editor.tool === "polygon") editor.addCorner(editor.cursor);
    else {
      editor.begin(editor.cursor);
      editor.end();
    }
    return true;
  }
  if (event.key === "Enter" && editor.corners.length) editor.close();
  else if (event.key === "Escape" && editor.corners.length) editor.drop();
  else return false;
  return true;
}

function onHistory(editor, event) {
  const key = event.key.toLowerCase();
  if (key === "z") event.shiftKey ? editor.redo() : editor.undo();
  else if (key === "y") editor.redo();
  else return false;
  return true;
}

function onPage(editor, act, event) {
  const key = event.key.toLowerCase();
  if (TOOLS[key]) act.choose(TOOLS[key]);
  else if (key === "[") act.resize(-4);
  else if (key === "]") act.resize(4);
  else if (key === "v") act.toggle();
  else if (key === "+" || key === "=") editor.zoom(1.25);
  else if (key === "-") editor.zoom(0.8);
  else if (key === "0") editor.fit();
  else return false;
  return true;
}
