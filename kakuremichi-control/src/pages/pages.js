// The secret of a link stands behind the `#`: a browser sends that part to nobody, so it is in no log.
export const secret = location.hash.slice(1);
history.replaceState(null, "", location.pathname);

const problem = document.getElementById("problem");

export const refuse = (text) => {
  problem.textContent = text;
  problem.hidden = false;
};

export const done = () => {
  document.querySelector("form").hidden = true;
  document.getElementById("done").hidden = false;
};

// Sends a form's fields, as `body` makes them, whenever the form is submitted. `refused` may take a refusal.
export const onSubmit = (path, body, refused = () => false) => {
  const form = document.querySelector("form");
  if (!secret) {
    refuse("The link is not whole: open it as it was given to you.");
  }
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.hidden = true;
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      const response = await fetch(path, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body(new FormData(form))),
      });
      if (response.ok) {
        done();
      } else {
        const told = await response.json();
        if (!refused(told)) {
          refuse(told.detail);
        }
      }
    } catch {
      refuse("The server cannot be reached.");
    } finally {
      button.disabled = false;
    }
  });
};
