// The output of a Job as it grows. What comes is text and is only ever put in as text.
"use strict";
(() => {
  const box = document.getElementById("tail"), told = document.getElementById("tail-told");
  if (!box) return;
  const MOST = 400000, AGAIN_MS = 5000, PAUSE_MS = 500;
  const pause = (ms) => new Promise((go) => setTimeout(go, ms));
  let known = null;
  async function ask() {
    const asked = new URLSearchParams({ path: box.dataset.file });
    if (known) { asked.set("offset", known.end); asked.set("file_id", known.file_id); }
    const reply = await fetch(`/ui/jobs/${box.dataset.job}/tail?${asked}`, { headers: { "HX-Request": "true" } });
    if (reply.status === 401) { location.reload(); return null; }
    return reply.json();
  }
  function put(found) {
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    if (known && found.file_id && found.offset !== known.end) box.textContent = "";
    if (!known && found.offset > 0) box.append("[only the end is shown]\n");
    if (found.text) box.append(found.text);
    if (box.textContent.length > MOST) box.textContent = box.textContent.slice(-MOST / 2);
    if (atEnd) box.scrollTop = box.scrollHeight;
    known = found;
    told.textContent = box.textContent ? box.dataset.file + ", as it grows" : box.dataset.file + " is empty so far";
  }
  (async () => {
    for (;;) {
      if (document.hidden) { await pause(PAUSE_MS); continue; }
      try {
        const found = await ask();
        if (found === null) return;
        if (found.error === undefined) { put(found); await pause(PAUSE_MS); continue; }
        told.textContent = found.is_missing ? `There is no ${box.dataset.file} (yet).` : found.error;
      } catch (error) {
        told.textContent = "The service did not answer; asking again.";
      }
      await pause(AGAIN_MS);
    }
  })();
})();
