"""What is needed of a browser's remote control, whichever protocol it speaks."""

from __future__ import annotations

from abc import ABC, abstractmethod


class BrowserLost(Exception):
    """The browser or its page is gone, or does not answer; the message says how."""


class Control(ABC):
    """The remote control of one browser. Nothing of a model travels through it."""

    @abstractmethod
    def fileno(self) -> int:
        """A descriptor that is readable when the browser has something to say, or is gone."""

    @abstractmethod
    def open(self, url: str, timeout: float) -> None:
        """Opens the page. Raises BrowserLost."""

    @abstractmethod
    def pump(self) -> None:
        """Reads what there is to read. Raises BrowserLost when it says that the page or the browser is gone."""

    @abstractmethod
    def screenshot(self, timeout: float) -> bytes:
        """The page as a PNG. Raises BrowserLost."""

    @abstractmethod
    def close(self) -> None:
        """Frees what the control holds; the browser is ended by whoever started it."""
