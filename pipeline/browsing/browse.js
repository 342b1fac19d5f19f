// Arrow keys lead to the previous and the next page, and the box under the pointer is named. Pages work without it.
"use strict";
document.addEventListener("keydown", (event) => {
  const rel = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  const isTyping = event.target.closest("input, select, textarea, video, .scrolled");
  if (!rel || isTyping || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const link = document.querySelector(`a[rel="${rel}"]`);
  if (link) link.click();
});
const hint = document.getElementById("box-name");
if (hint) {
  const words = hint.textContent;
  const show = (event) => {
    const box = event.target.closest(".strip a");
    hint.textContent = box ? box.getAttribute("aria-label") : words;
  };
  for (const kind of ["pointerover", "focusin"]) document.addEventListener(kind, show);
}
