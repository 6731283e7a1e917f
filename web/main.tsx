import "./style.css";
import { render } from "preact";
import { App } from "./parts/app.tsx";
import { takeToken } from "./session.ts";
import { followRoute } from "./state/route.ts";

takeToken();
followRoute();
const root = document.getElementById("page");
if (root !== null) render(<App />, root);
