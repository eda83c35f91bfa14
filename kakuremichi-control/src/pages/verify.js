import { onSubmit, secret } from "./pages.js";

onSubmit("api/v1/verifications", () => ({ verification: secret }));
