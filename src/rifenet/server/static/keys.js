// The keyboard: everything that the pointer does on the stage.

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const TOOLS = { s: "object", d: "background", b: "brush", e: "eraser", p: "polygon", m: "pan" };

/**
 * `act` has choose(tool), resize(step), toggle(), undo(), redo(), and those of results, each of which says whether there was
 * one to act on: accept(), teach(), step(by), gallery().
 */
export function listen(editor, act) {
  editor.canvas.addEventListener("keydown", (event) => {
    if (editor.photo && !event.ctrlKey && !event.metaKey && onStage(editor, event)) event.preventDefault();
  });
  const endStroke = () => editor.marking && !editor.pointers.size && editor.end();
  editor.canvas.addEventListener("keyup", (event) => event.key === "Shift" && endStroke());
  editor.canvas.addEventListener("blur", endStroke);
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.target.matches("input[type=text], input[type=color]")) return;
    if (event.altKey || document.querySelector("dialog[open]")) return;
    if (event.ctrlKey || event.metaKey ? onHistory(act, event) : onPage(editor, act, event)) event.preventDefault();
  });
}

function onStage(editor, event) {
  const { width, height } = editor.photo.labels;
  if (ARROWS[event.key]) {
    const from = editor.cursor ?? [width / 2, height / 2], step = editor.tool === "polygon" || editor.isSmart ? 6 : Math.max(1, editor.radius / 2);
    const [dx, dy] = ARROWS[event.key];
    const to = [Math.min(width, Math.max(0, from[0] + dx * step)), Math.min(height, Math.max(0, from[1] + dy * step))];
    if (event.shiftKey && editor.canPaint && editor.tool !== "polygon") {
      if (!editor.marking) editor.begin(from);
      editor.strokeTo(to);
      if (!editor.marking) editor.end(); // a stroke that marks ends with the key Shift
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
  else if (event.key === "Backspace" && editor.dropCorner()) return true;
  else if (event.key === "Escape" && editor.corners.length) editor.drop();
  else return false;
  return true;
}

function onHistory(act, event) {
  const key = event.key.toLowerCase();
  if (key === "z") event.shiftKey ? act.redo() : act.undo();
  else if (key === "y") act.redo();
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
  else if (key === "a") return act.accept();
  else if (key === "x") return act.teach();
  else if (key === "n" || key === "pagedown") return act.step(event.shiftKey ? -1 : 1);
  else if (key === "pageup") return act.step(-1);
  else if (key === "g") return act.gallery();
  else return false;
  return true;
}
