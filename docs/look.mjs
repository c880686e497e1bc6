// Every page of the built site in a browser, as wide as a desk's screen and as a phone's: pictures of each, light and
// dark, what axe-core has against it, and what sticks out of the screen; and a search. By hand, since it needs a Chromium:
//
//     npm install --no-save puppeteer-core axe-core
//     python -m sphinx -W -q -b html docs docs/_build && node docs/look.mjs docs/_build pictures [page ...]
//
// CHROMIUM names the browser. The exit code is 1 where something serious was found.
import { createServer } from "node:http";
import { mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { extname, join, relative, resolve } from "node:path";

const require = createRequire(join(process.cwd(), "package.json"));
const puppeteer = require("puppeteer-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [site, pictures, ...chosen] = process.argv.slice(2);
const TYPES = { ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".json": "application/json" };
const SERIOUS = ["serious", "critical"];

const root = resolve(site);
mkdirSync(pictures, { recursive: true });
const server = createServer((request, response) => {
    const path = join(root, decodeURIComponent(new URL(request.url, "http://localhost").pathname));
    try {
        const content = readFileSync(path);
        response.writeHead(200, { "Content-Type": TYPES[extname(path)] ?? "application/octet-stream" }).end(content);
    } catch {
        response.writeHead(404).end();
    }
}).listen(0, "127.0.0.1");
await new Promise((done) => server.once("listening", done));
const base = `http://127.0.0.1:${server.address().port}`;

const files = (folder) =>
    readdirSync(folder).flatMap((name) => {
        const path = join(folder, name);
        if (statSync(path).isDirectory()) return ["_static", "_sources"].includes(name) ? [] : files(path);
        return name.endsWith(".html") ? [relative(root, path)] : [];
    });
// Of the pages with source files, which are made alike, one stands for all.
const pages = chosen.length
    ? chosen
    : files(root).filter((page) => !page.startsWith("source/") || page === "source/src/crossentropy/api.py.html");

// What of the page is cut off at the right, with nothing around it that scrolls.
const cutOff = () => {
    const scrolls = (element) => ["auto", "scroll"].includes(getComputedStyle(element).overflowX);
    const reached = (element) => {
        for (let at = element; at && at.tagName !== "ARTICLE"; at = at.parentElement) if (scrolls(at)) return true;
        return false;
    };
    return [...document.querySelectorAll("article *:not(.headerlink), .prev-next-area *")]
        .filter((element) => element.getBoundingClientRect().right > window.innerWidth + 1 && !reached(element))
        .map((element) => element.outerHTML.slice(0, 100));
};

const browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox"],
});
let found = 0;
const tell = (page, width, text) => {
    found += 1;
    console.log(`${page} at ${width}: ${text}`);
};
for (const page of pages) {
    for (const width of [1280, 390]) {
        const tab = await browser.newPage();
        tab.on("pageerror", (error) => tell(page, width, error.message));
        await tab.setViewport({ width, height: 900 });
        await tab.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }]);
        await tab.goto(`${base}/${page}`, { waitUntil: "networkidle0" });
        const wide = await tab.evaluate(() => document.scrollingElement.scrollWidth - window.innerWidth);
        if (wide > 0) tell(page, width, `${wide} px wider than the screen`);
        const cut = await tab.evaluate(cutOff);
        if (cut.length > 0) tell(page, width, `${cut.length} elements are cut off: ${cut[0]}`);
        await tab.evaluate(axe);
        for (const scheme of ["light", "dark"]) {
            await tab.evaluate((mode) => (document.documentElement.dataset.theme = mode), scheme);
            const { violations } = await tab.evaluate(() => window.axe.run());
            for (const { id, impact, help, nodes } of violations) {
                const text = `${impact}: ${help} (${id}, ${scheme}), ${nodes.length} times: ${nodes[0].html.slice(0, 200)}`;
                if (SERIOUS.includes(impact)) tell(page, width, text);
                else if (process.env.ALL) console.log(`${page} at ${width}: ${text}`);
            }
            await tab.screenshot({ path: join(pictures, `${page.replaceAll("/", "-")}-${scheme}-${width}.png`), fullPage: true });
        }
        await tab.close();
    }
}

const tab = await browser.newPage();
await tab.goto(`${base}/search.html?q=label_smoothing`, { waitUntil: "networkidle0" });
await tab.waitForSelector("#search-results li", { timeout: 10000 }).catch(() => tell("search.html", 800, "finds nothing"));
const results = await tab.$$eval("#search-results li", (items) => items.length);
console.log(`${pages.length} pages at two widths, ${results} results of a search, ${found} findings`);
await browser.close();
server.close();
process.exit(found > 0 || results === 0 ? 1 : 0);
