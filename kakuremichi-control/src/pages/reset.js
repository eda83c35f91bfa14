import { onSubmit, secret } from "./pages.js";

const code = document.getElementById("code");

onSubmit(
  "api/v1/password-resets/complete",
  (fields) => ({
    reset: secret,
    password: fields.get("password"),
    ...(fields.get("code") && { code: fields.get("code") }),
  }),
  (told) => {
    if (told.code !== "KKM-A012") {
      return false;
    }
    code.hidden = false;
    code.querySelector("input").focus();
    return true;
  },
);
