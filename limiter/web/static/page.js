// Keeps what is shown up to date, and saves forms in place. It knows no limits: every answer is a
// whole page made by the server, from which it takes the parts that it replaces. Without it every
// link and form works, as a page load.
//
//   data-live    (with an id)  replaced by the part of that id of a newer page
//   data-field   (with an id)  replaced only by the answer to the form that it is in
//   data-grows   (with an id)  a list that takes in rows that it does not have yet
//   data-open                  a button that fetches and shows what is below a chat
"use strict";

(() => {
  const REFRESHED_MAX = 12;
  const notice = () => document.getElementById("notice");
  let saving = 0;
  let ended = false;

  const parsed = (text) => new DOMParser().parseFromString(text, "text/html");

  const tell = (text) => {
    const line = document.createElement("p");
    line.className = "notice bad";
    line.textContent = text;
    notice().replaceChildren(line);
  };

  // Nothing that was typed is lost: signing in happens elsewhere, and the forms get a new token.
  function tellEnded() {
    if (ended && notice().childElementCount) return;
    ended = true;
    tell("Your session has ended. What you typed stays here. ");
    const link = document.createElement("a");
    link.href = "/sign-in";
    link.target = "_blank";
    link.textContent = "Sign in in another tab";
    notice().firstElementChild.append(link, ", then save again.");
  }

  function take(fresh, element) {
    const other = element.id && fresh.getElementById(element.id);
    if (!other || element.isEqualNode(other)) return;
    // What reads a page out listens to this very element.
    if (element === notice()) element.replaceChildren(...other.children);
    else element.replaceWith(document.adoptNode(other));
  }

  function takeLive(fresh, isAnswer) {
    for (const element of document.querySelectorAll("[data-live]")) {
      // What somebody is using stays, and so does what was said about their form.
      const inUse = element.contains(document.activeElement) || element === notice();
      if (isAnswer || !inUse) take(fresh, element);
    }
    // The answer to a form may show another part of the list.
    for (const list of isAnswer ? [] : document.querySelectorAll("[data-grows]")) {
      let last = null;
      for (const row of fresh.getElementById(list.id)?.children ?? []) {
        const known = document.getElementById(row.id);
        if (known) last = known;
        else {
          const added = document.importNode(row, true);
          if (last) last.after(added);
          else list.prepend(added);
          last = added;
        }
      }
    }
    const token = fresh.querySelector("input[name=csrf]")?.value;
    if (token) {
      for (const input of document.querySelectorAll("input[name=csrf]")) input.value = token;
    }
    ready();
  }

  // ------------------------------------------------------------------ forms

  async function send(form) {
    const button = form.querySelector("button[type=submit]");
    const label = button.textContent;
    saving += 1;
    form.setAttribute("aria-busy", "true");
    button.setAttribute("aria-disabled", "true");
    button.textContent = button.dataset.busy;
    try {
      if (ended) await refresh();
      const answer = await fetch(form.action, {
        method: "POST",
        body: new URLSearchParams(new FormData(form)),
      });
      const fresh = parsed(await answer.text());
      if (!fresh.getElementById("notice")) throw new Error("not a page");
      if (answer.status === 401) {
        tellEnded();
        return;
      }
      for (const field of form.querySelectorAll("[data-field]")) take(fresh, field);
      takeLive(fresh, true);
      // A page of its own that says why, in its first words.
      if (!answer.ok && !notice().childElementCount) {
        tell(fresh.querySelector("h1 + p")?.textContent ?? "That did not work.");
      }
      settle(form, answer.ok);
    } catch {
      tell("The service did not answer, so it is not known whether that was saved. Try again.");
    } finally {
      saving -= 1;
      form.removeAttribute("aria-busy");
      button.removeAttribute("aria-disabled");
      button.textContent = label;
    }
  }

  function settle(form, ok) {
    const wrong = form.querySelector("[aria-invalid=true]");
    if (wrong) {
      wrong.focus();
      return;
    }
    const details = form.closest("details.edit");
    if (ok && details) {
      details.open = false;
      details.querySelector("summary").focus();
    }
    if (!form.isConnected) document.getElementById(form.dataset.then)?.focus();
  }

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post" || form.dataset.whole !== undefined) return;
    event.preventDefault();
    if (!form.hasAttribute("aria-busy")) send(form);
  });

  // ------------------------------------------------------------------ chat trees

  const below = (button) => document.getElementById(button.getAttribute("aria-controls"));

  async function open(button) {
    const list = below(button);
    const opens = button.getAttribute("aria-expanded") === "false";
    button.setAttribute("aria-expanded", String(opens));
    list.hidden = !opens;
    if (!opens || list.childElementCount) return;
    list.innerHTML = '<li class="empty" role="status">Loading…</li>';
    try {
      const answer = await fetch(button.dataset.open);
      const fresh = parsed(await answer.text());
      const children = fresh.getElementById("children");
      if (!answer.ok || !children) throw new Error("no children");
      const more = fresh.querySelector(".more a");
      list.replaceChildren(...children.children);
      if (more) {
        const row = document.createElement("li");
        row.append(more);
        list.append(row);
      }
      ready();
    } catch {
      list.innerHTML = '<li class="empty" role="alert">The sub-chats did not come. Close and open to try again.</li>';
      button.addEventListener("click", () => list.replaceChildren(), { once: true });
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-open]");
    if (button) open(button);
  });

  function ready() {
    for (const button of document.querySelectorAll("[data-open][hidden]")) button.hidden = false;
  }

  // ------------------------------------------------------------------ refreshing

  async function refresh() {
    const opened = document.querySelectorAll("[data-open][aria-expanded=true]");
    const here = new URL(location);
    here.searchParams.delete("notice");
    const addresses = [here];
    for (const button of [...opened].slice(0, REFRESHED_MAX)) addresses.push(button.dataset.open);
    for (const address of addresses) {
      const answer = await fetch(address);
      const text = await answer.text();
      // A form that was sent meanwhile has been answered with something newer.
      if (saving && !ended) return;
      if (answer.status === 401) {
        tellEnded();
        return;
      }
      if (ended) {
        ended = false;
        notice().replaceChildren();
      }
      if (answer.ok) takeLive(parsed(text), false);
    }
    document.documentElement.classList.remove("stale");
  }

  const every = Number(document.body.dataset.refreshMs);
  async function tick() {
    if (!document.hidden && !saving) {
      try {
        await refresh();
      } catch {
        document.documentElement.classList.add("stale");
      }
    }
    setTimeout(tick, every);
  }

  ready();
  if (every) setTimeout(tick, every);
})();
