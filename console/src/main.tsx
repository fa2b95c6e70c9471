import { render } from "preact";
import { App } from "./app";
import { feed } from "./live";
import "./style.css";

feed.open();
render(<App />, document.getElementById("app") as HTMLElement);
