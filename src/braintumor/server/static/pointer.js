// Mouse and fingers on a view: drag for window and level, shift, right or middle drag to move, two fingers to zoom; the wheel scrolls or zooms.

const LEVELS_PER_PIXEL = 1;
const ZOOM_PER_PIXEL = 0.0015;
const NOTCH = 80; // pixels by which the wheel goes on, or fingers on a pad

// `scroll(count)` goes on by so many slices, and says whether there are any; otherwise the wheel zooms.
export function follow(canvas, {window, move, zoom, scroll}) {
  const down = new Map();
  let moves = false;
  let rolled = 0;
  const pointOf = (event) => ({x: event.offsetX, y: event.offsetY});

  // A notch of a mouse is one slice; small steps of a pad add up.
  const notches = (delta) => {
    if (delta * rolled < 0) rolled = 0;
    const count = Math.trunc((rolled + delta) / NOTCH);
    rolled = Math.abs(delta) < NOTCH ? rolled + delta - count * NOTCH : 0;
    return count;
  };

  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("mousedown", (event) => event.button === 1 && event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, pointOf(event));
    moves = event.pointerType === "mouse" && (event.button !== 0 || event.shiftKey);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => down.delete(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    const before = down.get(event.pointerId);
    if (!before) return;
    const now = pointOf(event);
    const [dx, dy] = [now.x - before.x, now.y - before.y];
    down.set(event.pointerId, now);
    if (down.size === 1) return moves ? move(dx, dy) : window(LEVELS_PER_PIXEL * dx, LEVELS_PER_PIXEL * dy);
    const other = [...down].find(([id]) => id !== event.pointerId)[1];
    const apart = (point) => Math.hypot(point.x - other.x, point.y - other.y);
    zoom(apart(now) / Math.max(1, apart(before)), (now.x + other.x) / 2, (now.y + other.y) / 2);
    move(dx / 2, dy / 2);
  });
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
      if (!event.ctrlKey && scroll(notches(event.deltaY * lines))) return;
      zoom(Math.exp(-event.deltaY * lines * ZOOM_PER_PIXEL * (event.ctrlKey ? 6 : 1)), event.offsetX, event.offsetY);
    },
    {passive: false},
  );
}
