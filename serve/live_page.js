// Keeps a page up to date: asks for it again, and shows what has changed.  The server says when to ask.
"use strict";
const state = document.getElementById("live");
// Without the user and password that the address of a page may have: `fetch` takes none.
const address = location.origin + location.pathname + location.search;
let failures = 0, asking = false, timer;

function say(text, fresh) {
  state.textContent = text;
  state.className = fresh ? "fresh" : "stale";
}

async function refresh() {
  if (asking) return;
  clearTimeout(timer);
  if (!document.hidden) {
    asking = true;
    try {
      const headers = { "if-none-match": `"${document.querySelector("main").dataset.tag}"` };
      const reply = await fetch(address, { headers, cache: "no-store" });
      if (reply.status === 200) {
        show(new DOMParser().parseFromString(await reply.text(), "text/html").querySelector("main"));
      }
      const current = reply.ok || reply.status === 304;
      failures = current ? 0 : failures + 1;
      say(current ? "live" : reply.status === 404 ? "gone" : `the server answers ${reply.status}`, current);
    } catch {
      failures += 1;
      say("the server does not answer", false);
    }
    asking = false;
  }
  const seconds = Number(document.querySelector("main").dataset.refresh) * 2 ** Math.min(failures, 5);
  timer = setTimeout(refresh, 1000 * seconds);
}

function show(fresh) {
  const old = document.querySelector("main");
  // Pictures that have not changed stay as they are: they would be loaded again, and flicker.
  const there = new Map(Array.from(old.querySelectorAll("img"), (image) => [image.getAttribute("src"), image]));
  for (const image of fresh.querySelectorAll("img")) {
    const same = there.get(image.getAttribute("src"));
    if (same) image.replaceWith(same);
  }
  old.replaceWith(document.adoptNode(fresh));
}

// Hidden pages ask for nothing, and are shown as they are now when they are looked at again.
document.addEventListener("visibilitychange", refresh);
say("live", true);
timer = setTimeout(refresh, 1000 * Number(document.querySelector("main").dataset.refresh));
