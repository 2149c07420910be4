"""An embedding by transformers.js on WebAssembly in a headless Chromium that playwright drives."""

import functools
import http.server
import json
import sys
import threading

from playwright.sync_api import sync_playwright

folder, browser, text = sys.argv[1:]


class Isolated(http.server.SimpleHTTPRequestHandler):
    """WebAssembly has threads only in a page that is isolated."""

    def end_headers(self):
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_):
        pass


EMBED = """async (text) => {
  const { AutoModel, AutoTokenizer, env } = await import('/transformers.min.js');
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = '/models/';
  env.useBrowserCache = false;
  env.backends.onnx.wasm.wasmPaths = '/ort/';
  const tokenizer = await AutoTokenizer.from_pretrained('all-minilm');
  const model = await AutoModel.from_pretrained('all-minilm', { device: 'wasm', dtype: 'fp32' });
  const { sentence_embedding } = await model(await tokenizer(text));
  return Array.from(sentence_embedding.data);
}"""

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Isolated, directory=folder))
threading.Thread(target=server.serve_forever, daemon=True).start()
with sync_playwright() as playwright:
    chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
    page = chromium.new_page()
    page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
    print(json.dumps(page.evaluate(EMBED, text)))
    chromium.close()
