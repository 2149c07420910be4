"""Browsers as devices: found by their files, started without a window, driven over pipes and sockets of this machine.

- finding: where browsers are. launching: flags, profile, the guardian that cleans up.
- devtools, bidi: control of Chromium and of Firefox. channel: WebSocket messages over a plain socket.
- serving: the loopback server of the page. messages: tensors as bytes. pages: a browser with our page in it.
- runtime: onnxruntime-web from npm. pool: pages that are reused. audience: whether people see them.
- probing: what a browser really offers. choosing: which browser for which model.
"""
