"""Starts a browser without a window, with a profile of its own that is gone afterwards."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from accel.core.browser.finding import Browser
from accel.core.errors import UnavailableError

#: seconds that the guardian may take to kill a browser and remove its profile
ENDING_S = 10.0
#: bytes of a folder's path that leave room for the profile's name and that of Chromium's socket in it
_LONGEST = 32
_GUARDIAN = Path(__file__).with_name("guardian.py")
#: nothing of these is wanted: no talk to the vendor, no questions, no extensions
_CHROMIUM = (
    "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check", "--disable-extensions",
    "--disable-default-apps", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-quic", "--disable-domain-reliability", "--disable-breakpad", "--disable-crash-reporter", "--no-pings",
    "--disable-client-side-phishing-detection", "--password-store=basic", "--use-mock-keychain", "--mute-audio",
    # a page that nobody sees must not be slowed down
    "--disable-background-timer-throttling", "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    # no name resolves and no proxy is asked: the page has our server and nothing else
    "--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip
_FEATURES = ("WebMachineLearningNeuralNetwork",)
_FIREFOX: dict[str, object] = {
    "dom.webgpu.enabled": True,
    "gfx.webgpu.ignore-blocklist": True,
    "dom.max_script_run_time": 0,
    "dom.ipc.processHangMonitor": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0,
    "browser.startup.homepage_override.mstone": "ignore",
    "startup.homepage_welcome_url": "",
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.enabled": False,
    "app.update.enabled": False,
    "app.normandy.enabled": False,
    "extensions.update.enabled": False,
    "extensions.systemAddon.update.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.region.network.url": "",
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "http://127.0.0.1:1/",
    # nothing but this machine: everything else goes to a proxy that is not there
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 1,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 1,
    "network.proxy.no_proxies_on": "127.0.0.1, localhost",
    "network.dns.disabled": True,
    "browser.tabs.remote.autostart": True,
    "fission.autostart": False,
    "dom.ipc.processPrelaunch.enabled": False,
    "browser.sessionstore.resume_from_crash": False,
    "toolkit.startup.max_resumed_crashes": -1,
}


def short_folder(chosen: str | None = None) -> str:
    """The folder for profiles: the system's for temporary files, or `/tmp` where its name is too long.

    Chromium makes a socket in it and crashes when the path has more than the 107 bytes that a socket's name may have.
    """
    folder = chosen or tempfile.gettempdir()
    too_long = len(os.fsencode(folder)) > _LONGEST
    return "/tmp" if too_long and os.access("/tmp", os.W_OK | os.X_OK) else folder


def unsandboxed() -> bool:
    """Whether browsers have to run without their sandbox here: Chromium refuses to start as root with it."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def has_gpu(root: str = "") -> bool:
    """Whether there is a graphics processor that a browser could use; outside Linux there always is."""
    if sys.platform != "linux":
        return True
    with contextlib.suppress(OSError):
        return any(node.name.startswith("renderD") for node in Path(f"{root}/dev/dri").iterdir())
    return False


def arguments(browser: Browser, profile: Path, *, gpu: bool, headless: bool = True) -> list[str]:
    """The command line that starts a browser with this profile.

    Args:
        gpu: WebGPU or WebNN is wanted. headless: no window.
    """
    unseen = ["--headless"] if headless else []
    if browser.kind == "firefox":
        return [
            browser.path, *unseen, "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0",
            "about:blank",
        ]  # fmt: skip
    features = [*_FEATURES, "Vulkan"] if has_gpu() and sys.platform == "linux" else list(_FEATURES)
    flags = [*unseen, *_CHROMIUM, "--enable-unsafe-webgpu", f"--enable-features={','.join(features)}"]
    if not gpu:
        # it starts sooner
        flags.append("--disable-gpu")
    if unsandboxed():
        flags.append("--no-sandbox")
    return [browser.path, *flags, f"--user-data-dir={profile}", "about:blank"]


class Launched:
    """A running browser.

    Attributes:
        profile: its profile folder. pipes: (read end, write end) of its debugging pipe; None for Firefox.
    """

    def __init__(self, browser: Browser, *, gpu: bool = True, headless: bool = True) -> None:
        self.browser = browser
        self.profile = Path(tempfile.mkdtemp(prefix="accel-browser-", dir=short_folder()))
        self.pipes: tuple[int, int] | None = None
        # nowhere in the profile, which may be gone before anybody asks
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the browser
        theirs = (-1, -1)
        try:
            (self.profile / "tmp").mkdir()
            if browser.kind == "firefox":
                (self.profile / "user.js").write_text(_preferences())
            else:
                to_browser, from_browser = os.pipe(), os.pipe()
                self.pipes, theirs = (from_browser[0], to_browser[1]), (to_browser[0], from_browser[1])
            self._guardian = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(_GUARDIAN), str(self.profile), *map(str, theirs)),
                    *arguments(browser, self.profile, gpu=gpu, headless=headless),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                env=self._environment(),
                pass_fds=[fd for fd in theirs if fd >= 0],
                # a Ctrl-C of the terminal is for accel, which then ends the browser
                start_new_session=True,
            )
        except OSError as error:
            self._remove()
            raise UnavailableError(
                f"{browser.path} could not be started: {error.strerror or error}", "see accel detect for browsers"
            ) from error
        finally:
            for fd in theirs:
                if fd >= 0:
                    os.close(fd)

    def _environment(self) -> dict[str, str]:
        """Everything that a browser may want to write goes into the profile folder."""
        folder = str(self.profile)
        moved = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"), folder)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MOZ_", "IPFS_ACCELERATE_", "DBUS_"))}
        # a profile without a display needs no accessibility or desktop services
        return {**kept, **moved, "TMPDIR": f"{folder}/tmp", "MOZ_CRASHREPORTER_DISABLE": "1", "NO_AT_BRIDGE": "1"}

    @property
    def running(self) -> bool:
        """Whether the browser has not ended."""
        return self._guardian.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the guardian, whose children the browser's processes are."""
        return self._guardian.pid

    def output(self) -> str:
        """What the browser wrote to its standard error so far; nothing once it was closed."""
        if self._said.closed:
            return ""
        return os.pread(self._said.fileno(), 1 << 20, 0).decode("utf-8", "replace")

    def said(self) -> str:
        """The last line of substance that the browser wrote."""
        # a browser without a desktop complains of that all the time
        lines = [line.strip() for line in self.output().splitlines() if line.strip() and "dbus/" not in line]
        return lines[-1][:200] if lines else ""

    def close(self) -> None:
        """Ends the browser and removes its profile. Safe to call twice."""
        for fd in self.pipes or ():
            with contextlib.suppress(OSError):
                os.close(fd)
        self.pipes = None
        if self._guardian.stdin is not None and not self._guardian.stdin.closed:
            with contextlib.suppress(OSError):
                self._guardian.stdin.close()
        try:
            self._guardian.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self._guardian.kill()
            self._guardian.wait()
        self._said.close()
        self._remove()

    def _remove(self) -> None:
        if self.profile.exists():
            import shutil

            shutil.rmtree(self.profile, ignore_errors=True)


def _preferences() -> str:
    import json

    return "".join(f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in _FIREFOX.items())
