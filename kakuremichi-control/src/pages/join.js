import { onSubmit, secret } from "./pages.js";

onSubmit("api/v1/invitations/accept", (fields) => ({
  invitation: secret,
  name: fields.get("name"),
  password: fields.get("password"),
  ...(fields.get("email") && { email: fields.get("email") }),
}));
