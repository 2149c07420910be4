"""Browsers as devices: found by their files, started without a window, driven over pipes and sockets of this machine.

finding     where browsers are              launching   flags, profile, the guardian that cleans up
devtools    control of Chromium             bidi        control of Firefox
serving     the loopback server of the page channel     WebSocket messages over a plain socket
messages    tensors as bytes                pages       a browser with our page in it, answering calls
pool        pages that are reused           runtime     onnxruntime-web from npm
probing     what a browser really offers    choosing    which browser for which model
"""
